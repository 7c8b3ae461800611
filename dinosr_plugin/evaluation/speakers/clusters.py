"""Recordings grouped into speakers: agglomerative clustering of embeddings."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...errors import UserError
from ...files import text_output
from ..measures.speaker_clusters import cluster_figures
from .embeddings import Embeddings
from .recordings import named_speakers

MAX_FILES = 20_000  # the distances of all pairs take 1.6 GB


class Clustered(NamedTuple):
    """``clusters``: (N,) numbers from 0."""

    names: list[str]
    clusters: np.ndarray


def cluster_embeddings(path: str | Path, count: int | None = None, threshold: float | None = None) -> Clustered:
    """Average linkage on cosines: the two clusters are merged whose recordings have the highest mean cosine.

    Clusters are numbered in the order of their first recording.

    Args:
        path: an embedding folder.
        count: merge until so many clusters remain; or
        threshold: merge while the mean cosine is at least this.

    Raises:
        UserError: as ``Embeddings``; fewer than two recordings, more than ``MAX_FILES``, or fewer than ``count``.
    """
    embeddings = Embeddings(path)
    n = len(embeddings)
    if not 2 <= n <= MAX_FILES:
        raise UserError(f"{path}: {n} recordings; clustering takes 2 to {MAX_FILES}; give a manifest with as many")
    if count is not None and count > n:
        raise UserError(f"--clusters {count}: {path} contains only {n} recordings; give a smaller number")
    return Clustered(embeddings.names, in_order(agglomerate(embeddings.vectors, count, threshold)))


def agglomerate(vectors: np.ndarray, count: int | None, threshold: float | None) -> np.ndarray:
    """(N, W) of norm 1, N > 1 -> (N,) labels of clusters; arguments as ``cluster_embeddings``."""
    from scipy.cluster.hierarchy import cut_tree, fcluster, linkage
    from scipy.spatial.distance import pdist

    tree = linkage(pdist(vectors.astype(np.float64), "cosine").clip(min=0), method="average")
    if count is not None:
        return cut_tree(tree, n_clusters=count)[:, 0]  # exactly as many, also where distances are equal
    assert threshold is not None
    return fcluster(tree, 1 - threshold, criterion="distance")


def in_order(labels: np.ndarray) -> np.ndarray:
    """The same clusters, numbered from 0 in the order of their first occurrence."""
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels.tolist()))}
    return np.array([numbers[label] for label in labels.tolist()])


def write_clusters(path: str | Path, clustered: Clustered) -> None:
    """A line ``file<TAB>cluster`` for each recording."""
    with text_output(path) as file:
        file.writelines(f"{name}\t{number}\n" for name, number in zip(clustered.names, clustered.clusters.tolist()))


def compare_with_folders(clustered: Clustered, what: str | Path) -> dict[str, Any]:
    """``cluster_figures`` for the speakers that the folders name. Raises UserError as ``named_speakers``."""
    return cluster_figures(clustered.clusters.tolist(), named_speakers(clustered.names, what, "--speakers"))
