"""The clusters of recordings that a checkpoint of SSRL has learned: its teacher's classifier."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..models.ssrl_speaker import SsrlSpeaker
from .file import read_fairseq_checkpoint
from .load import load_model
from .weights import fingerprint, require_finite

PSEUDO_LABELS = "pseudo_labels"
"""Where checkpoints keep the pseudo-labels of utterances, in the state of the task (``tasks.speakers``)."""


class ClusterClassifier(NamedTuple):
    """``directions``: (K, E) float32, each of norm 1; ``in_use``: (K,) bool; ``fingerprint``: of the whole model."""

    directions: np.ndarray
    in_use: np.ndarray
    fingerprint: str


def open_classifier(path: str | Path) -> ClusterClassifier:
    """The classifier of the teacher in a checkpoint of ``ssrl_speaker``.

    Clusters that no recording of the training had at its last update of labels are not in use.

    Raises:
        UserError: as ``load_model``; another model; weights that are not finite; no record of the clusters in use.
    """
    model = load_model(path).model
    if not isinstance(model, SsrlSpeaker):
        raise UserError(
            f"{path}: contains {type(model).__name__}, which has no classifier of clusters; give a checkpoint of "
            "ssrl_speaker, or --clusters or --threshold instead"
        )
    require_finite(model, path)
    directions = model.cluster_directions()
    in_use = ~removed_clusters(path, len(directions))
    return ClusterClassifier(directions.numpy(), in_use.numpy(), fingerprint([model]))


def removed_clusters(path: str | Path, n_clusters: int) -> Tensor:
    """(K,) bool. Raises UserError for a checkpoint that does not say it, or in which all are removed."""
    state = (read_fairseq_checkpoint(path).get("task_state") or {}).get(PSEUDO_LABELS)
    removed = state.get("removed") if isinstance(state, dict) else None
    is_mask = isinstance(removed, Tensor) and removed.dtype == torch.bool and removed.shape == (n_clusters,)
    if not is_mask or bool(removed.all()):  # type: ignore[union-attr]
        raise UserError(
            f"{path}: does not say which of its {n_clusters} clusters are in use; give a checkpoint that a training "
            "of ssrl_speaker saved"
        )
    return removed  # type: ignore[return-value]
