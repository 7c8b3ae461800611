"""The measures of similarity by name, as pair measures of the engine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...measuring import PairFigure, PairMeasure
from . import kernels, linear
from .moments import PairMoments, Totals
from .statistics import Statistics


class Figures:
    """What the measures read: the statistics of one pass, or of a resample of its groups.

    Args:
        weights: (G,): how often each group counts; None: once.
    """

    def __init__(self, statistics: Statistics, weights: np.ndarray | None = None):
        self.statistics, self.weights = statistics, weights
        moments = statistics.moments
        self.totals: Totals | None = None if moments is None else moments.total(weights)
        self.pairs: dict[tuple[str, str], PairMoments] = {}
        self.prepared: dict[tuple[Callable, str], list[Any]] = {}

    def pair(self, a: str, b: str) -> PairMoments:
        """Moments of a pair; decompositions are made once for all measures and both orders."""
        assert self.totals is not None  # a measure that reads moments has asked for them
        if (b, a) in self.pairs:
            return self.pairs[b, a].turned
        if (a, b) not in self.pairs:
            self.pairs = {(a, b): self.totals.pair(a, b)}  # only the last one: a decomposition takes megabytes
        return self.pairs[a, b]

    def samples(self, prepare: Callable[[np.ndarray], Any], name: str) -> list[Any]:
        """``prepare`` of each sample (n, D) of a representation, without dimensions that are the same in all frames."""
        sample = self.statistics.sample
        assert sample is not None
        if (prepare, name) not in self.prepared:
            samples = [sample.frames(name, i) for i in range(sample.count)]
            self.prepared[prepare, name] = [prepare(x[:, np.ptp(x, axis=0) > 0]) for x in samples]
        return self.prepared[prepare, name]


@dataclass(frozen=True)
class MomentMeasure:
    """A function of the moments of a pair. ``symmetric``: whether the order of the pair does not matter."""

    title: str
    function: Callable[[PairMoments], float]
    symmetric: bool = True
    statistic: str = field(default="moments", init=False)

    def __call__(self, figures: Figures, a: str, b: str) -> PairFigure:
        return PairFigure(float(self.function(figures.pair(a, b))))


@dataclass(frozen=True)
class SampleMeasure:
    """The mean over samples of ``compare`` of what ``prepare`` makes of the frames (n, D) of each representation."""

    title: str
    prepare: Callable[[np.ndarray], Any]
    compare: Callable[[Any, Any], float]
    symmetric: bool = True
    statistic: str = field(default="sample", init=False)

    def __call__(self, figures: Figures, a: str, b: str) -> PairFigure:
        pairs = zip(figures.samples(self.prepare, a), figures.samples(self.prepare, b))
        values = [self.compare(x, y) for x, y in pairs]
        return PairFigure(float(np.mean(values)), float(np.std(values)) if len(values) > 1 else None)


def same(x: np.ndarray) -> np.ndarray:
    return x


MEASURES: Mapping[str, PairMeasure] = {
    "cka": MomentMeasure("linear CKA", linear.cka),
    "cka_unbiased": MomentMeasure("linear CKA, unbiased", linear.cka_unbiased),
    "cka_batches": SampleMeasure(
        "linear CKA of mini-batches, unbiased", kernels.batch_kernels, kernels.cosine_of_batches
    ),
    "cka_rbf": SampleMeasure("RBF CKA", kernels.centred_rbf, kernels.inner_cosine),
    "svcca": MomentMeasure("SVCCA, 99 % of the variance", linear.svcca),
    "svcca_wu": MomentMeasure("SVCCA as in Wu et al.", linear.svcca_wu),
    "svcca_anatome": MomentMeasure("SVCCA as in anatome", linear.svcca_anatome),
    "pwcca": MomentMeasure("PWCCA", linear.pwcca, symmetric=False),
    "pwcca_google": MomentMeasure("PWCCA as in google/svcca", linear.pwcca_google),
    "pwcca_anatome": SampleMeasure("PWCCA as in anatome", same, kernels.pwcca_anatome, symmetric=False),
    "mean_cca": MomentMeasure("mean CCA", linear.mean_cca),
    "yanai": MomentMeasure("Yanai's coefficient, R2 CCA", linear.yanai),
    "maxcorr": MomentMeasure("best correlation of a neuron", linear.maxcorr, symmetric=False),
    "linreg": MomentMeasure("linear regression from the other", linear.linreg, symmetric=False),
    "procrustes": MomentMeasure("orthogonal Procrustes", linear.procrustes),
    "rsa": SampleMeasure("RSA", kernels.dissimilarity_ranks, kernels.inner_cosine),
}
