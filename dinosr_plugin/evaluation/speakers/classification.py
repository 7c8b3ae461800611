"""Recordings grouped by a classifier: the clusters that a training of SSRL has learned."""

from pathlib import Path

import numpy as np

from ...checkpoints.classifier import open_classifier
from ...errors import UserError
from .clusters import Clustered
from .embeddings import Embeddings

CHUNK = 1 << 24  # numbers of a temporary array


def classify_embeddings(path: str | Path, checkpoint: str | Path) -> Clustered:
    """The cluster of each recording by the classifier of a checkpoint of SSRL: that with the highest cosine.

    It is the teacher's classifier, without margin and without the clusters that are not in use
    (``checkpoints.classifier``). Clusters have the numbers of the training's pseudo-labels; not all need occur.

    Args:
        path: a folder of this checkpoint's embeddings.

    Raises:
        UserError: as ``Embeddings`` and ``open_classifier``; embeddings of another model.
    """
    embeddings, classifier = Embeddings(path), open_classifier(checkpoint)
    made_by, width = embeddings.source.get("fingerprint"), classifier.directions.shape[1]
    if made_by != classifier.fingerprint or embeddings.width != width:
        raise UserError(
            f"{path}: was not made with {checkpoint}; make embeddings with `dinosr speaker embed {checkpoint} ...`"
        )
    return Clustered(embeddings.names, nearest(embeddings.vectors, classifier.directions, classifier.in_use))


def nearest(vectors: np.ndarray, directions: np.ndarray, in_use: np.ndarray) -> np.ndarray:
    """(N, W) and (K, W) of norm 1, (K,) bool -> (N,) numbers below K; of equal cosines, the lowest number."""
    numbers, kept = np.flatnonzero(in_use), directions[in_use]
    step = max(1, CHUNK // len(kept))
    parts = [(vectors[i : i + step] @ kept.T).argmax(axis=1) for i in range(0, len(vectors), step)]
    return numbers[np.concatenate(parts)]
