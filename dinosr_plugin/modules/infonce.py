"""InfoNCE of contrastive predictive coding (van den Oord et al. 2018, arXiv 1807.03748, equation 4), for all steps at once."""

from collections.abc import Sequence

import torch
from torch import Tensor


def draw_negatives(frames: int, anchors: int, count: int, generators: Sequence[torch.Generator]) -> Tensor:
    """Which frames stand against the true one, for each anchor t < ``anchors`` of each of B rows; the same ones for all steps k.

    The row is uniform over the batch, the frame is (t + r) mod ``frames`` with r uniform in 1 .. frames - 1: never frame t, of any row,
    but perhaps the true frame t + k, as in CPC_audio.

    Args:
        frames: T, of every row.
        generators: one for each of the B rows, on the CPU.

    Returns: (B, anchors, count) int64 on the CPU: row * T + frame.
    """
    rows, shifts = (
        torch.stack([torch.randint(low, high, (anchors, count), generator=generator) for generator in generators])
        for low, high in ((0, len(generators)), (1, frames))
    )
    return rows * frames + (torch.arange(anchors).unsqueeze(1) + shifts) % frames


def infonce_logits(predictions: Tensor, frames: Tensor, negatives: Tensor) -> Tensor:
    """Scores of the true frame and of the negatives: the mean over dimensions (not their sum) of prediction times frame.

    Args:
        predictions: (K, B, W, D): [k - 1, b, t] is of frame t + k, for anchors t = 0 .. W - 1.
        frames: (B, W + K, D).
        negatives: (B, W, N) int64, as ``draw_negatives``; shared by the K steps, so that an anchor's scores are one product of matrices.

    Returns: (K, B, W, 1 + N) float32; the true frame first.
    """
    steps = len(predictions)
    predictions = predictions.permute(1, 2, 3, 0) / frames.size(-1)  # (B, W, D, K)
    true = frames[:, 1:].unfold(1, steps, 1)  # (B, W, D, K), a view: [b, t, :, k - 1] is frame t + k
    false = frames.flatten(0, 1)[negatives]  # (B, W, N, D)
    scores = torch.cat([(predictions * true).sum(2, keepdim=True), false @ predictions], dim=2)  # (B, W, 1 + N, K)
    return scores.permute(3, 0, 1, 2).float()
