"""A run whose gradients are no longer finite ends with one line, and one whose loss explodes says so.

Where gradients are not finite, fairseq writes ``crash.pt``, repeats the update to print the values of many tensors, and
ends with a traceback.
"""

import logging
import math

import torch

from ..compat.wrapping import wrap_once
from ..errors import UserError, setting

logger = logging.getLogger(__name__)

EXPLODED = 10.0
"""Ratio to the loss of the first updates above which a loss does not fall any more: at the start a model guesses."""

FIRST = 5
"""Updates whose mean loss is that of the start."""

PATIENCE = 20
"""Updates in a row after which an exploded loss is reported, and reported again; single batches may be bad."""


class LossWatch:
    """Counts for how many updates in a row the loss has been much higher than at the start of the run."""

    def __init__(self) -> None:
        self.first: list[float] = []
        self.updates = 0

    def update(self, loss: float, number: int) -> None:
        """Look at the loss (per unit, of all ranks) of update ``number``, which is logged as usual if it is NaN."""
        if not math.isfinite(loss):
            return
        if len(self.first) < FIRST:
            self.first.append(loss)
            return
        start = sum(self.first) / FIRST
        self.updates = self.updates + 1 if loss > EXPLODED * start > 0 else 0
        if self.updates and self.updates % PATIENCE == 0:
            logger.warning(
                f"update {number}: the loss is {loss:.4g}, and was {start:.4g} in the first updates, so the run "
                f"diverges; {remedy()}"
            )


def remedy() -> str:
    return (
        f"lower {setting('optimization.lr')}, lengthen the warm-up, or clip gradients "
        f"({setting('optimization.clip_norm')})"
    )


def stop_diverged_runs():
    """Raise a UserError where fairseq raises a FloatingPointError, on all ranks; checkpoints stay as they are."""
    from fairseq.trainer import Trainer

    def before_clipping(previous):
        def clip_grad_norm(self, clip_norm):
            try:
                return previous(self, clip_norm)
            except FloatingPointError as error:  # of the loss scaler of fp16
                limit = setting("common.min_loss_scale", self.cfg.common.min_loss_scale)
                raise divergence_error(self, f"the loss scale of fp16 fell to {limit}") from error

        return clip_grad_norm

    def after_clipping(previous):
        def check_grad_norms(self, grad_norm):
            try:
                previous(self, grad_norm)
            except FloatingPointError as error:
                if torch.isfinite(self._grad_norm_buf).all():
                    raise UserError(
                        f"update {self.get_num_updates() + 1}: the gradients differ between the ranks; set "
                        f"{setting('distributed_training.ddp_backend', 'legacy_ddp')}, and use GPUs of one kind"
                    ) from error
                raise divergence_error(self, "the gradients are NaN or infinite") from error
            if not self.cfg.common.amp and not torch.isfinite(grad_norm).all():
                raise divergence_error(self, "the gradients are NaN or infinite")

        return check_grad_norms

    wrap_once(Trainer, "clip_grad_norm", before_clipping)
    wrap_once(Trainer, "_check_grad_norms", after_clipping)


def divergence_error(trainer, what: str) -> UserError:
    """The error for the update that ``trainer`` is making."""
    infinite = ""
    if getattr(getattr(trainer, "criterion", None), "zero_infinity", True) is False:  # of fairseq's CTC
        infinite = f"set {setting('criterion.zero_infinity', 'true')}, which transcripts with too few frames need, or "
    return UserError(
        f"update {trainer.get_num_updates() + 1}: {what} at the learning rate {trainer.get_lr():.4g}; "
        f"{infinite}{remedy()}; earlier checkpoints are unchanged"
    )
