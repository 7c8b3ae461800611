"""InfoNCE of contrastive predictive coding (van den Oord et al. 2018, arXiv 1807.03748, equation 4)."""

from collections.abc import Sequence

import torch
from torch import Tensor


def draw_negatives(frames: int, anchors: int, count: int, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw the negatives for each anchor t < ``anchors`` of each of B rows; all steps k share them.

    The row of a negative is uniform over the batch. Its frame is (t + r) mod ``frames`` with r uniform in
    1 .. frames - 1: never frame t, of any row, but possibly the true frame t + k, as in CPC_audio.

    Args:
        frames: T, the same for every row.
        count: negatives for each anchor.
        generators: one for each of the B rows, on the CPU.

    Returns: (B, anchors, count) int64 on the CPU: row * T + frame.
    """
    rows, shifts = (
        torch.stack([torch.randint(low, high, (anchors, count), generator=generator) for generator in generators])
        for low, high in ((0, len(generators)), (1, frames))
    )
    return rows * frames + (torch.arange(anchors).unsqueeze(1) + shifts) % frames


def infonce_logits(predictions: Tensor, frames: Tensor, negatives: Tensor) -> Tensor:
    """Scores of the true frame and of the negatives: the mean over dimensions (not the sum) of prediction times frame.

    The K steps share their negatives, so that all scores of an anchor are one matrix product.

    Args:
        predictions: (K, B, W, D): [k - 1, b, t] is the prediction of frame t + k, for anchors t = 0 .. W - 1.
        frames: (B, W + K, D).
        negatives: (B, W, N) int64 from ``draw_negatives``.

    Returns: (K, B, W, 1 + N) float32; the true frame comes first.
    """
    steps = len(predictions)
    predictions = predictions.permute(1, 2, 3, 0) / frames.size(-1)  # (B, W, D, K)
    true = frames[:, 1:].unfold(1, steps, 1)  # (B, W, D, K), a view: [b, t, :, k - 1] is frame t + k
    false = frames.flatten(0, 1)[negatives]  # (B, W, N, D)
    scores = torch.cat([(predictions * true).sum(2, keepdim=True), false @ predictions], dim=2)  # (B, W, 1 + N, K)
    return scores.permute(3, 0, 1, 2).float()


def infonce_logits_reference(predictions: Tensor, frames: Tensor, negatives: Tensor) -> Tensor:
    """What ``infonce_logits`` computes, one step and one anchor at a time."""
    K, B, W, D = predictions.shape
    all_frames = frames.flatten(0, 1)  # (B * T, D)
    logits = predictions.new_empty(K, B, W, 1 + negatives.size(-1))
    for k in range(1, K + 1):
        for b in range(B):
            for t in range(W):
                candidates = torch.cat([frames[b, t + k].unsqueeze(0), all_frames[negatives[b, t]]])  # (1 + N, D)
                logits[k - 1, b, t] = candidates @ predictions[k - 1, b, t] / D
    return logits
