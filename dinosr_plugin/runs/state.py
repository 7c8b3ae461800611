"""State that fairseq does not save or restore, so that a resumed run equals one that was never interrupted."""

from ..compat.wrapping import wrap_once
from . import resuming


def restore_task_state():
    """Give the task's state back to a training that resumes, if the task sets ``restores_state``.

    fairseq saves that state in every checkpoint, but restores it for decoding only.
    """
    from fairseq.distributed import utils as distributed_utils
    from fairseq.trainer import Trainer

    def make(previous):
        def load_checkpoint(self, filename, *args, **kwargs):
            extra_state = previous(self, filename, *args, **kwargs)
            if extra_state is None or not getattr(self.task, "restores_state", False) or "://" in filename:
                return extra_state
            state = (resuming.read(filename).get("task_state") or {}) if self.data_parallel_rank == 0 else None
            if self.data_parallel_world_size > 1:
                state = distributed_utils.broadcast_object(state, 0, self.data_parallel_process_group, self.device)
            self.task.load_state_dict(state)
            return extra_state

        return load_checkpoint

    wrap_once(Trainer, "load_checkpoint", make)


def restore_early_stopping():
    """Save and restore what ``checkpoint.patience`` counts.

    fairseq keeps the best loss, and how many validations ago that was, as attributes of two functions. Checkpoints
    contain only the best loss for checkpoint_best.pt: a resumed run would count from zero and so train longer. And the
    next run in the same process would start with the values of this one.

    The count is restored where fairseq restores the best loss, so not if the optimiser or the meters are reset.
    """
    from fairseq import checkpoint_utils
    from fairseq.trainer import Trainer
    from fairseq_cli import train

    names = ("best", "num_runs")

    def save(previous):
        def save_checkpoint(self, filename, extra_state):
            count = {name: value for name, value in vars(train.should_stop_early).items() if name in names}
            return previous(self, filename, {**extra_state, "early_stopping": count})

        return save_checkpoint

    def restore(previous):
        def load_checkpoint(cfg, trainer, **passthrough_args):
            for function in (checkpoint_utils.save_checkpoint, train.should_stop_early):
                for name in names:
                    vars(function).pop(name, None)
            extra_state, epoch_itr = previous(cfg, trainer, **passthrough_args)
            if hasattr(checkpoint_utils.save_checkpoint, "best"):
                vars(train.should_stop_early).update(extra_state.get("early_stopping", {}))
            return extra_state, epoch_itr

        return load_checkpoint

    wrap_once(Trainer, "save_checkpoint", save)
    wrap_once(checkpoint_utils, "load_checkpoint", restore)


def restore_half_precision():
    """Save and restore the float32 copies of half-precision parameters, and all of the loss scaler.

    fairseq's checkpoints contain the rounded half-precision parameters and only the scale of the loss scaler, so that
    a resumed run would diverge from an uninterrupted one. Here the float32 copies and the scaler's counters are part of
    the optimiser's state.
    """
    from fairseq.optim.fp16_optimizer import _FP16OptimizerMixin

    def float32_copies(optimizer):
        copies = optimizer.fp32_params
        return list(copies.values()) if isinstance(copies, dict) else copies

    def save(previous):
        def state_dict(self):
            state = previous(self)
            state["fp32_params"] = [p.data for p in float32_copies(self)]
            if self.scaler is not None:
                numbers = {name: value for name, value in vars(self.scaler).items() if isinstance(value, (int, float))}
                state["scaler"] = numbers
            return state

        return state_dict

    def restore(previous):
        def load_state_dict(self, state_dict, optimizer_overrides=None):
            saved, scaler = state_dict.pop("fp32_params", None), state_dict.pop("scaler", None)
            previous(self, state_dict, optimizer_overrides)
            if saved is not None and [p.shape for p in saved] == [p.shape for p in float32_copies(self)]:
                for p, value in zip(float32_copies(self), saved):
                    p.data.copy_(value)
            if scaler is not None and self.scaler is not None:
                vars(self.scaler).update(scaler)

        return load_state_dict

    wrap_once(_FP16OptimizerMixin, "state_dict", save)
    wrap_once(_FP16OptimizerMixin, "load_state_dict", restore)
