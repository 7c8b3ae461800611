"""Sinkhorn's algorithm: published values, a plain implementation, the totals of rows and columns, precision."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from dinosr_plugin.modules.sinkhorn import MAX_SCALE, sinkhorn
from support import plain_spin

SCORES = torch.tensor([[0.9, 0.1], [0.8, 0.3], [0.7, 0.5], [0.2, 0.6]])
EXPECTED = {
    0.1: [[0.99125, 0.00875], [0.84946, 0.15054], [0.21932, 0.78068], [0.00070, 0.99930]],
    0.02: [[1, 0], [0.99995, 0.00005], [0.00661, 0.99339], [0, 1]],
}
SIZES = st.tuples(st.integers(1, 12), st.integers(2, 9))
SEEDS = st.integers(0, 2**32)


def cosines(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("epsilon", EXPECTED)
def test_values_computed_by_hand(epsilon):
    assert_close(sinkhorn(SCORES, epsilon, 3), torch.tensor(EXPECTED[epsilon]), rtol=0, atol=1e-5)


@given(size=SIZES, seed=SEEDS, epsilon=st.floats(0.02, 1), iterations=st.integers(1, 8))
def test_it_equals_the_plain_algorithm(size, seed, epsilon, iterations):
    scores = cosines(*size, seed=seed)
    expected = plain_spin.sinkhorn(scores.double(), epsilon, iterations).float()
    assert_close(sinkhorn(scores, epsilon, iterations), expected, rtol=1e-4, atol=1e-5)


@given(size=SIZES, seed=SEEDS, epsilon=st.floats(1 / MAX_SCALE, 10), iterations=st.integers(1, 8))
def test_every_row_sums_to_1(size, seed, epsilon, iterations):
    assignments = sinkhorn(cosines(*size, seed=seed), epsilon, iterations)
    assert (assignments >= 0).all()
    assert_close(assignments.sum(1), torch.ones(size[0]), rtol=0, atol=1e-5)


@given(size=SIZES, seed=SEEDS)
def test_after_many_iterations_all_codes_are_used_equally(size, seed):
    means = sinkhorn(cosines(*size, seed=seed), 0.5, 300).mean(0)
    assert_close(means, torch.full((size[1],), 1 / size[1]), rtol=0, atol=1e-4)


@given(seed=SEEDS)
def test_views_are_balanced_separately(seed):
    scores = cosines(2, 7, 4, seed=seed)
    both = sinkhorn(scores, 0.05, 3)
    assert torch.equal(both, torch.stack([sinkhorn(view, 0.05, 3) for view in scores]))


@pytest.mark.parametrize("scores", [torch.ones(5, 3), -torch.ones(5, 3), torch.zeros(5, 3)])
def test_equal_scores_give_equal_assignments(scores):
    assert_close(sinkhorn(scores, 1 / MAX_SCALE, 3), torch.full((5, 3), 1 / 3))


def test_a_frame_opposite_to_all_codes_is_not_rounded_to_zeros():
    """As when all codes point in one direction: the factors of such a row are beyond float32."""
    scores = torch.ones(1000, 3)
    scores[0] = torch.tensor([-1.0, -0.99, -1.0])
    assignments = sinkhorn(scores, 0.02, 3)
    assert assignments.isfinite().all()
    assert_close(assignments, plain_spin.sinkhorn(scores.double(), 0.02, 3).float(), rtol=1e-4, atol=1e-5)


def test_no_overflow_at_the_smallest_epsilon():
    """The total of a million frames with a cosine of 1, and room for a hundred ranks."""
    assert math.exp(MAX_SCALE) * 1e6 * 100 < torch.finfo(torch.float32).max
    assert sinkhorn(torch.ones(1, 10_000, 1), 1 / MAX_SCALE, 1).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_it_is_computed_in_float32_under_autocast_and_for_half_precision(dtype):
    """exp(0.9 / 0.02) does not fit into float16."""
    scores = cosines(6, 4).to(dtype)
    expected = sinkhorn(scores.float(), 0.02, 3)
    with torch.autocast("cpu", dtype):
        found = sinkhorn(scores, 0.02, 3)
    assert found.dtype == torch.float32 and torch.equal(found, expected)


def test_no_gradient():
    assert not sinkhorn(SCORES.clone().requires_grad_(), 0.1, 3).requires_grad


def test_frames_of_all_ranks_are_balanced_together_with_one_sum_an_iteration():
    """The totals are shared as an all-reduce would do it: each rank's are added in the same iteration."""
    scores = cosines(2, 9, 4)
    whole = sinkhorn(scores, 0.05, 3)
    parts = scores.split([5, 4, 0], dim=1)  # the last rank has no frames
    totals: list[torch.Tensor] = []  # of each iteration, over all ranks

    def recorded(part_totals):
        calls.append(part_totals)
        return totals[len(calls) - 1] if len(calls) <= len(totals) else part_totals

    for iteration in range(3):
        sums = []
        for part in parts:
            calls: list[torch.Tensor] = []
            sinkhorn(part, 0.05, iteration + 1, recorded)
            assert len(calls) == iteration + 1 and calls[0].shape == (2, 1, 4)
            sums.append(calls[-1])
        totals.append(sum(sums))
    found = []
    for part in parts:
        calls = []
        found.append(sinkhorn(part, 0.05, 3, recorded))
    assert found[2].shape == (2, 0, 4)
    assert_close(torch.cat(found, 1), whole, rtol=0, atol=1e-6)
