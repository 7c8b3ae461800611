"""Euclidean k-means on frames: from coarse to fine, on any number of frames in bounded memory.

Fewer steps, and cheaper ones, than Lloyd's from the start on everything (measured in ``tests/benchmarks/kmeans.py``):

1. Starts, by k-means++ (Arthur and Vassilvitskii 2007) or random frames, are tried on few frames; the best goes on.
2. The number of frames is doubled, with three steps at each size, until all frames of the sample are in (as Newling and Fleuret 2016).
   These steps go half as far again as Lloyd's, which saves about a third of them, and look at the principal components that hold
   98 % of the variance: 67 of 192 for a layer of the tiny DinoSR, 20 of 39 for MFCC.
3. Exact steps of Lloyd's in all dimensions, over everything, in chunks: ``step`` and ``move``.

A cluster that loses all its frames gets a new centroid as k-means++ draws one: a frame far from all centroids.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

CHUNK = 16_384  # frames searched at a time, at most; faiss takes five times as long a frame where frames times dimensions are under 131072
FIRST, FIRST_AT_LEAST = 32, 8192  # frames a cluster that starts are tried on; and in all
SPREAD, SPREAD_AT_LEAST = 8, 2048  # frames a cluster that k-means++ draws from; and in all
SAMPLE, SAMPLE_AT_LEAST = 256, 50_000  # frames a cluster that all steps but the exact ones see; and in all
TRIAL_STEPS, SIZE_STEPS, LAST_STEPS = 3, 3, 20  # for each start; at each size; at most, with the whole sample
LOOKED_AT = 32_768  # frames that the principal components are computed from
GAIN = 1e-2  # relative gain in inertia of a step, below which the sample has no more to give
STRIDE = 1.5  # of a step, in units of Lloyd's; it would diverge at 2
SHARE, AT_LEAST = 0.98, 16  # of the variance, that the principal components hold; how many there are at least
INITS = ("k-means++", "random")


# ---- one step ---------------------------------------------------------------------------------------------------------------


@dataclass
class Sums:
    """What a step must know. vectors: (k, D) float64, sum of each cluster's frames; counts: (k,) int64; inertia: summed squared distances."""

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
    """(n, D), (k, D) float32 -> squared distance (n,) float32 and number (n,) int64 of the nearest centroid. faiss, on a GPU where it finds one."""
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
    """faiss's scratch memory on the GPU: hundreds of MB, allocated once and not for every chunk."""
    import faiss

    return faiss.StandardGpuResources()


