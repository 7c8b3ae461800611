"""Batch normalisation over the batches of all ranks, on any device, with padding and dummy batches left out."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .codebook import distributed

EPSILON, MOMENTUM = 1e-5, 0.1  # PyTorch's defaults


class SyncedBatchNorm1d(nn.BatchNorm1d):
    """``nn.BatchNorm1d`` whose mean and variance are those of the frames of all ranks together.

    Parameters, buffers and their names are those of ``nn.BatchNorm1d``. In eval mode, and for a whole batch on one
    rank, it is ``nn.BatchNorm1d``. (``nn.SyncBatchNorm`` does not work on CPUs.)

    In training, every rank must make the same calls in the same order, and a backward pass for each, because both
    contain a collective. The gradient is that of the sum of all ranks' losses.

    Attributes:
        counted: whether this rank's batch is part of the statistics, see ``set_counted``.
    """

    def __init__(self, channels: int):
        super().__init__(channels, EPSILON, MOMENTUM)
        self.counted = True

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """x (B, C) or (B, C, F) -> the same shape and dtype.

        ``valid`` (B, F) bool excludes the other frames from the statistics; their values are undefined.
        """
        if not self.training or (self.counted and valid is None and not distributed()):
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            frames = x.float() if x.dim() == 3 else x.float().unsqueeze(2)  # (B, C, F)
            count, mean, variance = self._over_ranks(*moments(frames, valid))
            if self.track_running_stats:
                self._track(count, mean.detach(), variance.detach())
            scale = self.weight * (variance + EPSILON).rsqrt()
            normed = (frames - mean.unsqueeze(1)) * scale.unsqueeze(1) + self.bias.unsqueeze(1)
            return normed.view_as(x).to(x.dtype)

    def _over_ranks(self, count: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From this rank's moments to those of all ranks, in one collective.

        The sums of squares are float64: their difference to the squared mean would lose digits in float32.
        """
        count, mean, variance = (count * self.counted).double(), mean.double(), variance.double()
        sums = torch.cat([count, count * mean, count * (variance + mean.square())])  # (1 + C + C,)
        if distributed():
            sums = SumOverRanks.apply(sums)
        count, total, squares = sums.split([1, len(mean), len(mean)])
        mean = total / count.clamp(min=1)
        variance = (squares / count.clamp(min=1) - mean.square()).clamp(min=0)
        return count.detach(), mean.float(), variance.float()

    @torch.no_grad()
    def _track(self, count: Tensor, mean: Tensor, variance: Tensor):
        """Move the running averages, unless all ranks have dummy batches; ``running_var`` is the unbiased variance."""
        assert self.running_mean is not None and self.running_var is not None  # __init__ does not turn them off
        assert self.num_batches_tracked is not None
        momentum = MOMENTUM * (count > 0)  # (1,)
        unbiased = variance * (count / (count - 1).clamp(min=1))
        self.running_mean.copy_(self.running_mean + momentum * (mean - self.running_mean))
        self.running_var.copy_(self.running_var + momentum * (unbiased - self.running_var))
        self.num_batches_tracked.add_((count > 0).squeeze())


def set_counted(model: nn.Module, counted: bool):
    """Say whether the next batches of this rank are part of the statistics of ``model``'s batch norms.

    False for a dummy batch, which fairseq gives to a rank that has no batch left.
    """
    for module in model.modules():
        if isinstance(module, SyncedBatchNorm1d):
            module.counted = counted


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Let the batch norms of a model in eval mode use the statistics of its batches, and leave their buffers alone."""
    layers = [module for module in model.modules() if isinstance(module, SyncedBatchNorm1d)]
    for layer in layers:
        layer.training, layer.track_running_stats = True, False
    try:
        yield
    finally:
        for layer in layers:
            layer.training, layer.track_running_stats = False, True


def moments(x: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Number of frames (1,), mean (C,) and biased variance (C,) of x (B, C, F), over the valid (B, F) frames."""
    if valid is None:
        variance, mean = torch.var_mean(x, (0, 2), correction=0)
        return x.new_tensor([x.size(0) * x.size(2)]), mean, variance
    padding = ~valid.unsqueeze(1)  # (B, 1, F)
    count = valid.sum().view(1)
    mean = x.masked_fill(padding, 0).sum((0, 2)) / count.clamp(min=1)
    deviation = (x - mean.unsqueeze(1)).masked_fill(padding, 0)
    return count, mean, deviation.square().sum((0, 2)) / count.clamp(min=1)


class SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over all ranks. Its gradient is the sum of the gradients on all ranks."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, *grads: Tensor) -> Tensor:
        (grad,) = grads
        return SumOverRanks.apply(grad)
