"""Random spans to mask (wav2vec 2.0 section 3.1, with fairseq's count of spans), drawn from torch's generator so that a seed fixes them."""

import torch
from torch import Tensor


def span_mask(sizes: Tensor, width: int, prob: float, length: int, same_count: bool = True) -> Tensor:
    """Mask spans of ``length`` positions in each row.

    A row of n positions gets ``floor(prob * n / length + u)`` spans, u uniform in [0, 1) and at least one, with different
    starts; spans may overlap, so less than ``prob`` of the row is masked. At least one position stays unmasked.

    Args:
        sizes: (B,) int64 on CPU, valid positions in each row; the others are never masked.
        width: columns of the result.
        prob: share of positions to mask, counted without overlap.
        length: positions in a span.
        same_count: drop masked positions at random until all rows have as many as the row with the fewest.

    Returns: (B, width) bool on CPU.
    """
    sizes = sizes.unsqueeze(1)  # (B, 1)
    spans = (prob * sizes / length + torch.rand(sizes.shape)).floor().long().clamp(min=1)
    last_start = torch.maximum(sizes - length, spans + 1)  # short rows: spans run over the end and are cut there
    position = torch.arange(width)
    score = torch.rand(len(sizes), width).masked_fill(position >= torch.minimum(last_start, sizes), -1)
    starts = _highest(score, spans).int()
    # masked where a span started at most length - 1 positions before
    begun = starts.cumsum(1)
    begun[:, length:] = begun[:, length:] - begun[:, :-length]
    mask = (begun > 0) & (position < sizes)
    masked = mask.sum(1, keepdim=True)
    keep = torch.minimum(masked, sizes - 1)
    if same_count:
        keep = keep.min().expand_as(keep)
    if bool((keep < masked).any()):
        mask = _highest(torch.rand(mask.shape).masked_fill(~mask, -1), keep)
    return mask


def _highest(score: Tensor, n: Tensor) -> Tensor:
    """True at the n (B, 1) highest of each row of score (B, W); never where the score is negative."""
    rank = score.argsort(1, descending=True).argsort(1)
    return (rank < n) & (score >= 0)
