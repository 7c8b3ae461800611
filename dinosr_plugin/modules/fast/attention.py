"""Attention with dropout that saves little for the backward pass."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .dropout import random_keep


def attention(
    query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None, dropout: float, causal: bool = False
) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for each head, with dropout of the weights.

    With dropout on a CPU ``DroppedAttention`` is used, because torch has no fused kernel for that case; otherwise
    torch's ``scaled_dot_product_attention``.

    Args:
        query, key, value: (B, H, F, d).
        padding: (B, F) bool, true for keys to ignore, or None.
        dropout: probability of dropping a weight; the others are multiplied by 1 / (1 - dropout).
        causal: frame t attends to frames 0 .. t. ``padding`` is not used then, because it follows the other frames.

    Returns (B, H, F, d).
    """
    if causal:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
    if 0 < dropout < 1 and query.device.type == "cpu":
        return DroppedAttention.apply(query, key, value, padding, dropout)
    valid = None if padding is None else ~padding[:, None, None]
    return F.scaled_dot_product_attention(query, key, value, valid, dropout)


def attention_reference(query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None, dropout: float) -> Tensor:
    """What ``DroppedAttention`` computes, in plain PyTorch. With the same seed it drops the same weights."""
    scores = query @ key.transpose(2, 3) / query.size(-1) ** 0.5  # (B, H, F, F)
    if padding is not None:  # not -inf: that gives NaN for an utterance without any valid frame
        scores = scores.masked_fill(padding[:, None, None], torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1)
    return weights * random_keep(weights.shape, dropout) / (1 - dropout) @ value


class DroppedAttention(torch.autograd.Function):
    """``attention_reference``, which recomputes the weights in its backward pass.

    Saved are queries, keys, values and one byte for each weight (whether it was kept); autograd would save three float
    matrices of weights. Softmax, dropout and its random numbers take 0.29 s of a training step, with plain PyTorch
    0.56 s.
    """

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None, dropout: float) -> Tensor:
        weights = attention_weights(query, key, padding)
        keep = random_keep(weights.shape, dropout)
        ctx.save_for_backward(query, key, value, padding, keep)
        ctx.gain = 1 / (1 - dropout)
        return weights.mul_(keep) @ (value * ctx.gain)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        query, key, value, padding, keep = ctx.saved_tensors
        weights, keep = attention_weights(query, key, padding), keep.to(value.dtype)
        grad_value = ((weights * keep).transpose(2, 3) @ grad).mul_(ctx.gain)
        grad_weights = (grad @ (value * ctx.gain).transpose(2, 3)).mul_(keep)
        grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        scale = query.size(-1) ** -0.5
        return (grad_scores @ key).mul_(scale), grad_scores.transpose(2, 3) @ (query * scale), grad_value, None, None


def attention_weights(query: Tensor, key: Tensor, padding: Tensor | None) -> Tensor:
    """Queries and keys (B, H, F, d) -> (B, H, F, F); each row sums to 1. The softmax is in float32 at least."""
    scores = (query * query.size(-1) ** -0.5) @ key.transpose(2, 3)
    if padding is not None:
        scores.masked_fill_(padding[:, None, None], torch.finfo(scores.dtype).min)
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)
