"""Scores with intervals: figures of sums over speakers, and the bootstrap over speakers.

Frames of a speaker are not independent, so whole speakers are drawn, with replacement; the interval is that of the
percentiles of ``RESAMPLES`` such samples. With few speakers it is rough: a sample of four contains three of them, on
average. R² of a sample divides its errors by the variance of all examples: speakers of a sample may hardly differ.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from ..verification import CONFIDENCE

RESAMPLES = 1000
FEW = 5  # speakers; with fewer the interval is rough


class Interval(NamedTuple):
    low: float
    high: float


def accuracy_of(sums: np.ndarray) -> np.ndarray:
    """Sums (..., 2) of examples and right ones -> (...), the share of right ones."""
    return sums[..., 1] / sums[..., 0]


def determination_of(sums: np.ndarray, variance: float) -> np.ndarray:
    """Sums (..., 4) of examples, numbers, squares and squared errors -> (...), R² = 1 - mean error / variance."""
    return 1 - sums[..., 3] / sums[..., 0] / variance if variance > 0 else np.zeros(sums.shape[:-1])


def variance_of(sums: np.ndarray) -> float:
    """Of the numbers behind sums (S, 4) over speakers."""
    n, total, squares, _ = sums.sum(axis=0)
    return float(squares / n - (total / n) ** 2)


def figure_of(sums: np.ndarray, of_classes: bool) -> Callable[[np.ndarray], np.ndarray]:
    """What turns sums like those (S, k) of all speakers into scores."""
    return accuracy_of if of_classes else partial(determination_of, variance=variance_of(sums))


def sums_of_classes(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Scores (n, C) of classes and labels (n,) -> (2,), for ``accuracy_of``."""
    return np.array([len(labels), (scores.argmax(axis=1) == labels).sum()], dtype=np.float64)


def sums_of_numbers(predictions: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Predictions (n, 1) of numbers (n,) -> (4,), for ``determination_of``."""
    errors = np.square(predictions[:, 0].astype(np.float64) - numbers)
    return np.array([len(numbers), numbers.sum(), np.square(numbers).sum(), errors.sum()])


def bootstrap(
    sums: np.ndarray, figure: Callable[[np.ndarray], np.ndarray], seed: int = 0, resamples: int = RESAMPLES
) -> Interval | None:
    """The interval of ``CONFIDENCE`` of a figure of sums (S, k) over S speakers; None for a single speaker."""
    speakers = len(sums)
    if speakers < 2:
        return None
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(speakers, np.full(speakers, 1 / speakers), size=resamples)  # (resamples, S)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(figure(counts @ sums), [tail, 100 - tail])
    return Interval(float(low), float(high))