def chunked(frames: np.ndarray) -> Iterator[np.ndarray]:
    """Neighbouring parts (at most CHUNK, D), about equal."""
    return iter(np.array_split(frames, max(1, -(-len(frames) // CHUNK))))


def assign(frames: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Number of the nearest centroid, squared Euclid: (n, D), (k, D) float32 -> (n,) int64."""
    return np.concatenate([nearest(chunk, centroids)[1] for chunk in chunked(frames)])


def step(chunks: Iterable[np.ndarray], centroids: np.ndarray) -> Sums:
    """Assign all frames of all chunks, each (n, D) float32, to centroids (k, D)."""
    sums = Sums.zeros(*centroids.shape)
    for chunk in chunks:
        distances, labels = nearest(chunk, centroids)
        sums.add(chunk, labels)
        sums.inertia += float(np.maximum(distances, 0).sum(dtype=np.float64))
    return sums


def move(
    centroids: np.ndarray, sums: Sums, spare: np.ndarray, rng: np.random.Generator, stride: float = 1.0
) -> np.ndarray:
    """The (k, D) centroids after a step of ``stride`` towards the means; those without frames are drawn from the ``spare`` frames (n, D)."""
    moved = (centroids + stride * (sums.means() - centroids)).astype(np.float32)
    empty = sums.counts == 0
    if empty.any():
        moved[empty] = plus_plus(spare, int(empty.sum()), rng, moved[~empty])
    return moved


def inertia_after(centroids: np.ndarray, sums: Sums) -> float:
    """Summed squared distances to the means of the frames that ``step`` assigned to ``centroids``: never below the inertia of those means."""
    return sums.inertia - float((sums.counts[:, None] * (sums.means() - centroids) ** 2).sum())


# ---- starts -----------------------------------------------------------------------------------------------------------------


def plus_plus(frames: np.ndarray, count: int, rng: np.random.Generator, chosen: np.ndarray | None = None) -> np.ndarray:
    """Greedy k-means++: ``count`` of the frames (n, D), drawn with a probability in proportion to the squared distance from the nearest one before.

    Of 2 + log(count) that are drawn at a time, the one that helps most is taken, as scikit-learn does it.
    ``chosen``: (m, D) centroids that are there already. The frames should have a mean near zero, or float32 is too coarse.
    """
    squares, draws = np.einsum("nd,nd->n", frames, frames), 2 + int(np.log(count))
    far = np.full(len(frames), 4 * squares.max() + 1, np.float32)  # farther than any two frames are apart
    distances = far if chosen is None else np.maximum(nearest(frames, chosen)[0], 0)
    picks = np.empty((count, frames.shape[1]), np.float32)
    for i in range(count):
        total = np.cumsum(distances, dtype=np.float64)
        rows = np.minimum(np.searchsorted(total, rng.random(draws) * total[-1], side="right"), len(frames) - 1)
        then = squares - 2 * (frames[rows] @ frames.T) + squares[rows, None]  # (draws, n), |x - c|^2
        then[np.arange(draws), rows] = 0
        then = np.minimum(np.maximum(then, 0), distances)
        best = int(then.sum(axis=1).argmin())
        picks[i], distances = frames[rows[best]], then[best]
    return picks


def best_start(frames: np.ndarray, k: int, init: str, restarts: int, rng: np.random.Generator) -> np.ndarray:
    """(k, D) centroids of the start of ``restarts`` that has the lowest inertia after a few steps on all these frames."""
    few, tries = frames[: max(SPREAD * k, SPREAD_AT_LEAST)], []
    for _ in range(restarts):
        centroids = plus_plus(few, k, rng) if init == "k-means++" else frames[rng.choice(len(frames), k, replace=False)]
        for _ in range(TRIAL_STEPS):
            sums = step(chunked(frames), centroids)
            inertia, centroids = inertia_after(centroids, sums), move(centroids, sums, frames, rng)
        tries.append((inertia, centroids))
    return min(tries, key=lambda trial: trial[0])[1]


# ---- the sample -------------------------------------------------------------------------------------------------------------


def principal_components(frames: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Of (n, D) frames: what maps (m, D) to (m, d) float32, mean near zero: the components that hold ``SHARE`` of the variance, or all D where most are needed."""
    few = frames[:LOOKED_AT]
    mean = few.mean(axis=0)
    few = few - mean
    variances, directions = np.linalg.eigh((few.T @ few).astype(np.float64))  # rising
    held = np.cumsum(variances[::-1]) / max(float(variances.sum()), 1e-30)
    d = max(AT_LEAST, int(np.searchsorted(held, SHARE)) + 1)
    if 3 * d > 2 * len(held):
        return lambda given: given - mean
    basis = np.ascontiguousarray(directions[:, ::-1][:, :d], dtype=np.float32)  # (D, d)
    return lambda given: np.concatenate([(part - mean) @ basis for part in chunked(given)])


def first_frames(n: int, k: int) -> int:
    return min(n, max(FIRST * k, FIRST_AT_LEAST))


def cluster(
    frames: np.ndarray, k: int, seed: int, init: str = INITS[0], restarts: int = 1, start: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """k-means on frames in memory, of which any first part is taken for a random sample.

    Args:
        frames: (n, D) float32, finite, in random order, n >= k.
        init: one of ``INITS``.
        restarts: starts that are tried.
        start: (k, D) float32, centroids to begin with in place of these; all frames are in from the first step, so that few cannot lead away from it.

    Returns:
        (k, D) float32 centroids, means of the frames (a single frame for a cluster that was empty), the same for the same ``seed``;
        the mean squared distance between the frames and the means of their clusters.
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
            if size == n and sums.inertia > (1 - GAIN) * last:
                break
            last = sums.inertia if size == n else np.inf
    origin, sums = np.zeros((k, frames.shape[1]), np.float32), Sums.zeros(k, frames.shape[1])
    for part, few in zip(chunked(frames), chunked(reduced)):
        sums.add(part, assign(few, centroids))
        sums.inertia += float(
            np.einsum("nd,nd->n", part, part).sum(dtype=np.float64)
        )  # squared distances to the origin
    return move(origin, sums, frames[: len(spare)], rng), inertia_after(origin, sums) / n


def sizes(first: int, n: int) -> Iterator[int]:
    """How many frames each step sees: doubled after every ``SIZE_STEPS``, then all for ``LAST_STEPS``."""
    while first < n:
        yield from [first] * SIZE_STEPS
        first *= 2
    yield from [n] * LAST_STEPS
