"""Batch norm over ranks: equal to PyTorch's on one rank; two ranks equal one; padding and dummies do not count."""

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from dinosr_plugin.modules.ecapa import EcapaTdnn
from dinosr_plugin.modules.synced_batch_norm import SyncedBatchNorm1d, batch_statistics, set_counted
from support.two_ranks import results_of_two_ranks

C = 5
RANKS = (slice(0, 3), slice(3, 8))  # the rows of each rank
SIZES = dict(
    n_mels=C, channels=(8, 8, 8), kernels=(5, 3, 1), dilations=(1, 2, 1), res2net_scale=4, se_width=3,
    attention_width=5, embedding_dim=6,
)  # fmt: skip


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def data(*shape: int, seed: int = 0) -> torch.Tensor:
    """Far from mean 0: variances computed from sums of squares in float32 would be wrong."""
    return noise(*shape, seed=seed) + 300


def ready(module: nn.BatchNorm1d) -> nn.BatchNorm1d:
    """Weights and running averages that are not those of a new module."""
    generator = torch.Generator().manual_seed(7)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return module


def encoder() -> EcapaTdnn:
    torch.manual_seed(0)
    return EcapaTdnn(**SIZES)


def results(module: nn.Module, x: torch.Tensor, target: torch.Tensor, *args, weight: float = 1.0) -> dict:
    """Output, gradients and buffers after one training step's forward and backward pass."""
    x = x.clone().requires_grad_()
    output = module(x, *args)
    (weight * (output * target).sum()).backward()
    return {
        "output": output.detach(),
        "input gradient": x.grad,
        "gradients": [p.grad for p in module.parameters()],
        "buffers": [buffer.clone() for buffer in module.buffers()],
    }


def valid_frames() -> torch.Tensor:
    return torch.arange(6) < torch.tensor([6, 2, 5, 1, 6, 3, 4, 6]).unsqueeze(1)


# ---- one rank --------------------------------------------------------------------------------------------------------


@given(rows=st.integers(2, 6), frames=st.integers(0, 5), training=st.booleans(), seed=st.integers(0, 999))
def test_on_one_rank_it_is_batch_norm(rows, frames, training, seed):
    shape = (rows, C, frames) if frames else (rows, C)
    theirs = results(ready(nn.BatchNorm1d(C)).train(training), data(*shape, seed=seed), noise(*shape))
    ours = results(ready(SyncedBatchNorm1d(C)).train(training), data(*shape, seed=seed), noise(*shape))
    for part in theirs:
        assert_close(ours[part], theirs[part], rtol=0, atol=0)


def test_parameters_and_buffers_are_those_of_batch_norm():
    theirs, ours = nn.BatchNorm1d(C), SyncedBatchNorm1d(C)
    theirs.load_state_dict(ours.state_dict())
    for (name, one), (other_name, other) in zip(theirs.state_dict().items(), nn.BatchNorm1d(C).state_dict().items()):
        assert name == other_name and torch.equal(one, other)


def compare_with_valid_frames(found: dict, where: torch.Tensor):
    """With torch's batch norm on the valid frames alone, as rows (N, C)."""
    rows = data(8, C, 6).transpose(1, 2)[where]
    targets = noise(8, C, 6, seed=1).transpose(1, 2)[where]
    expected = results(ready(nn.BatchNorm1d(C)), rows, targets)
    for part in ("output", "input gradient"):
        assert_close(found[part].transpose(1, 2)[where], expected[part], rtol=1e-3, atol=1e-3)
    for part in ("gradients", "buffers"):
        assert_close(found[part], expected[part], rtol=1e-3, atol=1e-3)


def test_padding_does_not_count():
    where = valid_frames()
    x = data(8, C, 6).masked_fill(~where.unsqueeze(1), float("nan"))
    target = noise(8, C, 6, seed=1).masked_fill(~where.unsqueeze(1), 0)
    module = ready(SyncedBatchNorm1d(C))
    output = module(x, where)
    assert output.transpose(1, 2)[where].isfinite().all()
    found = results(ready(SyncedBatchNorm1d(C)), data(8, C, 6), target, where)
    compare_with_valid_frames(found, where)
    assert_close(list(module.buffers()), found["buffers"])


@pytest.mark.parametrize("ranks", ["one", "several"])
def test_batch_statistics_in_eval_mode(ranks, monkeypatch):
    """The output is that in training; the buffers stay, and afterwards the module is in eval mode again."""
    monkeypatch.setattr("dinosr_plugin.modules.synced_batch_norm.distributed", lambda: ranks == "several")
    monkeypatch.setattr("dinosr_plugin.modules.synced_batch_norm.dist.all_reduce", lambda tensor: None)
    module, x = nn.Sequential(ready(SyncedBatchNorm1d(C))).eval(), noise(8, C, 6)
    before, averages = module(x), [buffer.clone() for buffer in module.buffers()]
    with batch_statistics(module):
        found = module(x)
    assert_close(list(module.buffers()), averages, rtol=0, atol=0)
    assert_close(module(x), before, rtol=0, atol=0)
    assert_close(found, module.train()(x))
    assert not torch.allclose(found, before)


