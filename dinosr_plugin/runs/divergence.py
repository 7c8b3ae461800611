"""A run whose gradients are no longer finite ends with one line.

fairseq writes ``crash.pt``, repeats the update to print the values of many tensors, and ends with a traceback.
"""

import torch

from ..compat.wrapping import wrap_once
from ..errors import UserError, setting


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
    return UserError(
        f"update {trainer.get_num_updates() + 1}: {what} at the learning rate {trainer.get_lr():.4g}; lower "
        f"{setting('optimization.lr')}, lengthen the warm-up, or clip gradients ({setting('optimization.clip_norm')}); "
        "earlier checkpoints are unchanged"
    )
