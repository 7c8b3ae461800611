"""Attentive statistics: the formula frame by frame, and no influence of padding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from dinosr_plugin.modules.pooling import AttentiveStatistics

C, A = 6, 5
CONTEXT = pytest.mark.parametrize("global_context", [True, False])


def pooling(global_context: bool = True, training: bool = False) -> AttentiveStatistics:
    torch.manual_seed(0)
    module = AttentiveStatistics(C, A, global_context)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.2, 1.5)
    torch.nn.init.normal_(module.hidden.weight)
    torch.nn.init.normal_(module.scores.weight)
    return module.train(training)


def frames(rows: int = 3, length: int = 11, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, C, length, generator=torch.Generator().manual_seed(seed)) * 2 + 1


def plain(module: AttentiveStatistics, x: torch.Tensor) -> torch.Tensor:
    """One utterance (C, F) -> (2 C,), in eval mode, one frame and one channel at a time."""
    p = {name: tensor.squeeze(-1) if tensor.dim() == 3 else tensor for name, tensor in module.state_dict().items()}
    scores = []
    for frame in x.T:
        context = [x.mean(1), x.std(1, correction=0)] if module.global_context else []
        hidden = (p["hidden.weight"] @ torch.cat([frame, *context]) + p["hidden.bias"]).clamp(min=0)
        normed = (hidden - p["norm.running_mean"]) / (p["norm.running_var"] + 1e-5).sqrt()
        normed = normed * p["norm.weight"] + p["norm.bias"]
        scores.append(p["scores.weight"] @ normed.tanh() + p["scores.bias"])
    weights = torch.stack(scores).exp()  # (F, C)
    means, deviations = [], []
    for c in range(C):
        share = weights[:, c] / weights[:, c].sum()
        means.append((share * x[c]).sum())
        deviations.append(((share * x[c].square()).sum() - means[-1].square()).sqrt())
    return torch.stack(means + deviations)


@CONTEXT
def test_it_equals_the_formula(global_context):
    module = pooling(global_context)
    found = module(frames())
    assert found.shape == (3, 2 * C)
    assert_close(found, torch.stack([plain(module, x) for x in frames()]), rtol=1e-4, atol=1e-4)


@CONTEXT
@settings(max_examples=30)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), more=st.integers(0, 5), seed=st.integers(0, 999))
def test_padding_has_no_influence(global_context, lengths, more, seed):
    module = pooling(global_context)
    width = max(lengths) + more
    x = frames(len(lengths), width, seed)
    valid = torch.arange(width) < torch.tensor(lengths).unsqueeze(1)
    found = module(x.masked_fill(~valid.unsqueeze(1), float("nan")), valid)
    for row, length in enumerate(lengths):
        assert_close(found[row], module(x[row : row + 1, :, :length])[0], rtol=1e-4, atol=1e-4)


@CONTEXT
def test_padding_has_no_influence_in_training(global_context):
    """On outputs, gradients and running averages: batch norm sees the valid frames only."""
    results = []
    for padding, value in ((0, 0.0), (4, 0.0), (7, 1e6)):
        module = pooling(global_context, training=True)
        x = torch.nn.functional.pad(frames(), (0, padding), value=value).requires_grad_()
        valid = torch.arange(11 + padding) < torch.tensor([[11], [4], [8]])
        found = module(x, valid)
        (found * torch.arange(2.0 * C)).sum().backward()
        assert (x.grad.masked_select(~valid.unsqueeze(1)) == 0).all()
        gradients = [p.grad for p in module.parameters()]
        results.append([found, x.grad[:, :, :11], *gradients, module.norm.running_mean, module.norm.running_var])
    for first, *others in zip(*results):
        for other in others:
            assert_close(other, first, rtol=1e-3, atol=1e-3)


def test_a_mask_of_valid_frames_only_changes_nothing():
    for training in (True, False):
        plain_module, masked = pooling(training=training), pooling(training=training)
        found = masked(frames(), torch.ones(3, 11, dtype=torch.bool))
        assert_close(found, plain_module(frames()), rtol=1e-5, atol=1e-5)
        for one, other in zip(plain_module.state_dict().values(), masked.state_dict().values()):
            assert_close(one, other)


def test_frames_may_be_permuted_in_time():
    order = torch.randperm(11, generator=torch.Generator().manual_seed(1))
    assert_close(pooling()(frames()[:, :, order]), pooling()(frames()))


@pytest.mark.parametrize("x", [torch.zeros(2, C, 5), torch.ones(2, C, 1), torch.full((2, C, 5), 1e4)])
def test_constant_frames_have_finite_gradients(x):
    module = pooling(training=True)
    x = x.clone().requires_grad_()
    found = module(x)
    found.sum().backward()
    assert found.isfinite().all() and x.grad.isfinite().all()


def test_statistics_are_float32_under_autocast():
    """In bfloat16, with 8 bits, the deviation of 100 +- 0.1 would be 0 or 0.5."""
    x = 100 + 0.1 * torch.randn(2, C, 50, generator=torch.Generator().manual_seed(0))
    module = pooling()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = module(x)
    assert found.dtype == torch.float32
    assert_close(found[:, C:], x.std(2, correction=0), rtol=0.5, atol=0)


def test_names_and_sizes_of_the_parameters():
    shapes = {name: tuple(p.shape) for name, p in pooling().named_parameters()}
    norm = {"norm.weight": (A,), "norm.bias": (A,)}
    hidden = {"hidden.weight": (A, 3 * C, 1), "hidden.bias": (A,)}
    assert shapes == hidden | norm | {"scores.weight": (C, A, 1), "scores.bias": (C,)}
    assert pooling(global_context=False).hidden.weight.shape == (A, C, 1)
