"""What an update is, for every task of the plug-in: which batches count, and when a run ends early."""


import torch

from .. import compat
from . import stopping


class WholeUpdates:
    """Mixin before a fairseq task. A batch that fairseq hands a rank only because it has none left counts for nothing, wherever it stands
    among an update's micro-batches; a signal to one rank ends all of them after the same update, with a checkpoint."""

    def begin_epoch(self, epoch: int, model: torch.nn.Module):
        stopping.listen()
        compat.keep_freed_memory(model)
        super().begin_epoch(epoch, model)

    def begin_update(self, model: torch.nn.Module):
        """Called by ``compat.training.whole_updates`` before the first micro-batch of an update."""

    def end_update(self):
        """Called by it when the update is over, was skipped, or has failed: fairseq has waited for the GPU by then."""

    def train_step(self, sample, model, criterion, optimizer, update_num: int, ignore_grad: bool = False):
        """fairseq's forward and backward pass on a micro-batch; with ``ignore_grad``, for a dummy batch, all that it returns is 0."""
        loss, sample_size, log = super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad)
        if ignore_grad:
            sample_size, log = 0, {name: value * 0 for name, value in log.items()}
        return loss, sample_size, {**log, "signals": stopping.received()}

    def reduce_metrics(self, logging_outputs: list[dict], criterion):
        """Log an update, or a batch of a validation. The outputs are sums over ranks, the same on all: so are the decisions made here."""
        super().reduce_metrics(logging_outputs, criterion)
        if criterion.training:
            stopping.agree_on_signal(sum(log.get("signals", 0) for log in logging_outputs) > 0)
