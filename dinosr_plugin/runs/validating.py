"""Validation of a model that goes on from another one: where it started, and how old and new data compare."""

import logging
from collections.abc import Mapping

from ..compat.wrapping import wrap_once

logger = logging.getLogger(__name__)

FIRST = "first_validation"
"""Key in the task's state, which checkpoints contain: number of updates and figures of the first validation."""


def validate_before_the_first_update():
    """Validate a model with ``model.start_from`` once before it is trained: what it could do is what it may forget.

    Not with ``dataset.disable_validation`` or ``dataset.validate_after_updates``.
    """
    from fairseq_cli import train

    def make(previous):
        def train_epoch(cfg, trainer, task, epoch_itr):
            starts = trainer.get_num_updates() == 0 and getattr(cfg.model, "start_from", None) is not None
            if starts and not cfg.dataset.disable_validation and cfg.dataset.validate_after_updates == 0:
                train.validate(cfg, trainer, task, epoch_itr, cfg.dataset.valid_subset.split(","))
            return previous(cfg, trainer, task, epoch_itr)

        return train_epoch

    wrap_once(train, "train", make)


def log_subsets_side_by_side():
    """After a validation on several subsets, log their figures in one line, with the changes since the first one."""
    from fairseq_cli import train

    def make(previous):
        def validate(cfg, trainer, task, epoch_itr, subsets):
            figures = previous(cfg, trainer, task, epoch_itr, subsets)
            if len(subsets) > 1 and hasattr(task, "begin_update"):  # not a task of fairseq or of another plug-in
                now = {"updates": trainer.get_num_updates(), **dict(zip(subsets, map(float, figures)))}
                first = task.state.state_dict.setdefault(FIRST, now)
                if trainer.is_data_parallel_master:
                    logger.info(side_by_side(cfg.checkpoint.best_checkpoint_metric, now, first))
            return figures

        return validate

    wrap_once(train, "validate", make)


def side_by_side(metric: str, now: Mapping[str, float], first: Mapping[str, float]) -> str:
    """One line. ``now``, ``first``: "updates", and the figure of each subset by its name."""

    def figure(subset: str) -> str:
        change = "" if now is first or subset not in first else f" ({now[subset] - first[subset]:+.3f})"
        return f"{subset} {now[subset]:.3f}{change}"

    since = "" if now is first else f"; in brackets the change since update {first['updates']}"
    figures = ", ".join(figure(name) for name in now if name != "updates")
    return f"update {now['updates']}: {metric} on {figures}{since}"
