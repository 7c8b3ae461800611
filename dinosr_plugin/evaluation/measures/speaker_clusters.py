"""Clusters of recordings, compared with their speakers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...units.counts import contingency
from ...units.matching import normalised_mutual_information
from ..table import Column

COLUMNS = (
    Column("nmi", "NMI", ".3f"),
    Column("accuracy", "accuracy", ".3f"),
    Column("purity", "purity", ".3f"),
    Column("clusters", "clusters", "d"),
    Column("speakers", "speakers", "d"),
    Column("files", "files", "d"),
)


def cluster_figures(clusters: Sequence, speakers: Sequence) -> dict[str, Any]:
    """Figures of N recordings by the keys of ``COLUMNS``.

    - ``nmi``: mutual information over the arithmetic mean of both entropies.
    - ``accuracy``: share of the recordings whose cluster is matched to their speaker, by the one-to-one matching that
      maximises it (Hungarian algorithm). A cluster without a speaker of its own counts as wrong.
    - ``purity``: mean over clusters, each with the same weight, of the share of its most frequent speaker. Unlike the
      usual purity, it is not weighted by the size of the clusters: many clusters of one recording raise it.

    Args:
        clusters, speakers: (N,) labels of any kind, N > 0.
    """
    from scipy.optimize import linear_sum_assignment

    (cluster_names, rows), (speaker_names, columns) = (
        np.unique(np.asarray(labels), return_inverse=True) for labels in (clusters, speakers)
    )
    counts = contingency(rows, columns, len(cluster_names), len(speaker_names))  # (clusters, speakers)
    matched = counts[linear_sum_assignment(counts, maximize=True)].sum()
    return {
        "nmi": normalised_mutual_information(counts),
        "accuracy": float(matched / counts.sum()),
        "purity": float((counts.max(axis=1) / counts.sum(axis=1)).mean()),
        "clusters": len(cluster_names),
        "speakers": len(speaker_names),
        "files": len(rows),
    }
