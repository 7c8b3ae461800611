"""Dropout that costs little on a CPU: a quarter of torch's random numbers, and a byte for each value kept for the backward pass in place of a float."""

import torch
import torch.nn.functional as F
from torch import Tensor

BITS = 16  # of a random number that decides whether a value is dropped


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """Zeros with this probability (on a CPU in steps of 2^-16), all else times 1 / (1 - probability); x itself if not training."""
    if training and 0 < probability < 1 and x.device.type == "cpu":
        return Dropout.apply(x, probability)
    return F.dropout(x, probability, training)


class Dropout(torch.autograd.Function):
    """Keeps which values were kept: a byte each."""

    @staticmethod
    def forward(ctx, x: Tensor, probability: float) -> Tensor:
        keep = random_keep(x.shape, probability)
        ctx.save_for_backward(keep)
        ctx.grown = 1 / (1 - probability)
        return (x * keep).mul_(ctx.grown)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        (keep,) = ctx.saved_tensors
        return (grad * keep).mul_(ctx.grown), None


def random_keep(shape: torch.Size, probability: float) -> Tensor:
    """Bool, false with this probability (in steps of 2^-16), from torch's generator: four for each of its 64-bit numbers."""
    lowest = torch.iinfo(torch.int64).min
    words = torch.empty(-(-shape.numel() // 4), dtype=torch.int64).random_(lowest, None)
    numbers = words.view(torch.int16)[: shape.numel()].view(shape)
    return numbers >= min(round(probability * 2**BITS), 2**BITS - 1) - 2 ** (BITS - 1)
