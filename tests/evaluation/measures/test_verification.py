"""EER and minDCF: equal to a sweep over all thresholds, exact for ties, and intervals that cover."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinosr_plugin.evaluation.measures.verification import (
    FIGURES,
    ScoredTrials,
    bootstrap,
    det_points,
    equal_error_rate,
    equal_error_threshold,
    error_rates,
    figures_of,
    min_dcf,
)

SCORES = st.lists(st.integers(-5, 5), min_size=1, max_size=12)  # with many ties


# ---- against a plain sweep -------------------------------------------------------------------------------------------


def sweep(targets, nontargets) -> list[tuple[float, float]]:
    """(miss, false alarm) at a threshold at each score, and at one above all."""
    thresholds = [*sorted({*targets, *nontargets}), np.inf]
    return [
        (sum(x < t for x in targets) / len(targets), sum(x >= t for x in nontargets) / len(nontargets))
        for t in thresholds
    ]


def plain_eer(points: list[tuple[float, float]]) -> float:
    """Where the lines between neighbouring points meet miss = false alarm, by bisection."""
    for (m0, f0), (m1, f1) in zip(points, points[1:]):
        if m1 >= f1:
            low, high = 0.0, 1.0
            for _ in range(60):
                part = (low + high) / 2
                low, high = (part, high) if m0 + part * (m1 - m0) < f0 + part * (f1 - f0) else (low, part)
            return m0 + high * (m1 - m0)
    raise AssertionError


@given(SCORES, SCORES)
def test_rates_and_figures_equal_a_sweep_over_thresholds(targets, nontargets):
    rates = error_rates(np.array(targets), np.array(nontargets))
    points = sweep(targets, nontargets)
    np.testing.assert_allclose(np.stack([rates.miss, rates.false_alarm], axis=1), points, atol=1e-12)
    assert equal_error_rate(rates) == pytest.approx(plain_eer(points), abs=1e-9)
    for p in (0.01, 0.05, 0.5, 0.9):
        costs = [p * miss + (1 - p) * false_alarm for miss, false_alarm in points]
        assert min_dcf(rates, p) == pytest.approx(min(costs) / min(p, 1 - p))


@given(SCORES, SCORES, st.randoms())
def test_neither_order_nor_a_monotone_transform_changes_the_figures(targets, nontargets, random):
    expected = figures_of(error_rates(np.array(targets), np.array(nontargets)))
    mixed = [random.sample(scores, len(scores)) for scores in (targets, nontargets)]
    assert figures_of(error_rates(*(np.exp(np.array(scores) / 2) - 7 for scores in mixed))) == pytest.approx(expected)


@given(SCORES, SCORES)
def test_swapping_both_kinds_and_signs_keeps_the_eer(targets, nontargets):
    rates = error_rates(np.array(targets), np.array(nontargets))
    swapped = error_rates(-np.array(nontargets), -np.array(targets))
    assert equal_error_rate(swapped) == pytest.approx(equal_error_rate(rates))


@given(SCORES, SCORES)
def test_the_det_curve_has_the_points_that_are_not_on_straight_lines(targets, nontargets):
    rates = error_rates(np.array(targets), np.array(nontargets))
    x, y = det_points(rates)
    points = set(zip(x, y))
    assert points <= set(zip(rates.false_alarm, rates.miss)) and {(1.0, 0.0), (0.0, 1.0)} <= points
    assert len(points) == len(x)
    # every point that was left out is on an axis-parallel line between its neighbours among the kept ones
    for a, b in set(zip(rates.false_alarm, rates.miss)) - points:
        k = int(np.flatnonzero((x >= a) & (y <= b))[-1])
        assert (x[k] == x[k + 1] == a and y[k] < b < y[k + 1]) or (y[k] == y[k + 1] == b and x[k] > a > x[k + 1])


# ---- known values ----------------------------------------------------------------------------------------------------


def test_perfect_inverted_and_constant_scores():
    low, high = np.arange(5), np.arange(5, 9)
    perfect, inverted = error_rates(high, low), error_rates(low, high)
    constant = error_rates(np.zeros(3), np.zeros(7))
    assert figures_of(perfect) == dict.fromkeys(FIGURES, 0.0)
    assert figures_of(inverted) == {"eer": 1.0, "min_dcf_0.01": 1.0, "min_dcf_0.05": 1.0}
    assert figures_of(constant) == {"eer": 0.5, "min_dcf_0.01": 1.0, "min_dcf_0.05": 1.0}


def test_a_small_example_by_hand():
    """Targets 1, 2, 3, 4 and nontargets 0, 1.5, 2.5: accepting from 2, a quarter is missed and a third accepted.

    Between that point (1/4, 1/3) and the next (1/2, 1/3), at 2.5, the rates cross at 1/3.
    """
    rates = error_rates(np.array([1, 2, 3, 4]), np.array([0, 1.5, 2.5]))
    assert equal_error_rate(rates) == pytest.approx(1 / 3)
    assert 2 < equal_error_threshold(rates) < 2.5
    # accepting from 3: miss 1/2, no false alarm
    assert min_dcf(rates, 0.01) == pytest.approx(0.5) and min_dcf(rates, 0.5) == pytest.approx(0.5)


def test_the_division_of_min_dcf():
    """SpeechBrain's value is prior * miss + (1 - prior) * false alarm without division, 100 times smaller at .01."""
    rates = error_rates(np.array([1, 2, 3, 4]), np.array([0, 1.5, 2.5]))
    undivided = (0.01 * rates.miss + 0.99 * rates.false_alarm).min()
    assert undivided == pytest.approx(0.005) and min_dcf(rates, 0.01) == pytest.approx(100 * undivided)
    assert min_dcf(rates, 0.9) == pytest.approx((0.9 * rates.miss + 0.1 * rates.false_alarm).min() / 0.1)


