"""Sinkhorn's algorithm: soft assignments of frames to codes in which all codes are used equally."""

from collections.abc import Callable

import torch
from torch import Tensor

MAX_SCALE = 80.0
"""Largest 1 / epsilon: exp(cosine / epsilon), summed over the frames of a batch, has to fit into float32."""


@torch.no_grad()
def sinkhorn(
    scores: Tensor, epsilon: float, iterations: int, sum_over_ranks: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Soft assignments (Caron et al., NeurIPS 2020, arXiv 2006.09882, section 3.1; Spin, section 2.2).

    exp(scores / epsilon) is scaled ``iterations`` times, so that all codes have the same total over frames, and then
    every frame has the total 1. Everything is computed in float32, also under autocast.

    Args:
        scores: (..., N, K), similarities between N frames and K codes, between -1 and 1. Leading dimensions are
            balanced separately.
        epsilon: at least 1 / ``MAX_SCALE``; the smaller it is, the closer the assignments are to 0 and 1.
        iterations: at least 1.
        sum_over_ranks: sums the codes' totals (..., 1, K) over ranks, whose frames are then balanced together; called
            once in each iteration, with zeros on a rank without frames.

    Returns:
        (..., N, K) float32; each row sums to 1, and each column to about N / K.
    """
    with torch.autocast(scores.device.type, enabled=False):
        assignments = (scores.float() / epsilon).exp()
        for _ in range(iterations):
            totals = assignments.sum(-2, keepdim=True)  # (..., 1, K)
            assignments = assignments / (totals if sum_over_ranks is None else sum_over_ranks(totals))
            assignments = assignments / assignments.sum(-1, keepdim=True)
    return assignments
