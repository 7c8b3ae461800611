"""Attention with dropout that keeps little for the backward pass: torch's kernels, and one of our own on the CPU, where torch's has no dropout."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .dropout import random_keep


def attention(query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None, dropout: float) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for each head, with dropout of the weights.

    Args:
        query, key, value: (B, H, F, d).
        padding: (B, F) bool, true where a key counts for nothing, or None.
        dropout: probability of a weight to be dropped; the others grow by 1 / (1 - dropout).

    Returns (B, H, F, d).
    """
    if 0 < dropout < 1 and query.device.type == "cpu":  # torch would keep three float matrices of weights
        return DroppedAttention.apply(query, key, value, padding, dropout)
    seen = None if padding is None else ~padding[:, None, None]
    return F.scaled_dot_product_attention(query, key, value, seen, dropout)


class DroppedAttention(torch.autograd.Function):
    """Attention whose backward pass computes the weights again: kept are queries, keys, values, and a byte for each weight that tells if it was dropped."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None, dropout: float) -> Tensor:
        weights = attention_weights(query, key, padding)
        keep = random_keep(weights.shape, dropout)
        ctx.save_for_backward(query, key, value, padding, keep)
        ctx.grown = 1 / (1 - dropout)
        return weights.mul_(keep) @ (value * ctx.grown)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        query, key, value, padding, keep = ctx.saved_tensors
        weights, keep = attention_weights(query, key, padding), keep.to(value.dtype)
        grad_value = ((weights * keep).transpose(2, 3) @ grad).mul_(ctx.grown)
        grad_weights = (grad @ (value * ctx.grown).transpose(2, 3)).mul_(keep)
        grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        scale = query.size(-1) ** -0.5
        return (grad_scores @ key).mul_(scale), grad_scores.transpose(2, 3) @ (query * scale), grad_value, None, None


def attention_weights(query: Tensor, key: Tensor, padding: Tensor | None) -> Tensor:
    """(B, H, F, d) twice -> (B, H, F, F), each row of sum 1."""
    scores = (query * query.size(-1) ** -0.5) @ key.transpose(2, 3)
    if padding is not None:
        scores.masked_fill_(
            padding[:, None, None], torch.finfo(scores.dtype).min
        )  # not -inf: that is NaN where an utterance has no frame at all
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)
