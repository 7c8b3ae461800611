"""Similarity of two representations from their moments: linear CKA, CCA and its relatives, and measures of neurons.

Each function takes ``PairMoments`` of X (n, D1) and Y (n, D2) and returns a number, 1 for equal representations. Those
that depend on the order say so. References: Kornblith et al. 2019 (arXiv 1905.00414), Raghu et al. 2017 (1706.05806),
Morcos et al. 2018 (1806.05759), Wu et al. 2020 (2005.01172), Song et al. 2012 (JMLR 13).

SVCCA and PWCCA are not one number: published implementations differ in centring, in what 99 % are a share of, and in
the weights. Every variant has a name of its own here.
"""

from collections.abc import Callable

import numpy as np

from ....errors import UserError
from .moments import PairMoments, SourceMoments, eigenvectors

KEPT = 0.99
"""Share of the variance that SVCCA keeps."""

Basis = Callable[[SourceMoments], np.ndarray]
"""(L, K): maps centred frames to orthonormal columns."""

# ---- CKA and Procrustes ----------------------------------------------------------------------------------------------


def cka(pair: PairMoments) -> float:
    """Linear CKA: ||Y'X||^2 / (||X'X|| ||Y'Y||), centred (Kornblith et al., equation 7).

    Biased: with n independent frames it is about D / n too high, so that n should be over 10 D.
    """
    return squared(pair.cross) / np.sqrt(squared(pair.x.scatter) * squared(pair.y.scatter))


def cka_unbiased(pair: PairMoments) -> float:
    """Linear CKA of unbiased HSICs (Song et al., equation 5); slightly below 0 for unrelated representations.

    Raises ValueError for fewer than 4 frames.
    """
    xx, yy = (hsic_unbiased(PairMoments(one, one, one.product, one.norms)) for one in (pair.x, pair.y))
    return hsic_unbiased(pair) / np.sqrt(xx * yy)


def hsic_unbiased(pair: PairMoments) -> float:
    """HSIC_1 of the linear kernels K = XX' and L = YY' with zero diagonals, without n x n matrices.

    [tr KL + (1'K1)(1'L1) / ((n-1)(n-2)) - 2 (1'KL1) / (n-2)] / (n (n-3)); a constant added to all frames changes
    nothing.
    """
    n, norms = pair.x.n, pair.norms
    if n < 4:
        raise ValueError("the unbiased HSIC requires 4 frames")
    sum_x, sum_y = pair.x.sum, pair.y.sum
    trace = squared(pair.product) - norms.xy
    total_x, total_y = sum_x @ sum_x - norms.x, sum_y @ sum_y - norms.y
    total_xy = sum_x @ pair.product @ sum_y - norms.x_weighted @ sum_x - norms.y_weighted @ sum_y + norms.xy_cubed
    return (trace + total_x * total_y / ((n - 1) * (n - 2)) - 2 * total_xy / (n - 2)) / (n * (n - 3))


def procrustes(pair: PairMoments) -> float:
    """Orthogonal Procrustes similarity: nuclear norm of X'Y for centred X and Y of norm 1.

    The squared distance after the best rotation is 2 - 2 times this.
    """
    norms = np.sqrt(np.trace(pair.x.scatter) * np.trace(pair.y.scatter))
    return singular_values(pair.cross).sum() / norms


# ---- canonical correlations ------------------------------------------------------------------------------------------


def mean_cca(pair: PairMoments) -> float:
    """Mean canonical correlation of all directions."""
    return pair.canonical[1].mean()


def yanai(pair: PairMoments) -> float:
    """Yanai's generalised coefficient: the mean squared canonical correlation, R^2_CCA in Kornblith et al."""
    return np.square(pair.canonical[1]).mean()


def svcca(pair: PairMoments) -> float:
    """SVCCA as in the paper: the fewest principal components that have 99 % of the variance; mean correlation."""
    return reduced(pair, textbook).mean()


def svcca_wu(pair: PairMoments) -> float:
    """SVCCA as in Wu et al.'s code: standardised dimensions, and one component fewer than would reach 99 %."""
    return reduced(pair, standardised).mean()


def svcca_anatome(pair: PairMoments) -> float:
    """SVCCA as in anatome: components of frames that are not centred, which have less than 99 % of the sum of the
    singular values; then CCA of centred frames."""
    return reduced(pair, uncentred).mean()


