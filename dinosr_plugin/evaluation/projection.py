"""Maps: a balanced sample of points in two dimensions, by t-SNE (van der Maaten and Hinton 2008) or by PCA."""

import importlib.util
from typing import NamedTuple

import numpy as np

WIDTH = 50  # number of principal components, the input of t-SNE
PERPLEXITY = 30
MIN_POINTS, MIN_VARIANCE = 5, 1e-9  # of t-SNE; the latter is the share along the second axis of PCA


class Projection(NamedTuple):
    """``points``: (N, 2); ``variance``: (2,) shares of the variance along both axes of PCA, None for t-SNE."""

    points: np.ndarray
    variance: np.ndarray | None


def project(x: np.ndarray, seed: int) -> Projection:
    """(N, D) by t-SNE if scikit-learn is installed and the points differ in two directions, otherwise by PCA.

    The result is the same for the same seed.
    """
    points, variance = principal_components(x)
    if len(x) < MIN_POINTS or variance[1] <= MIN_VARIANCE or not has_t_sne():
        return Projection(points, variance)
    return Projection(t_sne(x, seed), None)


def has_t_sne() -> bool:
    return importlib.util.find_spec("sklearn") is not None


def t_sne(x: np.ndarray, seed: int) -> np.ndarray:
    """(N, D) -> (N, 2) by t-SNE on the first principal components."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    x = np.asarray(x, dtype=np.float32)
    components = PCA(min(WIDTH, *x.shape), random_state=seed).fit_transform(x)
    return TSNE(perplexity=min(PERPLEXITY, (len(x) - 1) / 3), init="pca", random_state=seed).fit_transform(components)


def principal_components(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) -> the first two components (N, 2), and their shares (2,) of the variance.

    The sign of a component is that with which the largest element of its direction is positive.
    """
    centred = np.asarray(x, dtype=np.float64) - x.mean(axis=0)
    _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
    sizes, directions = np.pad(sizes, (0, 2)), np.pad(directions, ((0, 2), (0, 0)))  # one point has one direction
    directions = directions[:2]  # (2, D)
    largest = directions[[0, 1], np.abs(directions).argmax(axis=1)]
    variance = sizes[:2] ** 2 / max((sizes**2).sum(), np.finfo(np.float64).tiny)
    return centred @ (directions.T * np.sign(largest)), variance


def balanced(groups: np.ndarray, max_count: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of at most ``max_count`` elements of groups (N,), sorted: drawn from each group in turn."""
    shuffled = rng.permutation(len(groups))
    shuffled = shuffled[np.argsort(groups[shuffled], kind="stable")]
    _, starts, sizes = np.unique(groups[shuffled], return_index=True, return_counts=True)
    turn = np.arange(len(groups)) - np.repeat(starts, sizes)  # position within its group
    return np.sort(shuffled[np.lexsort((rng.random(len(groups)), turn))[:max_count]])
