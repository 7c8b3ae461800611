"""What an update and an epoch are, for every task of the plug-in: which batches count, and when a run stops early."""

from typing import Any

import torch

from ..compat.wrapping import wrap_once
from . import stopping
from .divergence import LossWatch
from .memory import keep_freed_memory


class WholeUpdates:
    """Mixin that precedes a fairseq task among the base classes.

    A dummy batch, which fairseq gives to a rank that has no batch left, does not count, wherever it is among the
    micro-batches of an update. A signal to one rank stops all of them at the same moment, with a checkpoint.
    """

    update = 0  # number of the update that is being made, from 1

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.losses = LossWatch()

    def build_model(self, cfg: Any, from_checkpoint: bool = False):
        if not from_checkpoint:
            stopping.end_at_once()
        return super().build_model(cfg, from_checkpoint)

    def begin_epoch(self, epoch: int, model: torch.nn.Module):
        stopping.listen()
        keep_freed_memory(model)
        super().begin_epoch(epoch, model)

    def end_epoch(self, epoch: int):
        """Called by ``call_epoch_hook`` after the last update of an epoch, before it is validated and saved."""

    def begin_update(self, model: torch.nn.Module):
        """Called by ``call_update_hooks`` before the first micro-batch of an update."""

    def end_update(self):
        """Called by ``call_update_hooks`` after an update was made, was skipped or failed.

        fairseq has waited for the GPU by then.
        """

    def train_step(self, sample, model, criterion, optimizer, update_num: int, ignore_grad: bool = False):
        """fairseq's forward and backward pass on a micro-batch; all values are 0 for a dummy one (``ignore_grad``)."""
        self.update = update_num + 1
        loss, sample_size, log = super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad)
        if ignore_grad:
            sample_size, log = 0, {name: value * 0 for name, value in log.items()}
        return loss, sample_size, {**log, "signals": stopping.received()}

    def valid_step(self, sample, model, criterion):
        """fairseq's."""
        loss, sample_size, log = super().valid_step(sample, model, criterion)
        return loss, sample_size, {**log, "signals": stopping.received()}

    def reduce_metrics(self, logging_outputs: list[dict], criterion):
        """Log an update, or a batch of a validation.

        The outputs are sums over ranks and so are the same on all ranks, and so are the decisions made here.
        """
        super().reduce_metrics(logging_outputs, criterion)
        if criterion.training:
            self.losses.update(loss_per_unit(logging_outputs), self.update)
        any_received = sum(log.get("signals", 0) for log in logging_outputs) > 0
        stopping.agree_on_signal(any_received, "update" if criterion.training else "validation")


def loss_per_unit(logging_outputs: list[dict]) -> float:
    """The loss of an update, as the criterion gave it, divided by its sample size, or by its tokens without one."""
    loss, size, tokens = (
        float(sum(log.get(name, 0) for log in logging_outputs)) for name in ("loss", "sample_size", "ntokens")
    )
    return loss / (size or tokens or 1.0)


def call_epoch_hook():
    """Call ``end_epoch`` of a task that has it, on all ranks.

    fairseq tells the task only when the next epoch begins, which is too late for the checkpoint, and does not happen
    after the last epoch.
    """
    from fairseq_cli import train

    def make(previous):
        def validate_and_save(cfg, trainer, task, epoch_itr, valid_subsets, end_of_epoch):
            if end_of_epoch and hasattr(task, "end_epoch"):  # not a task of fairseq or of another plug-in
                task.end_epoch(epoch_itr.epoch)
            return previous(cfg, trainer, task, epoch_itr, valid_subsets, end_of_epoch)

        return validate_and_save

    wrap_once(train, "validate_and_save", make)


def call_update_hooks():
    """Call ``begin_update`` and ``end_update`` of a task that has them, and put a rank's empty micro-batches first.

    fairseq does not tell the task when an update begins or ends. What a skipped update collected would be added to the
    next one. It also treats all micro-batches of a rank as dummies if the last one is empty.
    """
    from fairseq.trainer import Trainer

    def make(previous):
        def train_step(self, samples, raise_oom: bool = False):
            if not hasattr(self.task, "begin_update"):  # a task of fairseq or of another plug-in
                return previous(self, samples, raise_oom)
            self.task.begin_update(self.get_model())
            try:
                return previous(self, sorted(samples, key=bool), raise_oom)
            finally:
                self.task.end_update()

        return train_step

    wrap_once(Trainer, "train_step", make)
