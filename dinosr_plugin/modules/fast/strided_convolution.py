"""A convolution over time as matrix products, channels last, without unfolding its input.

The kernel is split into groups of at most ``stride`` taps. Within a group the inputs of successive frames do not
overlap, so that they are a strided view of the input and the group is one matrix product; the convolution is the sum of
these products. The reference is ``torch.nn.functional.conv1d``, with channels first.

These functions are parts of autograd Functions: they have no gradients of their own.
"""

import torch
from torch import Tensor


def n_frames(x: Tensor, weight: Tensor, stride: int) -> int:
    """F of the convolution of x (B, L, any) with weight (N, C, k)."""
    return (x.size(1) - weight.size(2)) // stride + 1


def as_matrices(weight: Tensor, stride: int) -> list[Tensor]:
    """weight (N, C, k) -> one matrix (taps * C, N) for each group of taps."""
    return [taps.flatten(0, 1).contiguous() for taps in weight.permute(2, 1, 0).split(stride)]


def as_weight(matrices: list[Tensor], channels: int) -> Tensor:
    """Matrices (taps * C, N) -> weight (N, C, k): the inverse of ``as_matrices``."""
    return torch.cat(matrices).unflatten(0, (-1, channels)).permute(2, 1, 0)


def windows(x: Tensor, matrices: list[Tensor], stride: int) -> list[Tensor]:
    """For each matrix (taps * C, N) the inputs that it is multiplied with: a view (B, F, taps * C) of x (B, L, C)."""
    B, L, C = x.shape
    taps = [len(matrix) // C for matrix in matrices]
    frames = (L - sum(taps)) // stride + 1
    strides = (x.stride(0), stride * x.stride(1), 1)
    return [x.as_strided((B, frames, n * C), strides, x.storage_offset() + i * stride * C) for i, n in enumerate(taps)]


def convolve(x: Tensor, matrices: list[Tensor], stride: int, out: Tensor) -> None:
    """Writes the convolution of x (B, L, C) to out (B, F, N)."""
    for i, (rows, matrix) in enumerate(zip(windows(x, matrices, stride), matrices)):
        torch.baddbmm(out, rows, matrix.expand(len(x), -1, -1), beta=min(i, 1), out=out)


def input_gradient(grad: Tensor, matrices: list[Tensor], stride: int, like: Tensor) -> Tensor:
    """Gradient (B, F, N) of the output -> gradient of the input, of the shape (B, L, C) and dtype of ``like``."""
    grad_x = torch.empty_like(like, memory_format=torch.contiguous_format)
    first_covers_all = len(matrices[0]) == stride * like.size(2)
    written = grad.size(1) * stride if first_covers_all else 0  # frames that the first product writes completely
    grad_x[:, written:].zero_()
    for i, (rows, matrix) in enumerate(zip(windows(grad_x, matrices, stride), matrices)):
        torch.baddbmm(rows, grad, matrix.t().expand(len(grad), -1, -1), beta=min(i, 1), out=rows)
    return grad_x


def matrix_gradients(grad: Tensor, x: Tensor, matrices: list[Tensor], stride: int) -> list[Tensor]:
    """Gradient (B, F, N) of the output and the input x (B, L, C) -> gradients of the matrices."""
    return [torch.bmm(rows.transpose(1, 2), grad).sum(0) for rows in windows(x, matrices, stride)]
