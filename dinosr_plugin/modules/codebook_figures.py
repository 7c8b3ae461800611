"""Statistics of a student that predicts codes.

Sums over frames, which can be added over micro-batches, ranks and batches, and the figures computed from them.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Sums = dict[str, Tensor]


@torch.no_grad()
def codebook_sums(log_probs: Tensor, codes: Tensor) -> Sums:
    """Sums over N frames for each of K codebooks of V codewords, float64 (exact counts over any number of frames).

    Args:
        log_probs: (K, N, V) the student's predictions.
        codes: (K, N) int64, the teacher's codes.

    Returns: ``frames``, ``nll`` (nats), ``correct`` and ``confidence`` (sum over codewords of the squared probability),
    (K,) each; ``codes``, how often each code occurs, and ``probs``, its summed predicted probability, (K, V) each.
    """
    K, N, V = log_probs.shape
    probs = log_probs.exp()
    ones = torch.ones_like(codes, dtype=torch.float64)
    return {
        "frames": torch.full((K,), N, dtype=torch.float64, device=codes.device),
        "nll": -log_probs.gather(-1, codes.unsqueeze(-1)).sum((1, 2), dtype=torch.float64),
        "correct": (log_probs.argmax(-1) == codes).sum(1, dtype=torch.float64),
        "confidence": probs.square().sum((1, 2), dtype=torch.float64),
        "codes": torch.zeros(K, V, dtype=torch.float64, device=codes.device).scatter_add_(1, codes, ones),
        "probs": probs.sum(1, dtype=torch.float64),
    }


def mean_over_frames(sums: Sums, name: str) -> Tensor:
    """Mean over frames of the sum ``name``, (K,) or (K, V); 0 without frames."""
    frames = sums["frames"].clamp(min=1)
    return sums[name] / frames.view(-1, *[1] * (sums[name].dim() - 1))  # frames as (K,) or (K, 1)


def entropy(p: Tensor) -> Tensor:
    """Entropy in nats of distributions along the last dimension."""
    return torch.special.entr(p).sum(-1)


def pred_variance(sums: Sums) -> Tensor:
    """Variance of the predicted distribution between frames, summed over codewords."""
    return mean_over_frames(sums, "confidence") - mean_over_frames(sums, "probs").square().sum(-1)


FIGURES: dict[str, Callable[[Sums], Tensor]] = {
    "loss": lambda sums: mean_over_frames(sums, "nll"),
    "accuracy": lambda sums: mean_over_frames(sums, "correct"),
    "target_ppl": lambda sums: entropy(mean_over_frames(sums, "codes")).exp(),
    "pred_ppl": lambda sums: entropy(mean_over_frames(sums, "probs")).exp(),
    "target_entropy": lambda sums: entropy(mean_over_frames(sums, "codes")),
    "active_codes": lambda sums: (sums["codes"] > 0).sum(-1).double(),
    "pred_variance": pred_variance,
}
"""Name -> function from the sums to a figure (K,).

``target_ppl`` and ``pred_ppl``: perplexities of the mean one-hot code and of the mean prediction (``prob_perplexity``
in fairseq and DinoSR). ``pred_variance`` is near 0 if the student predicts the same distribution for every frame,
whether certain or not.
"""
