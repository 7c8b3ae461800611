"""Euclidean k-means on frames, from coarse to fine, on any number of frames in bounded memory.

It takes fewer and cheaper steps than Lloyd's algorithm on all frames from the start (see
``tests/benchmarks/kmeans.py``):

1. Several starts, by k-means++ (Arthur and Vassilvitskii 2007) or from random frames, are tried on few frames; the best
   is kept.
2. The number of frames is doubled, with three steps at each size, up to all frames of the sample (as in Newling and
   Fleuret 2016). These steps are 1.5 times as long as Lloyd's, which saves about a third of them, and use the principal
   components that contain 98 % of the variance: 67 of 192 for a layer of the tiny DinoSR, 20 of 39 for MFCC.
3. Exact Lloyd steps follow, in all dimensions, over all frames, in chunks: ``step`` and ``move``.

A cluster that loses all its frames gets a new centroid, drawn as in k-means++: a frame far from all centroids.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

# Frames searched at a time, at most. faiss takes five times as long per frame if frames x dimensions are below 131072.
CHUNK = 16_384
FIRST, FIRST_AT_LEAST = 32, 8192  # frames on which a start is tried: per cluster, and in all
SPREAD, SPREAD_AT_LEAST = 8, 2048  # frames from which k-means++ draws: per cluster, and in all
SAMPLE, SAMPLE_AT_LEAST = 256, 50_000  # frames of the sample, on which all inexact steps run: per cluster, and in all
TRIAL_STEPS, SIZE_STEPS, LAST_STEPS = 3, 3, 20  # steps for each start; at each size; at most on the whole sample
PCA_FRAMES = 32_768  # frames from which the principal components are computed
MIN_GAIN = 1e-2  # relative gain in inertia of a step on the whole sample below which no further step is made
STRIDE = 1.5  # length of a step relative to Lloyd's; it would diverge at 2
PCA_VARIANCE, PCA_MIN_COMPONENTS = 0.98, 16  # share of the variance in the principal components; their minimum number
INITS = ("k-means++", "random")


# ---- one step --------------------------------------------------------------------------------------------------------


@dataclass
class Sums:
    """Statistics of a step.

    vectors: (k, D) float64, sum of each cluster's frames.
    counts: (k,) int64, number of each cluster's frames.
    inertia: sum of squared distances.
    """

    vectors: np.ndarray
    counts: np.ndarray
    inertia: float = 0.0

    @classmethod
    def zeros(cls, k: int, width: int) -> "Sums":
        return cls(np.zeros((k, width)), np.zeros(k, dtype=np.int64))

    def add(self, frames: np.ndarray, labels: np.ndarray) -> None:
        """(n, D) float32, (n,) int64."""
        from scipy.sparse import csc_matrix

        k = len(self.counts)
        members = csc_matrix(
            (np.ones(len(labels), np.float32), labels, np.arange(len(labels) + 1)), shape=(k, len(labels))
        )
        self.vectors += members @ frames  # (k, n) of zeros and ones, (n, D) -> (k, D)
        self.counts += np.bincount(labels, minlength=k)

    def means(self) -> np.ndarray:
        """(k, D) float64; zeros for a cluster without frames."""
        return self.vectors / np.maximum(self.counts, 1)[:, None]


def nearest(frames: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, D), (k, D) float32 -> squared distance (n,) float32 and number (n,) int64 of the nearest centroid.

    Uses faiss, on a GPU if it finds one.
    """
    import faiss

    middle = centroids.mean(axis=0)  # faiss computes |x|^2 - 2xc + |c|^2 in float32, which needs small |x| and |c|
    query, base = np.ascontiguousarray(frames - middle), np.ascontiguousarray(centroids - middle)
    if faiss.get_num_gpus():
        distances, labels = faiss.knn_gpu(gpu_resources(), query, base, 1)
    else:
        distances, labels = faiss.knn(query, base, 1)
    return distances[:, 0], labels[:, 0].astype(np.int64)


