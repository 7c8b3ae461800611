"""Similarity of two representations from a sample of frames: measures that compare frames with each other.

They require n x n matrices, so that they are computed on a sample of at most some thousand frames. Each function takes
X (n, D1) and Y (n, D2), the same frames, float64, and returns a number, 1 for equal representations.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

BATCH = 256  # frames, of mini-batch CKA
MIN_BATCH = 4  # frames, of the unbiased HSIC

# ---- RBF CKA ---------------------------------------------------------------------------------------------------------


def cka_rbf(x: np.ndarray, y: np.ndarray, scale: float = 1.0) -> float:
    """CKA of Gaussian kernels, exp(-d^2 / (2 t^2 m)) with m the median squared distance (Kornblith et al., section
    3.2); ``scale``: t."""
    return inner_cosine(centred_rbf(x, scale), centred_rbf(y, scale))


def centred_rbf(x: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """(n, D) -> (n, n) Gaussian kernel, centred; the median is over all entries, those of the diagonal included."""
    x = x - x.mean(0)
    norms = np.square(x).sum(1)
    distances = np.maximum(norms + norms[:, None] - 2 * x @ x.T, 0)  # (n, n)
    np.fill_diagonal(distances, 0)
    kernel = np.exp(-distances / (2 * scale**2 * np.median(distances)))
    return kernel - kernel.mean(0) - kernel.mean(1, keepdims=True) + kernel.mean()


# ---- representational similarity analysis ----------------------------------------------------------------------------


def rsa(x: np.ndarray, y: np.ndarray) -> float:
    """RSA (Kriegeskorte et al. 2008): Spearman correlation of the dissimilarities, 1 - Pearson, of all pairs of frames.

    From -1 to 1.
    """
    return inner_cosine(dissimilarity_ranks(x), dissimilarity_ranks(y))


def dissimilarity_ranks(x: np.ndarray) -> np.ndarray:
    """(n, D) -> (n (n - 1) / 2,): ranks of the dissimilarities, their mean subtracted.

    A frame whose dimensions are all equal has no correlation with others; its dissimilarity is 1.
    """
    x = x - x.mean(1, keepdims=True)
    norms = np.sqrt(np.square(x).sum(1, keepdims=True))
    x = np.divide(x, norms, out=np.zeros_like(x), where=norms > 0)
    ranks = rankdata(1 - (x @ x.T)[np.triu_indices(len(x), 1)])
    return ranks - ranks.mean()


def inner_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of two arrays of the same shape as vectors."""
    return float(np.vdot(a, b) / np.sqrt(np.vdot(a, a) * np.vdot(b, b)))


# ---- PWCCA -----------------------------------------------------------------------------------------------------------


def pwcca_anatome(x: np.ndarray, y: np.ndarray) -> float:
    """PWCCA as in anatome: weights from the absolute values of frames that are not centred, projected on orthonormal
    canonical directions. They are no sums of products, hence the sample. Depends on the order."""
    (left_x, values, right), (left_y, _, _) = (np.linalg.svd(one - one.mean(0), full_matrices=False) for one in (x, y))
    left, rho, _ = np.linalg.svd(left_x.T @ left_y, full_matrices=False)
    directions, _ = np.linalg.qr((right.T / values) @ left)  # (D1, c)
    weights = np.abs(x @ directions).sum(0)  # (c,)
    return float(weights @ np.clip(rho, 0, 1) / weights.sum())


# ---- mini-batch CKA --------------------------------------------------------------------------------------------------


def cka_batches(x: np.ndarray, y: np.ndarray, batch: int = BATCH) -> float:
    """Mini-batch CKA (Nguyen et al. 2021, arXiv 2010.15327): unbiased HSICs, averaged over batches of frames.

    A batch has frames at equal distances, because neighbours are alike; ``batch``: about how many.
    """
    return cosine_of_batches(batch_kernels(x, batch), batch_kernels(y, batch))


def batch_kernels(x: np.ndarray, batch: int = BATCH) -> list[np.ndarray]:
    """(n, D) -> linear kernels XX' of the batches, (b, b) each, with zero diagonals; b is at least ``MIN_BATCH``."""
    batches = max(1, round(len(x) / batch))
    parts = [x[first::batches] for first in range(batches)]
    kernels = [part @ part.T for part in parts if len(part) >= MIN_BATCH]
    for kernel in kernels:
        np.fill_diagonal(kernel, 0)
    return kernels


def cosine_of_batches(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
    """Ratio of the mean HSICs of the kernels that ``batch_kernels`` makes of two representations."""
    cross, own_a, own_b = (sum(map(hsic_unbiased, k, m)) for k, m in ((a, b), (a, a), (b, b)))
    return float(cross / np.sqrt(own_a * own_b))


def hsic_unbiased(k: np.ndarray, m: np.ndarray) -> float:
    """Unbiased HSIC of kernels (n, n) with zero diagonals, n > 3 (Song et al. 2012, equation 5)."""
    n, rows_k, rows_m = len(k), k.sum(0), m.sum(0)
    total = np.vdot(k, m) + rows_k.sum() * rows_m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows_k @ rows_m
    return float(total / (n * (n - 3)))