def pwcca(pair: PairMoments) -> float:
    """PWCCA: canonical correlations, weighted by how much of X their directions account for (Morcos et al., equation
    2); no components are left out. Depends on the order."""
    left, rho, _ = pair.canonical
    weights = np.abs(pair.x.scatter @ pair.x.whitening @ left).sum(0)  # (c,): sum over dimensions j of |<h_i, x_j>|
    return weights @ rho / weights.sum()


def pwcca_google(pair: PairMoments) -> float:
    """PWCCA as in google/svcca: weights of the representation with fewer dimensions, from directions that are not
    whitened, with the means added.

    The sign of a direction, which the decomposition chooses arbitrarily, changes the weights in the fourth digit.
    Raises UserError for linearly dependent dimensions.
    """
    halves = [one.whitening @ one.directions[1].T for one in (pair.x, pair.y)]  # symmetric: scatter to the power -1/2
    left, rho, right = np.linalg.svd(halves[0] @ pair.cross @ halves[1], full_matrices=False)
    one, directions = (pair.x, left) if len(pair.x.live) <= len(pair.y.live) else (pair.y, right.T)  # (L, L)
    if len(one.directions[0]) < len(one.live):
        raise UserError("pwcca_google: dimensions are linearly dependent; use pwcca, which allows that")
    gram = directions.T @ one.scatter @ directions + one.n * np.outer(one.raw_mean, one.raw_mean)
    inner = directions.T @ one.scatter + one.n * np.outer(one.raw_mean, one.raw_mean)  # with the dimensions of X
    weights = np.abs(np.linalg.solve(np.linalg.cholesky(gram), inner)).sum(1)  # (L,)
    return weights @ np.clip(rho, 0, 1) / weights.sum()


def reduced(pair: PairMoments, basis: Basis) -> np.ndarray:
    """(c,) canonical correlations, largest first, of the components that ``basis`` keeps of each representation."""
    return np.clip(singular_values(basis(pair.x).T @ pair.cross @ basis(pair.y)), 0, 1)


def textbook(one: SourceMoments) -> np.ndarray:
    values, vectors = one.directions
    kept = 1 + int(np.searchsorted(np.cumsum(values) / values.sum(), KEPT))
    return vectors[:, :kept] / np.sqrt(values[:kept])


def standardised(one: SourceMoments) -> np.ndarray:
    deviations = np.sqrt(np.diag(one.scatter))  # (L,)
    values, vectors = eigenvectors(one.scatter / np.outer(deviations, deviations))
    kept = below(values)
    return vectors[:, :kept] / np.sqrt(values[:kept]) / deviations[:, None]


def uncentred(one: SourceMoments) -> np.ndarray:
    values, vectors = eigenvectors(one.raw_scatter)
    components = vectors[:, : below(np.sqrt(values))]  # (L, K)
    values, vectors = eigenvectors(components.T @ one.scatter @ components)
    return components @ vectors / np.sqrt(values)


def below(shares: np.ndarray) -> int:
    """Number of the first shares whose sum is below 99 % of the total, at least 1."""
    return max(1, int((np.cumsum(shares) / shares.sum() < KEPT).sum()))


# ---- neurons ---------------------------------------------------------------------------------------------------------


def best_matches(pair: PairMoments) -> np.ndarray:
    """(L1,): for each dimension of X, its largest absolute Pearson correlation with a dimension of Y."""
    scale = np.sqrt(np.outer(np.diag(pair.x.scatter), np.diag(pair.y.scatter)))
    return np.clip(np.abs(pair.cross / scale), 0, 1).max(1)


def maxcorr(pair: PairMoments) -> float:
    """Mean of ``best_matches`` over the dimensions of X (Wu et al., section 3.1). Depends on the order."""
    return best_matches(pair).mean()


def linreg(pair: PairMoments) -> float:
    """Mean multiple correlation of the dimensions of X with all of Y: of X predicted from Y by least squares (Wu et
    al.). Depends on the order."""
    explained = np.square(pair.y.whitening.T @ pair.cross.T).sum(0)  # (L1,)
    return np.sqrt(np.clip(explained / np.diag(pair.x.scatter), 0, 1)).mean()


# ---- matrices --------------------------------------------------------------------------------------------------------


def squared(matrix: np.ndarray) -> float:
    """Squared Frobenius norm."""
    return float(np.square(matrix).sum())


def singular_values(matrix: np.ndarray) -> np.ndarray:
    """(c,), largest first."""
    return np.linalg.svd(matrix, compute_uv=False)
