"""The files in the folder of a training (``checkpoint.save_dir``) that show its course: labels and checkpoints."""

import re
from pathlib import Path
from typing import Any

from ...checkpoints.file import read_fairseq_checkpoint
from ...errors import UserError, first_few
from ...files import is_file, require_folder, scan

LABELS = re.compile(r"epoch([0-9]{1,9})\.([^.].*)", re.DOTALL)  # of tasks.speakers, in the folder labels
CHECKPOINT = re.compile(r"checkpoint([0-9]{1,9})\.pt")  # of fairseq, after whole epochs
LAST = "checkpoint_last.pt"


def label_files(save_dir: str | Path) -> tuple[str, dict[int, Path]]:
    """(extension, epoch -> file), in the order of the epochs, of the pseudo-labels that a training has written.

    Raises UserError for no such folder, one without labels, or one with labels of several extensions.
    """
    folder = require_folder(save_dir, "give the checkpoint.save_dir of a training") / "labels"
    found = [match for entry in scan(folder) if (match := LABELS.fullmatch(entry.name))]
    extensions = sorted({match[2] for match in found})
    if not found:
        raise UserError(
            f"{folder}: contains no labels (epoch1.clusters ...); give the checkpoint.save_dir of a training of "
            "ssrl_speaker that has updated its labels, or omit --manifest"
        )
    if len(extensions) > 1:
        raise UserError(
            f"{folder}: contains labels of several trainings ({first_few(extensions)}); remove those of the others"
        )
    return extensions[0], {int(match[1]): folder / match[0] for match in sorted(found, key=lambda one: int(one[1]))}


def epoch_checkpoints(save_dir: str | Path) -> dict[int, Path]:
    """Epoch -> checkpoint, in the order of the epochs. Raises UserError for no such folder."""
    folder = require_folder(save_dir, "give the checkpoint.save_dir of a training")
    found = [match for entry in scan(folder) if (match := CHECKPOINT.fullmatch(entry.name))]
    return {int(match[1]): folder / match[0] for match in sorted(found, key=lambda one: int(one[1]))}


def min_samples(save_dir: str | Path) -> int:
    """``task.min_sample_size`` of the training, by its last checkpoint: shorter rows of the manifest have no labels.

    0 without a checkpoint. Raises UserError for one that cannot be read.
    """
    candidates = [Path(save_dir) / LAST, *reversed(epoch_checkpoints(save_dir).values())]
    newest = next(filter(is_file, candidates), None)
    cfg: Any = read_fairseq_checkpoint(newest).get("cfg") if newest else None
    task = cfg["task"] if cfg else None
    value = task.get("min_sample_size") if isinstance(task, dict) else None
    return value if isinstance(value, int) else 0
