"""Random spans to mask (wav2vec 2.0 section 3.1, with fairseq's number of spans)."""

from collections.abc import Sequence

import torch
from torch import Tensor


def row_generators(seed: int, rows: Sequence[int]) -> list[torch.Generator]:
    """A generator for each row, seeded by ``seed`` and the row's number.

    So the random numbers of a row do not depend on the batch or rank that it belongs to.
    """
    # the CPU generator uses 32 bits of a seed; the odd factor spreads neighbouring seeds over them
    return [torch.Generator().manual_seed((seed * 2_654_435_761 + row * 40_503 + 12_345) % 2**32) for row in rows]


def span_mask(
    sizes: Tensor,
    width: int,
    prob: float,
    length: int,
    same_count: bool = True,
    generators: Sequence[torch.Generator] | None = None,
) -> Tensor:
    """Mask random spans of ``length`` positions in each row.

    A row of n positions gets ``floor(prob * n / length + u)`` spans, u uniform in [0, 1), but at least one, with
    different starts. Spans may overlap, so less than ``prob`` of the row is masked. One position at least is unmasked.

    Args:
        sizes: (B,) int64 on the CPU, number of valid positions in each row; the others are never masked.
        width: columns of the result.
        prob: share of positions to mask, not taking overlaps into account.
        length: positions in a span.
        same_count: drop masked positions at random until all rows have as many as the row with the fewest.
        generators: one for each row; None: torch's default generator for all rows.

    Returns: (B, width) bool on the CPU.
    """
    extra, start_noise, drop_noise = _noise(len(sizes), width, generators)
    sizes = sizes.unsqueeze(1)  # (B, 1)
    spans = (prob * sizes / length + extra).floor().long().clamp(min=1)
    last_start = torch.maximum(sizes - length, spans + 1)  # in short rows spans exceed the end and are cut there
    position = torch.arange(width)
    score = start_noise.masked_fill(position >= torch.minimum(last_start, sizes), -1)
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
        mask = _highest(drop_noise.masked_fill(~mask, -1), keep)
    return mask


def _noise(rows: int, width: int, generators: Sequence[torch.Generator] | None):
    """Uniform numbers (B, 1), (B, W), (B, W). With ``generators`` those of a row do not depend on the width."""
    if generators is None:
        return torch.rand(rows, 1), torch.rand(rows, width), torch.rand(rows, width)
    # drawn position by position, so that a wider batch only appends numbers
    noise = torch.stack([torch.rand(width + 1, 2, generator=generator) for generator in generators])  # (B, W + 1, 2)
    return noise[:, 0, :1], noise[:, 1:, 0], noise[:, 1:, 1]


def _highest(score: Tensor, n: Tensor) -> Tensor:
    """(B, W) bool: true at the n (B, 1) highest scores (B, W) of each row, but not where the score is negative."""
    rank = score.argsort(1, descending=True).argsort(1)
    return (rank < n) & (score >= 0)
