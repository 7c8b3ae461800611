"""The pseudo-labels of a training over its epochs, compared with the speakers that the folders of its manifest name."""

from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ...data.manifest import read_rows
from ...data.utterance_labels import read_utterance_labels
from ...errors import UserError
from ..measures.speaker_clusters import cluster_figures
from ..training_log import read_training_log
from .recordings import named_speakers
from .training_run import label_files, min_samples

OTHER_MANIFEST = "give the manifest of the split that the training had"


def measure_labels(save_dir: str | Path, manifest: str | Path) -> list[dict[str, Any]]:
    """A row for the first labels (epoch 0), which are next to the manifest, and one for those after each epoch.

    Args:
        save_dir: ``checkpoint.save_dir`` of the training.
        manifest: of its training split.

    Returns:
        Rows with ``epoch``, the figures of ``cluster_figures``, and ``labels_changed``: the share of the recordings
        with another label than after the epoch before, None if its labels are missing.

    Raises:
        UserError: as ``label_files``, ``read_rows`` and ``named_speakers``; labels that are missing or damaged, or not
            one for each row of the manifest.
    """
    extension, files = label_files(save_dir)
    shortest = min_samples(save_dir)
    rows = [(path, samples) for _, path, samples in read_rows(Path(manifest))]
    skipped = {row for row, (_, samples) in enumerate(rows) if samples < shortest}
    names = [path for row, (path, _) in enumerate(rows) if row not in skipped]
    described = f"{manifest}" + (f" with at least {shortest} samples" if skipped else "")
    if not names:
        raise UserError(f"{manifest}: no rows, or none with at least {shortest} samples; {OTHER_MANIFEST}")
    speakers = named_speakers(names, manifest, "--manifest")
    numbers = np.unique(speakers, return_inverse=True)[1].tolist()  # which are compared faster than names

    first, _ = read_utterance_labels(Path(manifest).with_suffix(f".{extension}"), len(names), skipped=skipped)
    labels = {0: first.numpy()}
    for epoch, file in files.items():
        found, _ = read_utterance_labels(file, len(names), manifest=described, remedy=OTHER_MANIFEST)
        labels[epoch] = found.numpy()
    measured = []
    for epoch, now in tqdm(labels.items(), desc="labels", unit="epoch", disable=None):
        before = labels.get(epoch - 1)
        changed = None if before is None else float(np.mean(now != before))
        measured.append({"epoch": epoch, **cluster_figures(now, numbers), "labels_changed": changed})
    return measured


def mean_weights(log: str | Path) -> dict[int, float]:
    """Epoch -> mean weight of the utterances after it, from the JSON log of a training.

    Raises UserError as ``read_training_log``, and for a log without it.
    """
    records = [record for record in read_training_log(log, "train") if {"epoch", "mean_weight"} <= record.keys()]
    pairs = [(record["epoch"], record["mean_weight"]) for record in records]
    weights = {int(epoch): weight for epoch, weight in pairs if np.isfinite([epoch, weight]).all()}
    if not weights:
        raise UserError(
            f"{log}: contains no mean weights of pseudo-labels with their epochs; give the JSON log of the training "
            "(common.log_format=json), or omit --log"
        )
    return weights
