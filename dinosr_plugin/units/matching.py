"""New clusters in place of old labels: the number that each takes over, so that most labels stay, and how many change."""

from collections.abc import Iterable, Mapping

import numpy as np

from ..errors import UserError
from .clustering import Sums, assign
from .counts import contingency

PART = 1 << 24  # labels compared at a time
TOLERANCE = 2  # frames by which an utterance and its old labels may differ


def matching(counts: np.ndarray) -> np.ndarray:
    """(k, k) frames of each old label (row) in each new cluster -> (k,) the old label of each new cluster, one to one."""
    from scipy.optimize import linear_sum_assignment

    old, new = linear_sum_assignment(counts, maximize=True)
    number_of = np.empty(len(counts), dtype=np.int64)
    number_of[new] = old
    return number_of


def count_pairs(old: np.ndarray, new: np.ndarray, k: int) -> np.ndarray:
    """(n,), (n,) -> (k, k) int64, how often each old label and new cluster coincide; -1 in either means none."""
    counts = np.zeros((k, k), dtype=np.int64)
    for i in range(0, len(old), PART):
        some_old, some_new = old[i : i + PART], new[i : i + PART]
        both = (some_old >= 0) & (some_new >= 0)
        counts += contingency(some_old[both], some_new[both], k, k)
    return counts


def changed_share(counts: np.ndarray, number_of: np.ndarray) -> float:
    """Share of the frames in ``counts`` whose label changes when new clusters get the numbers of ``matching``."""
    return 1 - float(
        counts[number_of, np.arange(len(counts))].sum() / max(counts.sum(), 1)
    )  # a float of Python's: checkpoints hold it


def normalised_mutual_information(counts: np.ndarray) -> float:
    """Mutual information of rows and columns over the mean of their entropies, in [0, 1]; 1 where both are constant."""
    joint = counts / max(counts.sum(), 1)
    entropies = [float(-(p[p > 0] * np.log(p[p > 0])).sum()) for p in (joint.sum(1), joint.sum(0), joint)]
    mean = (entropies[0] + entropies[1]) / 2
    return min(max((2 * mean - entropies[2]) / mean, 0.0), 1.0) if mean > 0 else 1.0


class OldLabels:
    """Earlier labels of the same speech: k-means starts from them, and its clusters take over their numbers.

    Attributes:
        sums: of the frames of each label.
        of_frames: for each utterance (n,) labels of its frames; -1 past the last label.
    """

    def __init__(self, labels: Mapping[str, np.ndarray], k: int, width: int):
        self.labels, self.k = labels, k
        self.sums = Sums.zeros(k, width)
        self.of_frames: list[np.ndarray] = []

    def add(self, utt: str, frames: np.ndarray) -> None:
        """(n, D) float32. Raises UserError for an utterance without labels, of another length, or with a label above k - 1."""
        if utt not in self.labels:
            raise UserError(f"--from-labels: no labels for {utt}; give labels of the speech that is clustered")
        labels = np.asarray(self.labels[utt])
        if abs(len(labels) - len(frames)) > TOLERANCE:
            raise UserError(
                f"--from-labels: {utt} has {len(labels)} of them and {len(frames)} frames; give labels of the same speech at the rate of the features"
            )
        labels = labels[: len(frames)].astype(np.int32)
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.k:
            raise UserError(
                f"--from-labels: {utt} has {labels.min()} to {labels.max()}, but {self.k} clusters have the numbers 0 to {self.k - 1}; make the labels again"
            )
        self.sums.add(frames[: len(labels)], labels)
        self.of_frames.append(np.pad(labels, (0, len(frames) - len(labels)), constant_values=-1))

    def means(self, sample: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(k, D) float32; for a label without frames a random one of the ``sample`` (n, D)."""
        means, empty = self.sums.means().astype(np.float32), self.sums.counts == 0
        means[empty] = sample[rng.choice(len(sample), int(empty.sum()), replace=False)]
        return means

    def count_with(self, chunks: Iterable[np.ndarray], centroids: np.ndarray) -> np.ndarray:
        """(k, k) int64: how often each label and new cluster coincide; ``chunks`` (n, D) hold all frames in order."""
        labels, counts, start = np.concatenate(self.of_frames), np.zeros((self.k, self.k), dtype=np.int64), 0
        for chunk in chunks:
            counts += count_pairs(labels[start : start + len(chunk)], assign(chunk, centroids), self.k)
            start += len(chunk)
        return counts
