"""The convolutions on the waveform (wav2vec 2.0's front end), channels last.

A convolution is one matrix product for every ``stride`` taps of its kernel, over a strided view of its input: nothing is unfolded. LayerNorm and GELU
find the channels side by side: nothing is transposed. Of each layer only what the convolution gave is kept for the backward pass, and of the first,
which is as long as all others together, nothing; it, LayerNorm and GELU, cheap beside the products, are computed again, a few utterances at a time.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ON_CPU, ELSEWHERE = 2**21, 2**25  # numbers in a portion


class ConvExtractor(nn.Module):
    """fairseq's ``ConvFeatureExtractionModel``: the same parameters, names, initial values and output. Waveform (B, T) -> (B, F, C).

    Args:
        conv_layers: (channels, kernel, stride) of each convolution.
        norm: "layer_norm": LayerNorm over channels after every convolution; "default": one group norm, each channel over time, after the first.
        bias: whether convolutions have one.
    """

    def __init__(self, conv_layers: list[tuple[int, int, int]], norm: str, bias: bool):
        super().__init__()
        self.conv_layers = nn.ModuleList()
        before = 1
        for i, (channels, kernel, stride) in enumerate(conv_layers):
            convolution = nn.Conv1d(before, channels, kernel, stride, bias=bias)
            nn.init.kaiming_normal_(convolution.weight)
            layer = [convolution]
            if norm == "layer_norm":
                layer += [
                    nn.Identity(),
                    nn.Sequential(nn.Identity(), nn.LayerNorm(channels)),
                ]  # fairseq's name: conv_layers.0.2.1.weight
            elif i == 0:
                layer += [nn.Identity(), nn.GroupNorm(channels, channels)]
            self.conv_layers.append(nn.Sequential(*layer))
            before = channels

    def forward(self, source: Tensor) -> Tensor:
        first, *others = self.conv_layers
        x, convolution = (
            source.unfold(1, first[0].kernel_size[0], first[0].stride[0]),
            (first[0].weight.flatten(1), first[0].bias),
        )  # (B, F, k) view
        norms = [
            parameters_of(layer[2][1] if isinstance(layer[-1], nn.Sequential) else None) for layer in self.conv_layers
        ]
        if isinstance(first[-1], nn.GroupNorm) or not others:
            x, convolution = F.linear(x, *convolution), (None, None)
        if isinstance(first[-1], nn.GroupNorm):
            x = group_norm(x, first[-1])
        for norm, layer in zip(norms, others):
            x = NormGeluConvolution.apply(x, *convolution, *norm, layer[0].weight, layer[0].stride[0])
            x, convolution = x if layer[0].bias is None else x + layer[0].bias, (None, None)
        return F.gelu(normalised(x, *norms[-1])[0])


def parameters_of(norm: nn.LayerNorm | None) -> tuple[Tensor | None, Tensor | None, float]:
    return (None, None, 0.0) if norm is None else (norm.weight, norm.bias, norm.eps)


def group_norm(y: Tensor, norm: nn.GroupNorm) -> Tensor:
    """(B, F, C) -> (B, F, C), contiguous; in float32 whatever the precision."""
    x = F.group_norm(y.transpose(1, 2).float(), norm.num_groups, norm.weight.float(), norm.bias.float(), norm.eps)
    return x.transpose(1, 2).to(y.dtype).contiguous()


def normalised(y: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float):
    """LayerNorm over the last dimension -> (its output, mean, 1 / deviation); y itself without weight. In float32 whatever the precision, rounded once:
    fairseq's ``Fp32LayerNorm``."""
    if weight is None:
        return y, None, None
    x = wide(y)
    n, mean, rstd = torch.native_layer_norm(x, weight.shape, weight.to(x.dtype), bias.to(x.dtype), eps)
    return n.to(y.dtype), mean, rstd


def wide(y: Tensor) -> Tensor:
    """As LayerNorm must have it: on a CPU in float32, where torch adds up the gradients of weight and bias in the precision of its input: over some
    thousands of frames in bfloat16 a tenth of them is lost. On a GPU it adds up in float32."""
    return y.to(torch.promote_types(y.dtype, torch.float32)) if y.device.type == "cpu" else y