@cache
def gpu_resources():
    """faiss's scratch memory on the GPU: hundreds of MB, allocated once instead of for every chunk."""
    import faiss

    return faiss.StandardGpuResources()


def chunked(frames: np.ndarray) -> Iterator[np.ndarray]:
    """Split into consecutive parts (at most CHUNK, D) of about equal size."""
    return iter(np.array_split(frames, max(1, -(-len(frames) // CHUNK))))


def assign(frames: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Number of the nearest centroid (Euclidean): (n, D), (k, D) float32 -> (n,) int64."""
    return np.concatenate([nearest(chunk, centroids)[1] for chunk in chunked(frames)])


def step(chunks: Iterable[np.ndarray], centroids: np.ndarray) -> Sums:
    """Assign all frames of all chunks, each (n, D) float32, to the nearest centroids (k, D)."""
    sums = Sums.zeros(*centroids.shape)
    for chunk in chunks:
        distances, labels = nearest(chunk, centroids)
        sums.add(chunk, labels)
        sums.inertia += float(np.maximum(distances, 0).sum(dtype=np.float64))
    return sums


def move(
    centroids: np.ndarray, sums: Sums, spare: np.ndarray, rng: np.random.Generator, stride: float = 1.0
) -> np.ndarray:
    """The (k, D) centroids after a step of length ``stride`` towards the means.

    Clusters without frames get new centroids from the ``spare`` frames (n, D).
    """
    moved = (centroids + stride * (sums.means() - centroids)).astype(np.float32)
    empty = sums.counts == 0
    if empty.any():
        moved[empty] = plus_plus(spare, int(empty.sum()), rng, moved[~empty])
    return moved


def inertia_after(centroids: np.ndarray, sums: Sums) -> float:
    """Sum of squared distances from the frames to the means of the clusters that ``step`` assigned them to.

    It is an upper bound of the inertia of those means as centroids.
    """
    return max(0.0, sums.inertia - float((sums.counts[:, None] * (sums.means() - centroids) ** 2).sum()))


# ---- starts ----------------------------------------------------------------------------------------------------------


def plus_plus(frames: np.ndarray, count: int, rng: np.random.Generator, chosen: np.ndarray | None = None) -> np.ndarray:
    """Greedy k-means++: draw ``count`` of the frames (n, D), far ones with a higher probability.

    The probability is proportional to the squared distance from the nearest centroid so far.

    Each time 2 + log(count) frames are drawn and the one that reduces the inertia most is kept, as in scikit-learn.
    The frames should have a mean near zero; otherwise float32 is too coarse.

    Args:
        chosen: (m, D) centroids that exist already.
    """
    squares, draws = np.einsum("nd,nd->n", frames, frames), 2 + int(np.log(count))
    far = np.full(len(frames), 4 * squares.max() + 1, np.float32)  # exceeds the squared distance of any two frames
    distances = far if chosen is None else np.maximum(nearest(frames, chosen)[0], 0)
    picks = np.empty((count, frames.shape[1]), np.float32)
    for i in range(count):
        total = np.cumsum(distances, dtype=np.float64)
        rows = np.minimum(np.searchsorted(total, rng.random(draws) * total[-1], side="right"), len(frames) - 1)
        new_distances = squares - 2 * (frames[rows] @ frames.T) + squares[rows, None]  # (draws, n), |x - c|^2
        new_distances[np.arange(draws), rows] = 0
        new_distances = np.minimum(np.maximum(new_distances, 0), distances)
        best = int(new_distances.sum(axis=1).argmin())
        picks[i], distances = frames[rows[best]], new_distances[best]
    return picks


def best_start(frames: np.ndarray, k: int, init: str, restarts: int, rng: np.random.Generator) -> np.ndarray:
    """(k, D) centroids of the start with the lowest inertia after a few steps on all these frames."""
    few, tries = frames[: max(SPREAD * k, SPREAD_AT_LEAST)], []
    for _ in range(restarts):
        centroids = plus_plus(few, k, rng) if init == "k-means++" else frames[rng.choice(len(frames), k, replace=False)]
        for _ in range(TRIAL_STEPS):
            sums = step(chunked(frames), centroids)
            inertia, centroids = inertia_after(centroids, sums), move(centroids, sums, frames, rng)
        tries.append((inertia, centroids))
    return min(tries, key=lambda trial: trial[0])[1]


# ---- the sample ------------------------------------------------------------------------------------------------------


def principal_components(frames: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function that projects (m, D) frames to (m, d) float32: principal components of the (n, D) frames, centred.

    The d components contain ``PCA_VARIANCE`` of the variance. If that takes most of them, d = D without rotation.
    """
    few = frames[:PCA_FRAMES]
    mean = few.mean(axis=0)
    few = few - mean
    variances, directions = np.linalg.eigh((few.T @ few).astype(np.float64))  # in ascending order
    share = np.cumsum(variances[::-1]) / max(float(variances.sum()), 1e-30)  # (D,) of the variance
    d = max(PCA_MIN_COMPONENTS, int(np.searchsorted(share, PCA_VARIANCE)) + 1)
    if 3 * d > 2 * len(share):
        return lambda x: x - mean
    basis = np.ascontiguousarray(directions[:, ::-1][:, :d], dtype=np.float32)  # (D, d)
    return lambda x: np.concatenate([(part - mean) @ basis for part in chunked(x)])


def first_frames(n: int, k: int) -> int:
    return min(n, max(FIRST * k, FIRST_AT_LEAST))


def cluster(
    frames: np.ndarray, k: int, seed: int, init: str = INITS[0], restarts: int = 1, start: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """k-means on frames in memory, whose order must be random.

    Args:
        frames: (n, D) float32, finite, in random order, n >= k.
        init: one of ``INITS``.
        restarts: number of starts that are tried.
        start: (k, D) float32, initial centroids, used instead of ``init`` and ``restarts``. All frames are used from
            the first step, so that a small part of them cannot move the centroids away from the start.

    Returns:
        (k, D) float32 centroids, and the mean squared distance between the frames and the means of their clusters. Each
        centroid is the mean of its frames (of an empty cluster: a single frame). The same ``seed`` gives the same
        centroids.
    """
    from tqdm import tqdm

    rng, components = np.random.default_rng(seed), principal_components(frames)
    reduced = components(frames)
    first, n = first_frames(len(frames), k), len(frames)
    spare = reduced[:first]
    with tqdm(desc=f"k-means on a sample, k = {k}", unit="step", disable=None) as bar:
        centroids = best_start(spare, k, init, restarts, rng) if start is None else components(start)
        last = np.inf
        for size in sizes(first if start is None else n, n):
            sums = step(chunked(reduced[:size]), centroids)
            centroids = move(centroids, sums, spare, rng, STRIDE)
            bar.update()
            bar.set_postfix(frames=size, inertia=f"{sums.inertia / size:.5g}")
            if size == n and sums.inertia > (1 - MIN_GAIN) * last:
                break
            last = sums.inertia if size == n else np.inf
    origin, sums = np.zeros((k, frames.shape[1]), np.float32), Sums.zeros(k, frames.shape[1])
    for part, few in zip(chunked(frames), chunked(reduced)):
        sums.add(part, assign(few, centroids))
        squares = np.einsum("nd,nd->n", part, part)  # (n,) squared distances to the origin
        sums.inertia += float(squares.sum(dtype=np.float64))
    return move(origin, sums, frames[: len(spare)], rng), inertia_after(origin, sums) / n


def sizes(first: int, n: int) -> Iterator[int]:
    """Number of frames for each step: doubled after every ``SIZE_STEPS`` steps, then n for ``LAST_STEPS`` steps."""
    while first < n:
        yield from [first] * SIZE_STEPS
        first *= 2
    yield from [n] * LAST_STEPS