def test_a_dummy_leaves_the_running_averages():
    module = ready(SyncedBatchNorm1d(C))
    set_counted(nn.Sequential(module), False)
    before = [buffer.clone() for buffer in module.buffers()]
    found = results(module, data(2, C, 6), data(2, C, 6), weight=0.0)
    assert all(torch.equal(one, other) for one, other in zip(found["buffers"], before))
    assert found["output"].isfinite().all()
    assert all((gradient == 0).all() for gradient in [found["input gradient"], *found["gradients"]])
    set_counted(nn.Sequential(module), True)
    module(data(2, C, 6))
    assert not torch.equal(module.running_mean, before[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_are_float32_in_half_precision(dtype):
    x = noise(8, C, 6).to(dtype)
    every = torch.ones(8, 6, dtype=torch.bool)
    module = ready(SyncedBatchNorm1d(C))
    with torch.autocast("cpu", dtype):
        found = module(x, every)
    assert found.dtype == dtype
    expected = ready(nn.BatchNorm1d(C))
    assert_close(found, expected(x.float()).to(dtype))
    assert_close(list(module.buffers()), list(expected.buffers()))
    half = ready(SyncedBatchNorm1d(C).to(dtype))  # the parameters too
    assert_close(half(x, every).float(), expected(x.float()), rtol=0.03, atol=0.03)
    assert half.running_mean.dtype == dtype


# ---- two ranks -------------------------------------------------------------------------------------------------------


def one_of_two_ranks(rank: int, folder: str):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    calls, all_reduce = [], dist.all_reduce
    dist.all_reduce = lambda tensor: (calls.append(tuple(tensor.shape)), all_reduce(tensor))[1]
    rows = RANKS[rank]
    x, target = data(8, C, 6), noise(8, C, 6, seed=1)
    result = {"batch": results(ready(SyncedBatchNorm1d(C)), x[rows], target[rows])}
    result["calls"] = list(calls)

    one_row = slice(rank, rank + 1)
    result["vectors"] = results(ready(SyncedBatchNorm1d(C)), x[one_row, :, 0], target[one_row, :, 0])

    valid = valid_frames()
    masked = target.masked_fill(~valid.unsqueeze(1), 0)
    result["padding"] = results(ready(SyncedBatchNorm1d(C)), x[rows], masked[rows], valid[rows])

    model = encoder()
    result["encoder"] = results(model, noise(8, C, 6)[rows], noise(8, 6, seed=1)[rows])

    for name, counts in (("dummy", (True, False)), ("dummies", (False, False))):
        model = encoder()
        set_counted(model, counts[rank])
        weight = float(counts[rank])
        result[name] = results(model, noise(8, C, 6)[rows], noise(8, 6, seed=1)[rows], weight=weight)

    calls.clear()
    ready(SyncedBatchNorm1d(C)).eval()(x[rows])
    result["calls in eval mode"] = list(calls)
    torch.save(result, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    return results_of_two_ranks(one_of_two_ranks, tmp_path_factory)


def joined(two_ranks: list[dict], scenario: str) -> dict:
    """The results of two ranks as those of one; gradients of parameters are added, as for the sum of the losses."""
    first, second = (rank[scenario] for rank in two_ranks)
    assert all(torch.equal(one, other) for one, other in zip(first["buffers"], second["buffers"]))
    return {
        "output": torch.cat([first["output"], second["output"]]),
        "input gradient": torch.cat([first["input gradient"], second["input gradient"]]),
        "gradients": [one + other for one, other in zip(first["gradients"], second["gradients"])],
        "buffers": first["buffers"],
    }


def test_two_ranks_equal_one(two_ranks):
    expected = results(ready(nn.BatchNorm1d(C)), data(8, C, 6), noise(8, C, 6, seed=1))
    found = joined(two_ranks, "batch")
    for part in expected:
        assert_close(found[part], expected[part], rtol=1e-3, atol=1e-3)


def test_one_collective_in_each_direction(two_ranks):
    for rank in two_ranks:
        assert rank["calls"] == [(1 + 2 * C,)] * 2
        assert rank["calls in eval mode"] == []


def test_ranks_with_one_row_each(two_ranks):
    expected = results(ready(nn.BatchNorm1d(C)), data(8, C, 6)[:2, :, 0], noise(8, C, 6, seed=1)[:2, :, 0])
    found = joined(two_ranks, "vectors")
    for part in expected:
        assert_close(found[part], expected[part], rtol=1e-3, atol=1e-3)


def test_padding_does_not_count_over_ranks(two_ranks):
    compare_with_valid_frames(joined(two_ranks, "padding"), valid_frames())


def test_an_encoder_on_two_ranks_equals_one(two_ranks):
    x, target = noise(8, C, 6), noise(8, 6, seed=1)
    expected = results(encoder(), x, target)
    found = joined(two_ranks, "encoder")
    for part in expected:
        assert_close(found[part], expected[part], rtol=1e-3, atol=1e-4)


def test_a_dummy_on_one_rank_does_not_count(two_ranks):
    x, target = noise(8, C, 6)[RANKS[0]], noise(8, 6, seed=1)[RANKS[0]]
    expected = results(encoder(), x, target)
    found = joined(two_ranks, "dummy")
    for part in ("output", "input gradient"):
        assert_close(found[part][RANKS[0]], expected[part], rtol=1e-3, atol=1e-4)
    assert (found["input gradient"][RANKS[1]] == 0).all()
    for part in ("gradients", "buffers"):
        assert_close(found[part], expected[part], rtol=1e-3, atol=1e-4)


def test_only_dummies_change_nothing(two_ranks):
    for rank in two_ranks:
        before = list(encoder().buffers())
        assert all(torch.equal(one, other) for one, other in zip(rank["dummies"]["buffers"], before))
        assert rank["dummies"]["output"].isfinite().all()
        assert all((gradient == 0).all() for gradient in rank["dummies"]["gradients"])