class NormGeluConvolution(torch.autograd.Function):
    """x -> convolution of gelu(layer_norm(y)), (B, F, N). y (B, L, C) is x, or a first convolution: windows x (B, L, k) times first_weight (C, k).

    Only x is kept for the backward pass, and neither pass has more than a portion of y's LayerNorm and GELU at a time.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, first_weight, first_bias, norm_weight, norm_bias, eps: float, weight: Tensor, stride: int
    ) -> Tensor:
        ctx.save_for_backward(x, first_weight, first_bias, norm_weight, norm_bias, weight)
        ctx.eps, ctx.stride = eps, stride
        if n_frames(x, weight, stride) < 1:
            raise ValueError(
                f"{x.size(1)} frames are fewer than the {weight.size(2)} of a convolution's kernel: the sound is too short"
            )
        output = matrices = None
        for given, made in portions(x, weight, stride):
            y = x[given] if first_weight is None else F.linear(x[given], first_weight, first_bias)
            with torch.autocast(y.device.type, enabled=False):  # in the precision of y, as the backward pass
                if output is None:
                    output, matrices = (
                        y.new_empty(len(x), n_frames(x, weight, stride), len(weight)),
                        as_matrices(weight.to(y.dtype), stride),
                    )
                y = gelu(
                    normalised(y, norm_weight, norm_bias, eps)[0],
                    spare=not (first_weight is None and norm_weight is None),
                )
                convolve(y, matrices, stride, output[made])
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        x, first_weight, first_bias, *norm, weight = ctx.saved_tensors
        grad_x, sums = torch.zeros_like(x) if ctx.needs_input_grad[0] else None, None
        first = [None if p is None else p.to(grad.dtype) for p in (first_weight, first_bias)]
        matrices = as_matrices(weight.to(grad.dtype), ctx.stride)
        for given, made in portions(x, weight, ctx.stride):
            part = x[given].to(grad.dtype)
            y = part if first_weight is None else F.linear(part, *first)
            grad_y, grads = gradients(grad[made].contiguous(), y, *norm, ctx.eps, matrices, ctx.stride)
            if first_weight is None:
                grads = [None, None, *grads]
            else:
                grad_first = part.flatten(0, 1).t() @ grad_y.flatten(
                    0, 1
                )  # (k, C): many times faster than its transpose
                grads = [grad_first.t(), None if first_bias is None else grad_y.sum((0, 1)), *grads]
            if grad_x is not None:
                grad_x[given] += (
                    grad_y if first_weight is None else grad_y @ first[0]
                )  # portions share a frame where a kernel is longer than its stride
            sums = added(sums, grads)
        return grad_x, *sums[:4], None, as_weight(sums[4:], weight.size(1)), None


def portions(x: Tensor, weight: Tensor, stride: int) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """What to work on at a time: utterances and frames of x (B, L, any) with C channels, and those of the convolution's output (B, F, N) that they give.

    On a CPU so little that what passes between operators stays in its cache; elsewhere enough to keep a GPU busy.
    """
    numbers = ON_CPU if x.device.type == "cpu" else ELSEWHERE
    _, C, kernel = weight.shape
    rows, frames, all_frames = (
        max(1, numbers // (x.size(1) * C)),
        max(1, numbers // (stride * C)),
        n_frames(x, weight, stride),
    )
    for row in range(0, len(x), rows):
        utterances = slice(row, row + rows)
        for first in range(0, all_frames, frames):
            last = min(first + frames, all_frames)
            yield (utterances, slice(first * stride, (last - 1) * stride + kernel)), (utterances, slice(first, last))


def gradients(
    grad: Tensor, y: Tensor, norm_weight, norm_bias, eps: float, matrices: list[Tensor], stride: int
) -> tuple[Tensor, list[Tensor | None]]:
    """That of the convolution's output -> that of y, and those of norm_weight, norm_bias and the matrices."""
    n, mean, rstd = normalised(y, norm_weight, norm_bias, eps)
    grad_matrices = matrix_gradients(grad, F.gelu(n), matrices, stride)
    grad_n = input_gradient(grad, matrices, stride, y)
    grad_n = torch.ops.aten.gelu_backward.grad_input(
        grad_n, n, grad_input=grad_n
    )  # in place: these are the largest tensors of a training step
    if norm_weight is None:
        return grad_n, [None, None, *grad_matrices]
    del n
    x = wide(y)
    like = (norm_weight.to(x.dtype), norm_bias.to(x.dtype))
    grad_y, *grads = torch.ops.aten.native_layer_norm_backward(
        grad_n.to(x.dtype), x, norm_weight.shape, mean, rstd, *like, (True, True, True)
    )
    return grad_y.to(y.dtype), [*grads, *grad_matrices]


