"""Moments: chunks and groups change nothing, and a resample is its frames, each as often as it was drawn."""

import numpy as np
import pytest

from dinosr_plugin.evaluation.measures.similarity import linear
from dinosr_plugin.evaluation.measures.similarity.moments import Moments
from support.similarity import moments_of, pair_of, sheet_data

MEASURES = (linear.cka, linear.cka_unbiased, linear.mean_cca, linear.pwcca, linear.linreg, linear.svcca_anatome)


@pytest.mark.parametrize("chunk", [1, 7, 500])
def test_the_size_of_chunks_changes_nothing(chunk):
    whole, parts = pair_of(*sheet_data(), 499), pair_of(*sheet_data(), chunk)
    np.testing.assert_allclose(parts.cross, whole.cross, atol=1e-9)
    assert linear.cka_unbiased(parts) == pytest.approx(linear.cka_unbiased(whole), abs=1e-12)


def test_a_mean_of_a_million_deviations_costs_no_digits():
    x, y = sheet_data()
    far = pair_of(x + 1e6, y - 1e6)
    for measure in (linear.cka, linear.cka_unbiased, linear.mean_cca, linear.procrustes):
        assert measure(far) == pytest.approx(measure(pair_of(x, y)), abs=1e-7)


def in_groups(count: int) -> list[dict[str, np.ndarray]]:
    x, y = sheet_data()
    return [{"x": x[group::count], "y": y[group::count]} for group in range(count)]


@pytest.mark.parametrize("measure", MEASURES)
def test_groups_change_nothing(measure):
    grouped = moments_of(in_groups(6)).total().pair("x", "y")
    assert measure(grouped) == pytest.approx(measure(pair_of(*sheet_data())), abs=1e-10)


@pytest.mark.parametrize("measure", [one for one in MEASURES if one is not linear.cka_unbiased])
def test_weights_are_repetitions(measure):
    groups, weights = in_groups(4), np.array([2, 0, 3, 1])
    repeated = [part for part, weight in zip(groups, weights) for _ in range(weight)]
    x, y = (np.concatenate([part[name] for part in repeated]) for name in ("x", "y"))
    weighted = moments_of(groups).total(weights).pair("x", "y")
    assert measure(weighted) == pytest.approx(measure(pair_of(x, y)), abs=1e-10)


def test_the_unbiased_hsic_of_a_resample_leaves_out_pairs_of_a_frame_with_itself():
    groups, weights = in_groups(4), np.array([2, 0, 3, 1])
    numbers = [np.arange(500)[group::4] for group in range(4)]
    frames = np.concatenate([numbers[group] for group in range(4) for _ in range(weights[group])])
    x, y = (array[frames] - array[::4].mean(0) for array in sheet_data())  # as the moments of these groups are
    n, other = len(frames), frames[:, None] != frames
    k, m = x @ x.T * other, y @ y.T * other
    plain = np.vdot(k, m) + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * k.sum(0) @ m.sum(0)
    weighted = moments_of(groups).total(weights).pair("x", "y")
    assert linear.hsic_unbiased(weighted) == pytest.approx(plain / (n * (n - 3)), rel=1e-9)


def test_a_pair_can_be_read_in_both_orders():
    totals = moments_of(in_groups(1)).total()
    np.testing.assert_array_equal(totals.pair("y", "x").cross, totals.pair("x", "y").cross.T)
    assert linear.hsic_unbiased(totals.pair("y", "x")) == pytest.approx(27.1294247)


def test_the_size_is_that_of_the_sums_and_does_not_depend_on_the_frames():
    widths, pairs = {"x": 5, "y": 3}, [("x", "y")]
    moments = Moments(widths, pairs, groups=2)
    kept = [*moments.sums.values(), *moments.products.values(), *moments.weighted_sums.values()]
    assert Moments.size(widths, pairs, 2) == 8 * sum(one.numel() for one in kept)
