"""From the padding of waveforms to that of their frames."""

import torch
from torch import Tensor

from .frame_grid import FrameGrid


def frame_padding(grid: FrameGrid, source: Tensor, padding_mask: Tensor | None) -> Tensor:
    """Waveforms (B, T), their padding (B, T) bool or None -> padding (B, F) of their frames, on the same device."""
    B, T = source.shape
    n_samples = source.new_full((B,), T, dtype=torch.long) if padding_mask is None else (~padding_mask).sum(1)
    return torch.arange(grid.count(T), device=source.device) >= grid.counts(n_samples).unsqueeze(1)


def frame_sizes(grid: FrameGrid, source: Tensor, padding_mask: Tensor | None) -> Tensor:
    """Number of frames of each utterance, (B,) int64 on the CPU; arguments as ``frame_padding``.

    A GPU is waited for only if there is a padding_mask.
    """
    n_samples = torch.full((len(source),), source.size(1)) if padding_mask is None else (~padding_mask).sum(1).cpu()
    return grid.counts(n_samples)
