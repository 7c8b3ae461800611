"""Speaker verification: how well scores separate trials of the same speaker from trials of different speakers.

A trial is accepted if its score is at least a threshold. At each threshold, the miss rate is the share of target trials
(same speaker) that are rejected, the false alarm rate the share of nontarget trials that are accepted.

- EER: the rate at which both are equal. Between two thresholds the rates are interpolated linearly.
- minDCF at prior p: the minimum over thresholds of (p * miss + (1 - p) * false alarm) / min(p, 1 - p). Both costs are
  1, and the division is that of NIST's evaluations: 1 is the cost of the better constant answer. SpeechBrain's
  ``minDCF`` is not divided: multiply it by 1 / min(p, 1 - p) to compare.

Trials with equal scores are accepted or rejected together, so that their order does not matter.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

PRIORS = (0.01, 0.05)
CONFIDENCE = 0.95


class Rates(NamedTuple):
    """Miss and false alarm rates of all operating points, from "accept all" to "reject all".

    ``thresholds``: (K,) the distinct scores in ascending order. Point k < K accepts scores from ``thresholds[k]``;
    point K accepts none. ``miss``, ``false_alarm``: (K + 1,) float64; the first rises from 0 to 1, the second falls
    from 1 to 0.
    """

    thresholds: np.ndarray
    miss: np.ndarray
    false_alarm: np.ndarray


class ScoredTrials:
    """Trials in ascending order of their scores, sorted once.

    Args:
        scores: (N,) finite numbers.
        is_target: (N,) bool.

    Raises:
        ValueError: a score is not finite.
    """

    def __init__(self, scores: np.ndarray, is_target: np.ndarray):
        scores, is_target = np.asarray(scores), np.asarray(is_target, dtype=bool)
        if not np.isfinite(scores).all():
            raise ValueError("scores contain NaN or infinity")
        self.order = np.argsort(scores, kind="stable")
        self.scores, self.is_target = scores[self.order], is_target[self.order]
        # index of the last trial of each group of equal scores
        self.last = np.flatnonzero(np.append(self.scores[1:] != self.scores[:-1], True))

    def rates(self, weights: np.ndarray | None = None) -> Rates | None:
        """Rates in which trial i counts ``weights[i]`` times; None if no target or no nontarget trial counts.

        ``weights``: (N,) whole numbers from 0, in the order of the scores that were given; None: each counts once.
        """
        counts = np.ones(len(self.scores)) if weights is None else weights[self.order].astype(np.float64)
        below_targets = np.append(0, np.cumsum(counts * self.is_target)[self.last])  # (K + 1,), exact in float64
        below_others = np.append(0, np.cumsum(counts * ~self.is_target)[self.last])
        targets, others = below_targets[-1], below_others[-1]
        if not targets or not others:
            return None
        return Rates(self.scores[self.last], below_targets / targets, (others - below_others) / others)


def error_rates(targets: np.ndarray, nontargets: np.ndarray) -> Rates:
    """Rates of the scores of target (N,) and nontarget trials (M,), in O((N + M) log(N + M)).

    Raises ValueError if there are none of a kind, or a score is not finite.
    """
    scores = np.concatenate([targets, nontargets])
    rates = ScoredTrials(scores, np.arange(len(scores)) < len(targets)).rates()
    if rates is None:
        raise ValueError("no target or no nontarget trials")
    return rates


def equal_error_rate(rates: Rates) -> float:
    """EER, a share: where the polyline through the operating points crosses miss = false alarm."""
    k, part = crossing(rates)
    return float(rates.miss[k - 1] + part * (rates.miss[k] - rates.miss[k - 1]))


def equal_error_threshold(rates: Rates) -> float:
    """The score at the EER, interpolated as the rates are."""
    k, part = crossing(rates)
    low, high = rates.thresholds[k - 1], rates.thresholds[min(k, len(rates.thresholds) - 1)]
    return float(low + part * (high - low))


def crossing(rates: Rates) -> tuple[int, float]:
    """(k, part): the crossing is at this part of the way, above 0 and at most 1, from point k - 1 to point k."""
    excess = rates.miss - rates.false_alarm  # rises from -1 to 1
    k = int(np.argmax(excess >= 0))
    return k, float(-excess[k - 1] / (excess[k] - excess[k - 1]))


def min_dcf(rates: Rates, prior: float) -> float:
    """minDCF at this prior of target trials, divided by min(prior, 1 - prior)."""
    costs = prior * rates.miss + (1 - prior) * rates.false_alarm
    return float(costs.min() / min(prior, 1 - prior))


def det_points(rates: Rates) -> tuple[np.ndarray, np.ndarray]:
    """(false alarm, miss), each (P,): the corners of the DET curve, without the points on straight lines between them.

    From "accept all" to "reject all".
    """
    steps = np.diff(np.stack([rates.false_alarm, rates.miss])) != 0  # (2, K)
    turns = (steps[:, 1:] != steps[:, :-1]).any(axis=0) | steps[:, 1:].all(axis=0)  # (K - 1,) at point k + 1
    kept = np.concatenate([[True], turns, [True]])
    return rates.false_alarm[kept], rates.miss[kept]


# ---- figures with intervals ------------------------------------------------------------------------------------------


FIGURES: dict[str, Callable[[Rates], float]] = {
    "eer": equal_error_rate,
    **{f"min_dcf_{prior:g}": partial(min_dcf, prior=prior) for prior in PRIORS},
}
"""Key -> figure of the rates."""


def figures_of(rates: Rates) -> dict[str, float]:
    return {name: figure(rates) for name, figure in FIGURES.items()}


class Intervals(NamedTuple):
    """``bounds``: figure -> (low, high), the interval of ``CONFIDENCE``; ``resamples``: number of samples with both
    kinds of trials, from which it is computed."""

    bounds: dict[str, tuple[float, float]]
    resamples: int


def bootstrap(
    trials: ScoredTrials, first: np.ndarray, second: np.ndarray, resamples: int = 1000, seed: int = 0
) -> Intervals:
    """Percentile intervals of ``FIGURES`` from samples of the speakers, drawn with replacement.

    Trials that share a speaker are not independent: resampling them one by one gives intervals that are too narrow, the
    more so the fewer speakers there are. So the speakers are drawn (the subsets bootstrap of Bolle, Ratha and Pankanti,
    2004). If a speaker is drawn c times, each copy is another speaker: a trial within the speaker counts c times, a
    trial of speakers that are drawn c and d times c * d times. Where speakers are not known, recordings take their
    place: this allows for trials that share a recording, but not for recordings that share a speaker.

    Args:
        trials: N trials.
        first, second: (N,) numbers from 0 of the speakers, or of the recordings, of both sides of each trial, in the
            order of the scores that ``trials`` were made from.
        resamples: number of samples.
        seed: the same seed gives the same samples.

    Samples without target or without nontarget trials are left out; without any other, ``bounds`` is empty.
    """
    from tqdm import tqdm

    size, within = 1 + int(max(first.max(), second.max())), first == second
    rng = np.random.default_rng(seed)
    drawn: list[list[float]] = []
    for _ in tqdm(range(resamples), desc="bootstrap", unit="sample", disable=None, leave=False):
        counts = np.bincount(rng.integers(0, size, size), minlength=size)
        rates = trials.rates(np.where(within, counts[first], counts[first] * counts[second]))
        if rates is not None:
            drawn.append(list(figures_of(rates).values()))
    if not drawn:
        return Intervals({}, 0)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(np.array(drawn), [tail, 100 - tail], axis=0)
    bounds = {name: (float(a), float(b)) for name, a, b in zip(FIGURES, low, high)}
    return Intervals(bounds, len(drawn))
