"""Sinkhorn's algorithm: soft assignments of frames to codes in which all codes are used equally."""

from collections.abc import Callable

import torch
from torch import Tensor

MAX_SCALE = 70.0
"""Largest 1 / epsilon: exp(70) = 2.5e30, summed over the frames of all ranks, has to fit into float32 (3.4e38)."""


@torch.no_grad()
def sinkhorn(
    scores: Tensor, epsilon: float, iterations: int, sum_over_ranks: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Soft assignments (Caron et al., NeurIPS 2020, arXiv 2006.09882, section 3.1), the targets of Spin.

    The matrix exp(scores / epsilon) is scaled ``iterations`` times: every code to the same total over frames, and then
    every frame to the total 1. The factors are applied to its logarithm, so that no frame is rounded to zeros.
    Everything is computed in float32, also under autocast.

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
        logits = scores.float() / epsilon
        assignments = logits.exp()
        for _ in range(iterations):
            totals = assignments.sum(-2, keepdim=True)  # (..., 1, K)
            logits = logits - (totals if sum_over_ranks is None else sum_over_ranks(totals)).log()
            assignments = logits.softmax(-1)
    return assignments