def added(sums: list[Tensor | None] | None, terms: list[Tensor | None]) -> list[Tensor | None]:
    """Sums, in float32 at least, and what comes on top of them."""
    if sums is None:
        return [None if term is None else term.to(torch.promote_types(term.dtype, torch.float32)) for term in terms]
    return [None if term is None else total.add_(term) for total, term in zip(sums, terms)]


def gelu(x: Tensor, spare: bool) -> Tensor:
    """``spare``: x is not wanted any more."""
    return torch.ops.aten.gelu_(x) if spare else F.gelu(x)


def n_frames(x: Tensor, weight: Tensor, stride: int) -> int:
    """F of the convolution of x (B, L, any) with weight (N, C, k)."""
    return (x.size(1) - weight.size(2)) // stride + 1


# A convolution is a sum of matrix products, each of at most `stride` taps of the kernel: then rows do not overlap.


def as_matrices(weight: Tensor, stride: int) -> list[Tensor]:
    """(taps * C, N) each, of weight (N, C, k)."""
    return [taps.flatten(0, 1).contiguous() for taps in weight.permute(2, 1, 0).split(stride)]


def as_weight(matrices: list[Tensor], channels: int) -> Tensor:
    """(N, C, k) of matrices (taps * C, N)."""
    return torch.cat(matrices).unflatten(0, (-1, channels)).permute(2, 1, 0)


def windows(x: Tensor, matrices: list[Tensor], stride: int) -> list[Tensor]:
    """For each matrix (taps * C, N) the rows of x (B, L, C) that it meets: a view (B, F, taps * C)."""
    B, L, C = x.shape
    taps = [len(matrix) // C for matrix in matrices]
    frames = (L - sum(taps)) // stride + 1
    strides = (x.stride(0), stride * x.stride(1), 1)
    return [x.as_strided((B, frames, n * C), strides, x.storage_offset() + i * stride * C) for i, n in enumerate(taps)]


def convolve(x: Tensor, matrices: list[Tensor], stride: int, out: Tensor) -> None:
    """x (B, L, C) -> out (B, F, N); for autograd Functions, it has no gradient of its own."""
    for i, (rows, matrix) in enumerate(zip(windows(x, matrices, stride), matrices)):
        torch.baddbmm(out, rows, matrix.expand(len(x), -1, -1), beta=min(i, 1), out=out)


def input_gradient(grad: Tensor, matrices: list[Tensor], stride: int, like: Tensor) -> Tensor:
    """Gradient of ``convolve``'s output (B, F, N) -> that of its x (B, L, C), which is ``like`` this."""
    grad_x = torch.empty_like(like, memory_format=torch.contiguous_format)
    written = (
        grad.size(1) * stride if len(matrices[0]) == stride * like.size(2) else 0
    )  # frames that the first product leaves none of out
    grad_x[:, written:].zero_()
    for i, (rows, matrix) in enumerate(zip(windows(grad_x, matrices, stride), matrices)):
        torch.baddbmm(rows, grad, matrix.t().expand(len(grad), -1, -1), beta=min(i, 1), out=rows)
    return grad_x


def matrix_gradients(grad: Tensor, x: Tensor, matrices: list[Tensor], stride: int) -> list[Tensor]:
    """Gradient of ``convolve``'s output (B, F, N), and its x (B, L, C) -> those of the matrices."""
    return [torch.bmm(rows.transpose(1, 2), grad).sum(0) for rows in windows(x, matrices, stride)]
