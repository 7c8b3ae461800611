"""Normalisation of every frame over its channels, as CPC's encoder has it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-5


class ChannelNorm(nn.Module):
    """(B, C, F) -> (B, C, F): each frame gets mean 0 and *unbiased* variance 1 over its C channels, then a scale and a shift for each channel.

    A frame depends on no other frame, so that a causal network stays causal.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x / sqrt(C/(C-1) v + e) = sqrt((C-1)/C) x / sqrt(v + e (C-1)/C), v the biased variance: torch's layer norm, which is one kernel."""
        channels = x.size(1)
        share = (channels - 1) / channels
        return F.layer_norm(
            x.transpose(1, 2), (channels,), self.weight * share**0.5, self.bias, EPSILON * share
        ).transpose(1, 2)
