"""DINO's loss: the formula pair by pair, its figures, the centre over micro-batches and ranks."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from dinosr_plugin.modules import dino_loss
from dinosr_plugin.modules.dino_loss import DinoLoss

V = 9


def logits(crops: int, rows: int = 4, seed: int = 0) -> torch.Tensor:
    """Cosines of (crops, rows, V)."""
    return torch.rand(crops, rows, V, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def with_centre() -> DinoLoss:
    loss = DinoLoss(V)
    loss.centre.copy_(logits(1, 1, seed=99).flatten())
    return loss


def by_pairs(centre, global_crops, local_crops, teacher) -> tuple[float, float, float]:
    """Of one utterance: crops (G, V), (L, V), (G, V) -> loss, entropy, divergence, one pair at a time, in float64."""
    pairs, divergences = [], []
    targets = [((crop.double() - centre.double()) / 0.04).softmax(0) for crop in teacher]
    for i, target in enumerate(targets):
        for j, crop in enumerate([*global_crops, *local_crops]):
            if i != j:  # the global crops are the first
                prediction = (crop.double() / 0.1).softmax(0)
                pairs.append(-(target * prediction.log()).sum().item())
                divergences.append((target * (target / prediction).log()).sum().item())
    entropies = [-(target * target.log()).sum().item() for target in targets]
    return sum(pairs) / len(pairs), sum(entropies) / len(entropies), sum(divergences) / len(divergences)


@settings(max_examples=30)
@given(n_global=st.integers(2, 3), n_local=st.integers(0, 4), rows=st.integers(1, 5), seed=st.integers(0, 999))
def test_it_equals_the_formula(n_global, n_local, rows, seed):
    crops = (logits(n_global, rows, seed), logits(n_local, rows, seed + 1), logits(n_global, rows, seed + 2))
    module = with_centre()
    found = module(*crops)
    assert found.loss.shape == found.entropy.shape == found.divergence.shape == (rows,)
    for row in range(rows):
        expected = by_pairs(module.centre, *(crop[:, row] for crop in crops))
        assert_close([float(figure[row]) for figure in found], list(expected), rtol=1e-4, atol=1e-4)


def test_ten_pairs_with_two_global_and_four_local_crops():
    """A local crop that is certain of a wrong output is one of the ten for each teacher crop."""
    certain = torch.zeros(1, V)
    certain[0, 0] = 4.0
    teacher = certain.roll(1, 1).expand(2, 1, V)  # targets: output 1
    even = torch.zeros(1, 1, V)
    found = DinoLoss(V)(even.expand(2, 1, V), torch.cat([certain.unsqueeze(0), even, even, even]), teacher)
    wrong = math.log(math.exp(40) + V - 1)
    assert_close(found.loss.item(), (8 * math.log(V) + 2 * wrong) / 10, rtol=1e-5, atol=0)


def test_rows_are_independent():
    crops = (logits(2), logits(4, seed=1), logits(2, seed=2))
    together = with_centre()(*crops)
    flipped = with_centre()(*(crop.flip(1) for crop in crops))
    for figure, other in zip(together, flipped):
        assert_close(other.flip(0), figure)
    for row in range(4):
        alone = with_centre()(*(crop[:, row : row + 1] for crop in crops))
        for figure, one in zip(together, alone):
            assert_close(one, figure[row : row + 1])


def test_a_collapse_shows_in_the_figures():
    same = logits(1, 1).expand(2, 4, V)
    uniform = DinoLoss(V)(torch.zeros(2, 4, V), torch.zeros(1, 4, V), torch.zeros(2, 4, V))
    assert_close(uniform.entropy, torch.full((4,), math.log(V)))
    assert_close(uniform.divergence, torch.zeros(4), rtol=0, atol=1e-5)
    one_output = DinoLoss(V)(50 * same, 50 * same[:1], 50 * same)
    assert_close(one_output.entropy, torch.zeros(4), rtol=0, atol=1e-4)
    assert_close(one_output.divergence, torch.zeros(4), rtol=0, atol=1e-4)


def test_only_the_student_has_a_gradient():
    global_crops, local_crops, teacher = (logits(n, seed=seed).requires_grad_() for seed, n in enumerate((2, 4, 2)))
    found = with_centre()(global_crops, local_crops, teacher)
    assert not found.entropy.requires_grad and not found.divergence.requires_grad
    found.loss.sum().backward()
    assert teacher.grad is None
    targets = with_centre().targets(teacher)  # (G, B, V)
    # of the cross-entropy with the mean of the targets: softmax minus target, for each pair
    expected = 2 * (local_crops.detach() / 0.1).softmax(-1) - targets.sum(0)
    assert_close(local_crops.grad, expected / 0.1 / 10)
    assert_close(global_crops.grad, ((global_crops.detach() / 0.1).softmax(-1) - targets.flip(0)) / 0.1 / 10)


def test_the_centre_moves_once_for_all_micro_batches():
    teacher = logits(2, 6)
    whole, parts = with_centre().train(), with_centre().train()
    before = whole.centre.clone()
    whole(logits(2, 6), logits(1, 6), teacher)
    assert torch.equal(whole.centre, before), "moved before the step"
    whole.step_()
    assert_close(whole.centre, 0.9 * before + 0.1 * teacher.mean((0, 1)))
    for part in teacher.split([1, 5], dim=1):
        rows = part.size(1)
        parts(logits(2, rows), logits(1, rows), part)
    parts.step_()
    assert_close(parts.centre, whole.centre)
    parts.step_()  # nothing new
    assert_close(parts.centre, whole.centre)


def test_validation_dummies_and_dropped_updates_do_not_move_the_centre():
    module = with_centre()
    before = module.centre.clone()
    crops = (logits(2), logits(1), logits(2))
    module.eval()(*crops)
    module.train()(*crops, counted=False)
    module.step_()
    module(*crops)
    module.forget_()
    module.step_()
    assert torch.equal(module.centre, before)


def test_ranks_move_their_centres_alike_with_one_collective(monkeypatch):
    """The second rank has no batch."""
    teacher = logits(2, 6)
    one = with_centre().train()
    one.collect(teacher)
    one.step_()
    ranks = [with_centre(), with_centre(), with_centre()]
    ranks[0].collect(teacher[:, :4])
    ranks[2].collect(teacher[:, 4:])
    empty = torch.zeros(V + 1)
    total = sum(empty if rank.pending is None else rank.pending for rank in ranks)
    calls = []
    monkeypatch.setattr(dino_loss, "distributed", lambda: True)
    monkeypatch.setattr(dino_loss.dist, "all_reduce", lambda tensor: calls.append(tensor.copy_(total)))
    for rank in ranks:
        rank.step_()
        assert_close(rank.centre, one.centre)
    assert len(calls) == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_float32_in_any_precision(dtype):
    crops = [crop.to(dtype) for crop in (logits(2), logits(4, seed=1), logits(2, seed=2))]
    expected = with_centre()(*(crop.float() for crop in crops))
    with torch.autocast("cpu", dtype):
        found = with_centre().to(dtype)(*crops)
    for figure, other in zip(expected, found):
        assert other.dtype == torch.float32 and torch.equal(figure, other)
    assert with_centre().to(dtype).centre.dtype == torch.float32


def test_the_centre_is_saved(tmp_path):
    assert list(with_centre().state_dict()) == ["centre"]
    torch.save(with_centre().state_dict(), tmp_path / "loss.pt")
    other = DinoLoss(V)
    other.load_state_dict(torch.load(tmp_path / "loss.pt", weights_only=True))
    assert torch.equal(other.centre, with_centre().centre)
