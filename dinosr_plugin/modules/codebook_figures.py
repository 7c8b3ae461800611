"""What to watch of a student that predicts codes: sums over frames, which add up over micro-batches, ranks and batches, and figures made of them."""

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

    Returns: ``frames``, ``nll`` (nats), ``correct`` and ``confidence`` (sum over codewords of the squared probability), (K,) each;
    ``codes`` how often each code occurs and ``probs`` its predicted probability, (K, V).
    """
    K, N, V = log_probs.shape
    probs = log_probs.exp()
    return {
        "frames": torch.full((K,), N, dtype=torch.float64, device=codes.device),
        "nll": -log_probs.gather(-1, codes.unsqueeze(-1)).sum((1, 2), dtype=torch.float64),
        "correct": (log_probs.argmax(-1) == codes).sum(1, dtype=torch.float64),
        "confidence": probs.square().sum((1, 2), dtype=torch.float64),
        "codes": torch.zeros(K, V, dtype=torch.float64, device=codes.device).scatter_add_(
            1, codes, torch.ones_like(codes, dtype=torch.float64)
        ),
        "probs": probs.sum(1, dtype=torch.float64),
    }


def share(sums: Sums, name: str) -> Tensor:
    """Mean over frames of a sum (K, ...); 0 where there is no frame."""
    frames = sums["frames"].clamp(min=1)
    return sums[name] / frames.view(-1, *[1] * (sums[name].dim() - 1))


def entropy(p: Tensor) -> Tensor:
    """Entropy in nats of distributions along the last dimension."""
    return torch.special.entr(p).sum(-1)


FIGURES: dict[str, Callable[[Sums], Tensor]] = {
    "loss": lambda sums: share(sums, "nll"),
    "accuracy": lambda sums: share(sums, "correct"),
    "target_ppl": lambda sums: entropy(share(sums, "codes")).exp(),
    "pred_ppl": lambda sums: entropy(share(sums, "probs")).exp(),
    "target_entropy": lambda sums: entropy(share(sums, "codes")),
    "active_codes": lambda sums: (sums["codes"] > 0).sum(-1).double(),
    "pred_variance": lambda sums: share(sums, "confidence") - share(sums, "probs").square().sum(-1),
}
"""Name -> figure (K,) of the sums. ``target_ppl`` and ``pred_ppl``: perplexities of the mean one-hot code and of the mean prediction
(fairseq's and DinoSR's ``prob_perplexity``); ``pred_variance``: variance of the predicted distribution from frame to frame, near 0
where the student predicts the same everywhere, however uncertain it is."""
