"""GELU and the linear layer after it, with one tensor kept for the backward pass in place of two."""

import torch
import torch.nn.functional as F
from torch import Tensor


def gelu_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """gelu(x) weight^T + bias: x (..., C), weight (N, C), bias (N,) -> (..., N), in the precision of x."""
    return GeluLinear.apply(x, weight, bias)


class GeluLinear(torch.autograd.Function):
    """Keeps x, the widest tensor of a Transformer layer, and computes its GELU again, which is cheap beside the products."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(F.gelu(x), weight.to(x.dtype), bias.to(x.dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)  # (M, N)
        grad_weight = rows.t() @ F.gelu(x).flatten(0, -2)
        grad_x = torch.ops.aten.gelu_backward(grad @ weight.to(x.dtype), x)
        return grad_x, grad_weight, rows.sum(0)
