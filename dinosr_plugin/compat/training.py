"""fairseq's training loop and trainer: when it ends, what an update is, and what half precision keeps."""

import contextlib
import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..runs import stopping
from .wrapping import wrap_once

logger = logging.getLogger(__name__)


def stop_after_saving():
    """fairseq knows no signals: a batch system's kills it, and the updates since the last checkpoint are lost. And a run that has all
    its updates, or was stopped early, makes another one each time that it is started again.
    """
    from fairseq_cli import train

    def end_at_once(previous):
        def train_epoch(cfg, trainer, *args):
            if 0 < cfg.optimization.max_update <= trainer.get_num_updates():
                logger.info(
                    f"{trainer.get_num_updates()} updates done already: optimization.max_update={cfg.optimization.max_update}"
                )
                return [None], True
            if 0 < cfg.checkpoint.patience <= getattr(train.should_stop_early, "num_runs", 0):
                logger.info(
                    f"{train.should_stop_early.num_runs} validations in a row were no better already: checkpoint.patience={cfg.checkpoint.patience}"
                )
                return [None], True
            return previous(cfg, trainer, *args)

        return train_epoch

    def ask(previous):
        def should_stop(cfg, valid_loss):
            no_better = previous(cfg, valid_loss)  # in any case, for it counts
            return no_better or stopping.agreed() is not None

        return should_stop

    def leave(previous):
        def save(*args):
            result = previous(*args)
            if stopping.agreed() is not None:
                raise stopping.agreed()
            return result

        return save

    wrap_once(train, "train", end_at_once)
    wrap_once(train, "should_stop_early", ask)
    wrap_once(train, "validate_and_save", leave)


def early_stopping_goes_on():
    """fairseq keeps the best loss, and how many validations ago that was, as attributes of two functions. Only the best for checkpoint_best.pt is
    in checkpoints: a run with ``checkpoint.patience`` that goes on counts anew, and so trains longer. And the next run in the same process finds them.

    The count goes into the checkpoints, and comes back where fairseq takes the best loss back: not where optimiser or meters are reset.
    """
    from fairseq import checkpoint_utils
    from fairseq.trainer import Trainer
    from fairseq_cli import train

    names = ("best", "num_runs")

    def keep(previous):
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

    wrap_once(Trainer, "save_checkpoint", keep)
    wrap_once(checkpoint_utils, "load_checkpoint", restore)


def whole_updates():
    """Three faults in fairseq's update. It tells nobody that one begins, or is over whatever became of it: what an update that was skipped has
    collected would go into the next (``begin_update`` and ``end_update`` of the task). It judges all micro-batches of a rank by the last: where a
    rank's last one is empty, the others count as nothing (empty ones go first here). And when fp16 overflows it wants a GPU.
    """
    from fairseq.trainer import Trainer

    def make(previous):
        def train_step(self, samples, raise_oom: bool = False):
            with contextlib.ExitStack() as stack:
                if hasattr(self.task, "begin_update"):  # a task of ours
                    self.task.begin_update(self.get_model())
                    stack.callback(self.task.end_update)
                    samples = sorted(samples, key=bool)
                if not self.cuda:
                    stack.enter_context(cuda_means_cpu())
                return previous(self, samples, raise_oom)

        return train_step

    wrap_once(Trainer, "train_step", make)


@contextmanager
def cuda_means_cpu() -> Iterator[None]:
    """While this lasts, ``tensor.cuda()`` leaves it where it is."""
    previous = torch.Tensor.cuda
    torch.Tensor.cuda = lambda tensor, *_, **__: tensor
    try:
        yield
    finally:
        torch.Tensor.cuda = previous


def waveforms_stay_float32():
    """fairseq rounds the waveform to half precision before the model sees it; with 8 bits (bf16) the quiet half of a spectrum is gone."""
    from fairseq.trainer import Trainer

    def make(previous):
        def convert(self, sample):
            source = sample.get("net_input", {}).get("source") if isinstance(sample, dict) else None
            converted = previous(self, sample)
            if converted is sample:  # float32 training
                return sample
            sample = converted
            if source is not None and any(
                getattr(module, "takes_float32", False) for module in self.get_model().modules()
            ):
                sample["net_input"]["source"] = source
            return sample

        return convert

    wrap_once(Trainer, "_fp_convert_sample", make)


def half_precision_on_cpu():
    """fairseq joins the float32 copies of half-precision parameters in one tensor on the current GPU; without GPU they stay apart."""
    from fairseq.optim.fp16_optimizer import FP16Optimizer

    def make(previous):
        def build(cfg, params, **kwargs):
            if not params[0].is_cuda:
                cfg = copy.deepcopy(cfg)
                cfg.common.fp16_no_flatten_grads = True
            return previous(cfg, params, **kwargs)

        return build

    wrap_once(FP16Optimizer, "build_optimizer", make)


def exact_resume_of_half_precision():
    """fairseq's checkpoints hold half-precision parameters, rounded, and of the loss scaler the scale only: a resumed run takes another course.

    The float32 copies and the scaler's counters go into the optimiser's state.
    """
    from fairseq.optim.fp16_optimizer import _FP16OptimizerMixin

    def tensors(optimizer):
        return (
            list(optimizer.fp32_params.values()) if isinstance(optimizer.fp32_params, dict) else optimizer.fp32_params
        )

    def keep(previous):
        def state_dict(self):
            state = previous(self)
            state["fp32_params"] = [p.data for p in tensors(self)]
            if self.scaler is not None:
                state["scaler"] = {
                    name: value for name, value in vars(self.scaler).items() if isinstance(value, (int, float))
                }
            return state

        return state_dict

    def restore(previous):
        def load_state_dict(self, state_dict, optimizer_overrides=None):
            saved, scaler = state_dict.pop("fp32_params", None), state_dict.pop("scaler", None)
            previous(self, state_dict, optimizer_overrides)
            if saved is not None and [p.shape for p in saved] == [p.shape for p in tensors(self)]:
                for p, value in zip(tensors(self), saved):
                    p.data.copy_(value)
            if scaler is not None and self.scaler is not None:
                vars(self.scaler).update(scaler)

        return load_state_dict

    wrap_once(_FP16OptimizerMixin, "state_dict", keep)
    wrap_once(_FP16OptimizerMixin, "load_state_dict", restore)
