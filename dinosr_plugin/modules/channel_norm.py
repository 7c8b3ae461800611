"""Normalisation of every frame over its channels, as in CPC's encoder."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-5


class ChannelNorm(nn.Module):
    """(B, C, F) -> (B, C, F): mean 0 and *unbiased* variance 1 over the C channels of each frame, then scale and shift.

    A frame does not depend on other frames, so that a causal network stays causal.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """``channel_norm_reference`` with torch's LayerNorm, which is one kernel but uses the biased variance v.

        x / sqrt(C/(C-1) v + e) = sqrt((C-1)/C) x / sqrt(v + e (C-1)/C)
        """
        channels = x.size(1)
        ratio = (channels - 1) / channels  # biased to unbiased variance
        x = x.transpose(1, 2)  # (B, F, C)
        return F.layer_norm(x, (channels,), self.weight * ratio**0.5, self.bias, EPSILON * ratio).transpose(1, 2)


def channel_norm_reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What ``ChannelNorm`` computes, in plain PyTorch: x (B, C, F), weight and bias (C,)."""
    variance = x.var(1, unbiased=True, keepdim=True)
    normed = (x - x.mean(1, keepdim=True)) / (variance + EPSILON).sqrt()
    return normed * weight[:, None] + bias[:, None]
