"""Instance normalisation over time that ignores padded frames."""

from torch import Tensor


def instance_norm(x: Tensor, padding: Tensor | None, eps: float = 1e-5) -> Tensor:
    """Mean 0 and (biased) variance 1 for each utterance and channel, over the valid frames.

    x (..., B, F, D), padding (B, F) bool or None -> float32 of x's shape; the values of padded frames are undefined.
    """
    x = x.float()
    if padding is None:
        mean = x.mean(-2, keepdim=True)
        variance = (x - mean).pow(2).mean(-2, keepdim=True)
    else:
        valid = (~padding).unsqueeze(-1)
        n = valid.sum(-2, keepdim=True).clamp(min=1)
        mean = (x * valid).sum(-2, keepdim=True) / n
        variance = ((x - mean).pow(2) * valid).sum(-2, keepdim=True) / n
    return (x - mean) * (variance + eps).rsqrt()