def test_normal_scores_have_the_eer_of_theory():
    """Unit normals two apart: Phi(-1) = .1587."""
    rng = np.random.default_rng(0)
    rates = error_rates(rng.normal(2, 1, 100_000), rng.normal(0, 1, 100_000))
    assert equal_error_rate(rates) == pytest.approx(0.15866, abs=0.003)
    assert equal_error_threshold(rates) == pytest.approx(1, abs=0.02)


def test_scores_that_cannot_be_measured():
    for scores in (np.array([np.nan]), np.array([1, np.inf])):
        with pytest.raises(ValueError, match="NaN or infinity"):
            error_rates(scores, np.zeros(1))
    with pytest.raises(ValueError, match="no target or no nontarget"):
        error_rates(np.zeros(0), np.zeros(1))


# ---- weights and intervals -------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.integers(0, 3)), min_size=1, max_size=12))
def test_weights_count_as_repeated_trials(trials):
    scores, kinds, counts = map(np.array, zip(*trials))
    weighted = ScoredTrials(scores, kinds).rates(counts)
    repeated = ScoredTrials(np.repeat(scores, counts), np.repeat(kinds, counts)).rates() if counts.sum() else None
    if weighted is None or repeated is None:
        assert weighted is None and not (kinds & (counts > 0)).any() or not (~kinds & (counts > 0)).any()
    else:
        assert figures_of(weighted) == pytest.approx(figures_of(repeated))


def speakers(n: int, per_speaker: int, seed: int, spread: float) -> tuple[ScoredTrials, np.ndarray, np.ndarray]:
    """All pairs of recordings, whose scores depend on an effect of the speaker, which trials within share."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(n), per_speaker)
    first, second = np.triu_indices(len(owner), 1)
    one, other = owner[first], owner[second]
    effect = rng.normal(0, spread, n)
    scores = np.where(one == other, 2 + effect[one], 0) + rng.normal(0, 1, len(one))
    return ScoredTrials(scores, one == other), one, other


def test_intervals_are_repeatable_and_contain_the_figure():
    trials, one, other = speakers(20, 4, 0, 1)
    first = bootstrap(trials, one, other, 200, seed=3)
    assert first == bootstrap(trials, one, other, 200, seed=3) != bootstrap(trials, one, other, 200, seed=4)
    assert first.resamples == 200 and first.bounds.keys() == FIGURES.keys()
    for name, value in figures_of(trials.rates()).items():
        low, high = first.bounds[name]
        assert low < value < high


def test_resampling_speakers_allows_for_their_differences_and_resampling_trials_does_not():
    """The spread of the EER over independent sets of speakers, compared with the width of both intervals."""
    eers = [equal_error_rate(speakers(20, 12, seed, 1.5)[0].rates()) for seed in range(40)]
    trials, one, other = speakers(20, 12, 100, 1.5)
    by_speaker = bootstrap(trials, one, other, 200).bounds["eer"]
    rng = np.random.default_rng(0)
    n = len(one)
    by_trial = [equal_error_rate(trials.rates(np.bincount(rng.integers(0, n, n), minlength=n))) for _ in range(100)]
    true_width = 2 * 1.96 * np.std(eers)
    assert 0.5 < (by_speaker[1] - by_speaker[0]) / true_width < 1.7
    assert 2 * 1.96 * np.std(by_trial) < 0.5 * true_width


def test_samples_without_both_kinds_of_trials_are_left_out():
    """Of two speakers, half of the samples contain one of them only: no nontarget trial."""
    trials, one, other = speakers(2, 3, 0, 0)
    intervals = bootstrap(trials, one, other, 200)
    assert 70 < intervals.resamples < 130
    only_targets = ScoredTrials(np.arange(3.0), np.array([True] * 3))
    assert bootstrap(only_targets, np.zeros(3, int), np.zeros(3, int), 5) == ({}, 0)
