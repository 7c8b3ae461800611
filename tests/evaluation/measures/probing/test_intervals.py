"""Scores from sums over speakers, and the bootstrap over speakers."""

import numpy as np
import pytest

from dinosr_plugin.evaluation.measures.probing import intervals
from dinosr_plugin.evaluation.measures.probing.intervals import bootstrap
from dinosr_plugin.evaluation.measures.probing.linear import accuracy, determination


@pytest.fixture
def parts() -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Of three speakers: scores, classes, predictions, numbers."""
    rng = np.random.default_rng(0)
    return [
        (rng.normal(size=(n, 4)), rng.integers(0, 4, n), rng.normal(size=(n, 1)), rng.normal(size=n) + n)
        for n in (5, 9, 30)
    ]


def test_figures_of_sums_are_those_of_all_examples(parts):
    scores, classes, predictions, numbers = (np.concatenate(one) for one in zip(*parts))
    sums = np.array([intervals.sums_of_classes(a, b) for a, b, _, _ in parts])
    assert intervals.accuracy_of(sums.sum(axis=0)) == pytest.approx(accuracy(scores, classes))
    sums = np.array([intervals.sums_of_numbers(c, d) for _, _, c, d in parts])
    figure = intervals.figure_of(sums, of_classes=False)
    assert figure(sums.sum(axis=0)) == pytest.approx(determination(predictions, numbers))
    error = np.square(parts[0][2][:, 0] - parts[0][3]).mean()  # of the first speaker, by the variance of all
    assert figure(sums[0]) == pytest.approx(1 - error / numbers.var())


def test_the_interval_is_that_of_samples_of_speakers():
    """With two speakers a sample has one of them twice, or both."""
    sums = np.array([[10.0, 10.0], [10.0, 0.0]])
    assert bootstrap(sums, intervals.accuracy_of) == (0.0, 1.0)
    assert bootstrap(np.array([[10.0, 7.0]] * 5), intervals.accuracy_of) == (0.7, 0.7)
    sums = np.array([[10.0, right] for right in range(11)])
    low, high = bootstrap(sums, intervals.accuracy_of, resamples=20_000)
    deviation = np.std(np.arange(11) / 10) / np.sqrt(11)  # of the mean of 11 speakers
    assert (low, high) == pytest.approx((0.5 - 1.96 * deviation, 0.5 + 1.96 * deviation), abs=0.02)


def test_one_speaker_has_no_interval():
    assert bootstrap(np.array([[10.0, 7.0]]), intervals.accuracy_of) is None


def test_numbers_that_are_all_equal_have_r2_0():
    sums = intervals.sums_of_numbers(np.ones((3, 1)), np.zeros(3))
    assert intervals.figure_of(sums[None], of_classes=False)(sums) == 0
