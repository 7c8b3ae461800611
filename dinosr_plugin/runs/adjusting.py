"""Settings of a training that follow from its data and from other settings."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from ..errors import setting

logger = logging.getLogger(__name__)

VALIDATION = ("valid", "dev")
"""Usual names of a validation split: `dinosr manifest folder` writes the first, and `dinosr synth` makes the second."""


def adjust(cfg: DictConfig) -> None:
    """Change the settings of a config that has been checked, and log what a user would not expect."""
    use_existing_validation_split(cfg)
    decay_for_an_update(cfg)


def use_existing_validation_split(cfg: DictConfig) -> None:
    """Replace valid by dev in ``dataset.valid_subset``, or dev by valid, if only the other one has a manifest."""
    if not isinstance(folder := cfg.task.get("data"), str):
        return
    names = str(cfg.dataset.valid_subset).split(",")
    found = [existing(Path(folder), name) for name in names]
    if found != names:
        cfg.dataset.valid_subset = ",".join(found)
        logger.info(
            f"{folder}: has no {setting('dataset.valid_subset', ','.join(names))}, so that validation uses "
            f"{cfg.dataset.valid_subset}"
        )


def existing(folder: Path, name: str) -> str:
    """The name of the other usual validation split, if it has a manifest in the folder and this one has none."""
    if name not in VALIDATION or (folder / f"{name}.tsv").exists():
        return name
    return next((other for other in VALIDATION if (folder / f"{other}.tsv").is_file()), name)


def decay_for_an_update(cfg: DictConfig) -> None:
    """With few updates, give the last phase of ``tri_stage`` one update: fairseq divides by the length of that phase.

    So a first try can have ``optimization.max_update=1``.
    """
    schedule, updates = cfg.lr_scheduler, cfg.optimization.max_update
    if schedule is None or schedule.get("_name") != "tri_stage" or not schedule.phase_ratio:
        return
    warm_up, hold, decay = (int(updates * float(ratio)) for ratio in schedule.phase_ratio)
    if decay == 0:
        schedule.phase_ratio = None
        schedule.warmup_steps, schedule.hold_steps, schedule.decay_steps = warm_up, hold, 1
