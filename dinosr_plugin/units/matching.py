"""Matching new clusters with old labels, so that most labels do not change, and the share that changes."""

from collections.abc import Iterable, Mapping

import numpy as np

from ..errors import UserError
from .clustering import Sums, assign
from .counts import contingency

CHUNK = 1 << 24  # labels compared at a time
TOLERANCE = 2  # maximum difference in length between an utterance and its old labels, in frames


def matching(counts: np.ndarray) -> np.ndarray:
    """Assign an old label to each new cluster, one to one, so that most frames keep their label.

    counts: (k, k), number of frames with each old label (row) in each new cluster. Returns (k,) int64.
    """
    from scipy.optimize import linear_sum_assignment

    old, new = linear_sum_assignment(counts, maximize=True)
    number_of = np.empty(len(counts), dtype=np.int64)
    number_of[new] = old
    return number_of


def count_pairs(old: np.ndarray, new: np.ndarray, k: int) -> np.ndarray:
    """(n,), (n,) -> (k, k) int64, how often each old label and new cluster coincide; -1 means no label."""
    counts = np.zeros((k, k), dtype=np.int64)
    for i in range(0, len(old), CHUNK):
        old_chunk, new_chunk = old[i : i + CHUNK], new[i : i + CHUNK]
        both = (old_chunk >= 0) & (new_chunk >= 0)
        counts += contingency(old_chunk[both], new_chunk[both], k, k)
    return counts


def changed_share(counts: np.ndarray, number_of: np.ndarray) -> float:
    """Share of the frames in ``counts`` whose label changes when new clusters get the numbers of ``matching``."""
    unchanged = counts[number_of, np.arange(len(counts))].sum()
    return 1 - float(unchanged / max(counts.sum(), 1))  # a Python float, because checkpoints contain it


def normalised_mutual_information(counts: np.ndarray) -> float:
    """Mutual information of rows and columns over the mean of their entropies, in [0, 1]; 1 if both are constant."""
    joint = counts / max(counts.sum(), 1)
    entropies = [float(-(p[p > 0] * np.log(p[p > 0])).sum()) for p in (joint.sum(1), joint.sum(0), joint)]
    mean = (entropies[0] + entropies[1]) / 2
    return min(max((2 * mean - entropies[2]) / mean, 0.0), 1.0) if mean > 0 else 1.0


class OldLabels:
    """Earlier labels of the same speech: k-means is initialised from them, and its clusters get their numbers.

    Attributes:
        sums: sums of the frames of each label.
        of_frames: for each utterance (n,) the labels of its frames; -1 after the last label.
    """

    def __init__(self, labels: Mapping[str, np.ndarray], k: int, width: int):
        self.labels, self.k = labels, k
        self.sums = Sums.zeros(k, width)
        self.of_frames: list[np.ndarray] = []

    def add(self, utt: str, frames: np.ndarray) -> None:
        """Add the frames (n, D) float32 of an utterance.

        Raises UserError if it has no labels, labels of another length, or a label above k - 1.
        """
        if utt not in self.labels:
            raise UserError(f"--from-labels: no labels for {utt}; give labels of the utterances to cluster")
        labels = np.asarray(self.labels[utt])
        if abs(len(labels) - len(frames)) > TOLERANCE:
            raise UserError(
                f"--from-labels: {utt} has {len(labels)} labels and {len(frames)} frames; give labels of the same "
                "utterances at the rate of the features"
            )
        labels = labels[: len(frames)].astype(np.int32)
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.k:
            raise UserError(
                f"--from-labels: {utt} has labels from {labels.min()} to {labels.max()}, outside 0 to {self.k - 1} for "
                f"{self.k} clusters; give labels of as many clusters"
            )
        self.sums.add(frames[: len(labels)], labels)
        self.of_frames.append(np.pad(labels, (0, len(frames) - len(labels)), constant_values=-1))

    def means(self, sample: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(k, D) float32 means; for a label without frames, a random frame of ``sample`` (n, D)."""
        means, empty = self.sums.means().astype(np.float32), self.sums.counts == 0
        means[empty] = sample[rng.choice(len(sample), int(empty.sum()), replace=False)]
        return means

    def count_with(self, chunks: Iterable[np.ndarray], centroids: np.ndarray) -> np.ndarray:
        """(k, k) int64: how often each label and new cluster coincide; ``chunks`` (n, D): all frames in order."""
        labels, counts, start = np.concatenate(self.of_frames), np.zeros((self.k, self.k), dtype=np.int64), 0
        for chunk in chunks:
            counts += count_pairs(labels[start : start + len(chunk)], assign(chunk, centroids), self.k)
            start += len(chunk)
        return counts
