"""Sums over frames from which measures of similarity follow: for each representation and each pair, in one pass.

All are sums of products of float64, and their size does not depend on the number of frames: for representations of D1
and D2 dimensions the matrices X'X, Y'Y and X'Y, and sums of the squared norms of frames, which the unbiased HSIC (Song
et al. 2012, equation 5) needs. The mean of the first frames is subtracted from all, so that large means cost no
precision.

Frames may be added in groups, for bootstrap intervals: the moments of a resample are those of its groups, each as often
as it was drawn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

SMALLEST = 1e-10
"""Share of the largest eigenvalue of X'X below which a direction counts as constant."""


class Moments:
    """Accumulator.

    Args:
        widths: representation -> D, its number of dimensions.
        pairs: of representations, whose products are summed.
        groups: number of groups of frames, G.
        device: where the sums are.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        pairs: Sequence[tuple[str, str]],
        groups: int = 1,
        device: str | torch.device = "cpu",
    ):
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(groups, *shape, dtype=torch.float64, device=device)

        self.names, self.groups = list(widths), groups
        self.place = {name: i for i, name in enumerate(self.names)}
        self.shifts: dict[str, Tensor] = {}  # name -> (D,), the mean of the frames that are added first
        self.counts = torch.zeros(groups, dtype=torch.float64)  # frames
        self.sums = {name: zeros(width) for name, width in widths.items()}  # sum of x
        self.products = {  # sum of x y'
            (a, b): zeros(widths[a], widths[b]) for a, b in dict.fromkeys([(name, name) for name in widths] + [*pairs])
        }
        N = len(widths)
        self.norm_sums = zeros(N)  # sum of |x|^2
        self.norm_products = zeros(N, N)  # sum of |x|^2 |y|^2
        self.weighted_sums = {name: zeros(width, N) for name, width in widths.items()}  # sum of x |y|^2, for each y

    @staticmethod
    def size(widths: Mapping[str, int], pairs: Sequence[tuple[str, str]], groups: int = 1) -> int:
        """Bytes of the sums."""
        products = sum(width**2 for width in widths.values()) + sum(widths[a] * widths[b] for a, b in pairs)
        return 8 * groups * (products + (1 + len(widths)) * sum(widths.values()))

    def add(self, frames: Mapping[str, Tensor], group: int = 0) -> None:
        """Add the same frames of all representations, (n, D) each, to a group."""
        x = {name: of_source.to(self.norm_sums) for name, of_source in frames.items()}
        if not self.shifts:
            self.shifts = {name: centre_of(of_source) for name, of_source in x.items()}
        x = {name: of_source - self.shifts[name] for name, of_source in x.items()}
        norms = torch.stack([x[name].square().sum(1) for name in self.names], 1)  # (n, N)
        self.counts[group] += len(norms)
        self.norm_sums[group] += norms.sum(0)
        self.norm_products[group].addmm_(norms.T, norms)
        for name, of_source in x.items():
            self.sums[name][group] += of_source.sum(0)
            self.weighted_sums[name][group].addmm_(of_source.T, norms)
        for (a, b), product in self.products.items():
            product[group].addmm_(x[a].T, x[b])

    def total(self, weights: np.ndarray | None = None) -> "Totals":
        """The sums over all groups, each counted as often as ``weights`` (G,) says; None: once."""
        w = np.ones(self.groups) if weights is None else np.asarray(weights, dtype=np.float64)
        return Totals(self, w)


class Totals:
    """The sums of a weighted choice of groups: ``totals.source(name)`` and ``totals.pair(a, b)``."""

    def __init__(self, moments: Moments, weights: np.ndarray):
        self.moments, self.weights = moments, weights
        self.n = float(weights @ moments.counts.numpy())
        self.sources: dict[str, SourceMoments] = {}

    def weigh(self, sums: Tensor, power: int = 1) -> np.ndarray:
        """(G, ...) -> (...), with the weights to a power."""
        if len(sums) == 1:
            return sums[0].cpu().numpy() * self.weights[0] ** power
        weights = torch.from_numpy(self.weights**power).to(sums.device)
        return torch.tensordot(weights, sums, dims=1).cpu().numpy()

    def source(self, name: str) -> "SourceMoments":
        if name not in self.sources:
            moments = self.moments
            self.sources[name] = SourceMoments(
                self.n,
                self.weigh(moments.sums[name]),
                self.weigh(moments.products[name, name]),
                moments.shifts[name].cpu().numpy(),
                self.norms_of(name, name),
            )
        return self.sources[name]

    def norms_of(self, a: str, b: str) -> "Norms":
        """Of frames x of ``a`` and y of ``b``. A frame that was drawn w times forms w^2 pairs with itself."""
        moments, i, j = self.moments, self.moments.place[a], self.moments.place[b]
        return Norms(
            float(self.weigh(moments.norm_sums, 2)[i]),
            float(self.weigh(moments.norm_sums, 2)[j]),
            float(self.weigh(moments.norm_products, 2)[i, j]),
            float(self.weigh(moments.norm_products, 3)[i, j]),
            self.weigh(moments.weighted_sums[a][..., j], 2),
            self.weigh(moments.weighted_sums[b][..., i], 2),
        )

    def pair(self, a: str, b: str) -> "PairMoments":
        """Of a pair in the order in which it was given, or in the opposite one."""
        turned = (a, b) not in self.moments.products
        product = self.weigh(self.moments.products[(b, a) if turned else (a, b)])
        return PairMoments(self.source(a), self.source(b), product.T if turned else product, self.norms_of(a, b))


@dataclass(frozen=True, eq=False)
class Norms:
    """Sums of squared norms of the frames x and y, with w the number of times that a frame counts.

    ``x``, ``y``: sum of w^2 |x|^2, of w^2 |y|^2; ``xy``, ``xy_cubed``: sum of w^2 and of w^3 |x|^2 |y|^2;
    ``x_weighted`` (D1,), ``y_weighted`` (D2,): sum of w^2 |y|^2 x, of w^2 |x|^2 y.
    """

    x: float
    y: float
    xy: float
    xy_cubed: float
    x_weighted: np.ndarray
    y_weighted: np.ndarray


@dataclass(frozen=True, eq=False)
class SourceMoments:
    """Of one representation: ``n`` frames, their sum (D,) and the sum of their products (D, D), without ``shift``."""

    n: float
    sum: np.ndarray
    product: np.ndarray
    shift: np.ndarray
    norms: Norms

    @cached_property
    def live(self) -> np.ndarray:
        """(L,) int64: the dimensions that are not the same in all frames."""
        return np.flatnonzero(np.diag(self.product) > 0)

    @property
    def dead(self) -> int:
        """Number of dimensions that are the same in all frames. All measures leave them out."""
        return len(self.sum) - len(self.live)

    @cached_property
    def mean(self) -> np.ndarray:
        """(L,) of the live dimensions, without the shift."""
        return self.sum[self.live] / self.n

    @cached_property
    def raw_mean(self) -> np.ndarray:
        """(L,) of the live dimensions."""
        return self.mean + self.shift[self.live]

    @cached_property
    def scatter(self) -> np.ndarray:
        """(L, L), X'X of the centred live dimensions."""
        return self.product[np.ix_(self.live, self.live)] - self.n * np.outer(self.mean, self.mean)

    @cached_property
    def raw_scatter(self) -> np.ndarray:
        """(L, L), X'X of the live dimensions, not centred."""
        return self.scatter + self.n * np.outer(self.raw_mean, self.raw_mean)

    @cached_property
    def directions(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues of ``scatter`` (K,), largest first, and eigenvectors (L, K); directions that are constant within
        rounding are left out."""
        return eigenvectors(self.scatter)

    @cached_property
    def whitening(self) -> np.ndarray:
        """(L, K): maps centred frames to orthonormal columns."""
        values, vectors = self.directions
        return vectors / np.sqrt(values)


@dataclass(frozen=True, eq=False)
class PairMoments:
    """Of two representations: ``product`` (D1, D2), the sum of x y' without the shifts."""

    x: SourceMoments
    y: SourceMoments
    product: np.ndarray
    norms: Norms

    @cached_property
    def cross(self) -> np.ndarray:
        """(L1, L2), X'Y of the centred live dimensions."""
        product = self.product[np.ix_(self.x.live, self.y.live)]
        return product - self.x.n * np.outer(self.x.mean, self.y.mean)

    @cached_property
    def canonical(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Canonical directions of X (K1, c) and Y (K2, c) in the whitened bases, and between them their correlations
        (c,), largest first; c is the smaller of K1 and K2."""
        left, rho, right = np.linalg.svd(self.x.whitening.T @ self.cross @ self.y.whitening, full_matrices=False)
        return left, np.clip(rho, 0, 1), right.T

    @property
    def turned(self) -> "PairMoments":
        """The same with X and Y exchanged."""
        norms = self.norms
        swapped = Norms(norms.y, norms.x, norms.xy, norms.xy_cubed, norms.y_weighted, norms.x_weighted)
        other = PairMoments(self.y, self.x, self.product.T, swapped)
        if "canonical" in self.__dict__:
            other.__dict__["canonical"] = self.canonical[::-1]
        return other


def centre_of(frames: Tensor) -> Tensor:
    """(n, D) -> (D,): the mean; of a constant dimension its value, without rounding."""
    return torch.where((frames == frames[0]).all(0), frames[0], frames.mean(0))


def eigenvectors(scatter: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(L, L) symmetric -> eigenvalues (K,) above ``SMALLEST`` of the largest, largest first, and vectors (L, K)."""
    values, vectors = np.linalg.eigh(scatter)
    kept = np.flatnonzero(values > values[-1] * SMALLEST)[::-1]
    return values[kept], vectors[:, kept]
