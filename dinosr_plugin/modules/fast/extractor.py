"""The convolutions on the waveform (wav2vec 2.0's front end), channels last.

A convolution is computed as a few matrix products over strided views of its input (``strided_convolution``), and
LayerNorm and GELU find the channels next to each other: nothing is unfolded or transposed. For the backward pass each
layer saves only the output of its convolution. The first layer, as long as all others together, saves nothing.
LayerNorm, GELU and the first convolution, which are cheap compared to the products, are recomputed, a few utterances at
a time.

It is used for every model with convolutions on the waveform, on any device. When it replaced fairseq's front end, a
training step went from 9.99 to 9.45 s and its peak memory from 4.73 to 4.24 GB; recomputing the first convolution as
well was one of three changes that saved a further 0.25 s and 0.59 GB (``dropout``, ``gelu_linear``).
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .strided_convolution import as_matrices, as_weight, convolve, input_gradient, matrix_gradients, n_frames

PORTION_ON_CPU, PORTION_ELSEWHERE = 2**21, 2**25  # numbers processed at a time


class ConvExtractor(nn.Module):
    """Like fairseq's ``ConvFeatureExtractionModel``: the same parameters, names, initial values and output.

    Waveform (B, T) -> (B, F, C).

    Args:
        conv_layers: (channels, kernel, stride) of each convolution.
        norm: "layer_norm": LayerNorm over channels after every convolution; "default": one group norm, each channel
            over time, after the first.
        bias: whether convolutions have one.
    """

    def __init__(self, conv_layers: list[tuple[int, int, int]], norm: str, bias: bool):
        super().__init__()
        self.conv_layers = nn.ModuleList()
        in_channels = 1
        for i, (channels, kernel, stride) in enumerate(conv_layers):
            convolution = nn.Conv1d(in_channels, channels, kernel, stride, bias=bias)
            nn.init.kaiming_normal_(convolution.weight)
            layer: list[nn.Module] = [convolution]
            if norm == "layer_norm":  # the place that gives fairseq's name: conv_layers.0.2.1.weight
                layer += [nn.Identity(), nn.Sequential(nn.Identity(), nn.LayerNorm(channels))]
            elif i == 0:
                layer += [nn.Identity(), nn.GroupNorm(channels, channels)]
            self.conv_layers.append(nn.Sequential(*layer))
            in_channels = channels

    def forward(self, source: Tensor) -> Tensor:
        layers: list[Any] = list(self.conv_layers)  # nn.Sequential; an nn.ModuleList does not say so
        first, *others = layers
        x = source.unfold(1, first[0].kernel_size[0], first[0].stride[0])  # (B, F, k), a view
        convolution = first[0].weight.flatten(1), first[0].bias
        norms = [layer_norm_parameters(layer) for layer in layers]
        if isinstance(first[-1], nn.GroupNorm) or not others:
            x, convolution = F.linear(x, *convolution), (None, None)
        if isinstance(first[-1], nn.GroupNorm):
            x = group_norm(x, first[-1])
        for norm, layer in zip(norms, others):
            x = NormGeluConvolution.apply(x, *convolution, *norm, layer[0].weight, layer[0].stride[0])
            x, convolution = x if layer[0].bias is None else x + layer[0].bias, (None, None)
        return F.gelu(layer_norm(x, *norms[-1])[0])


def extractor_reference(extractor: ConvExtractor, source: Tensor) -> Tensor:
    """What ``ConvExtractor`` computes, in plain PyTorch: (B, T) -> (B, F, C)."""
    x = source.unsqueeze(1)  # (B, 1, T)
    layers: list[Any] = list(extractor.conv_layers)  # nn.Sequential; an nn.ModuleList does not say so
    for layer in layers:
        x = layer[0](x)  # (B, C, F)
        if isinstance(layer[-1], nn.GroupNorm):
            x = layer[-1](x)
        elif len(layer) > 1:
            x = layer[-1](x.transpose(1, 2)).transpose(1, 2)
        x = F.gelu(x)
    return x.transpose(1, 2)


def layer_norm_parameters(layer: nn.Sequential) -> tuple[Tensor | None, Tensor | None, float]:
    """(weight, bias, eps) of a layer's LayerNorm; (None, None, 0.0) if it has none."""
    if not isinstance(layer[-1], nn.Sequential):
        return None, None, 0.0
    norm = layer[-1][1]
    assert isinstance(norm, nn.LayerNorm)
    return norm.weight, norm.bias, norm.eps


def group_norm(y: Tensor, norm: nn.GroupNorm) -> Tensor:
    """(B, F, C) -> (B, F, C), contiguous; computed in float32."""
    x = F.group_norm(y.transpose(1, 2).float(), norm.num_groups, norm.weight.float(), norm.bias.float(), norm.eps)
    return x.transpose(1, 2).to(y.dtype).contiguous()


def layer_norm(y: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float):
    """LayerNorm over the last dimension: (output, mean, 1 / standard deviation), or (y, None, None) without weight.

    Computed in float32 and rounded once, like fairseq's ``Fp32LayerNorm``.
    """
    if weight is None:
        return y, None, None
    x = upcast_on_cpu(y)
    bias = None if bias is None else bias.to(x.dtype)
    output, mean, rstd = torch.native_layer_norm(x, weight.shape, weight.to(x.dtype), bias, eps)
    return output.to(y.dtype), mean, rstd


def upcast_on_cpu(y: Tensor) -> Tensor:
    """LayerNorm's input, on a CPU in float32 at least.

    torch's LayerNorm sums up the gradients of weight and bias in the precision of its input on a CPU: in bfloat16 a
    tenth of them is lost over some thousands of frames. On a GPU it uses float32.
    """
    return y.to(torch.promote_types(y.dtype, torch.float32)) if y.device.type == "cpu" else y


def norm_gelu_convolution_reference(
    x: Tensor, first_weight, first_bias, norm_weight, norm_bias, eps: float, weight: Tensor, stride: int
) -> Tensor:
    """What ``NormGeluConvolution`` computes, in plain PyTorch."""
    y = x if first_weight is None else F.linear(x, first_weight, first_bias)
    if norm_weight is not None:
        y = F.layer_norm(y, norm_weight.shape, norm_weight, norm_bias, eps)
    return F.conv1d(F.gelu(y).transpose(1, 2), weight, stride=stride).transpose(1, 2)


class NormGeluConvolution(torch.autograd.Function):
    """``norm_gelu_convolution_reference``, which saves x only: convolution of gelu(layer_norm(y)) -> (B, F, N).

    y (B, L, C) is x, or the output of a first convolution: windows x (B, L, k) times first_weight (C, k), plus
    first_bias. Neither pass holds more than a portion of y's LayerNorm and GELU at a time.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, first_weight, first_bias, norm_weight, norm_bias, eps: float, weight: Tensor, stride: int
    ) -> Tensor:
        ctx.save_for_backward(x, first_weight, first_bias, norm_weight, norm_bias, weight)
        ctx.eps, ctx.stride = eps, stride
        frames = n_frames(x, weight, stride)
        if frames < 1:
            raise ValueError(
                f"the sound is too short: {x.size(1)} frames, but the kernel of a convolution needs {weight.size(2)}"
            )
        output: Tensor | None = None
        matrices: list[Tensor] = []
        y_is_temporary = not (first_weight is None and norm_weight is None)
        for inputs, outputs in portions(x, weight, stride):
            y = x[inputs] if first_weight is None else F.linear(x[inputs], first_weight, first_bias)
            with torch.autocast(y.device.type, enabled=False):  # in the precision of y, like the backward pass
                if output is None:
                    output = y.new_empty(len(x), frames, len(weight))
                    matrices = as_matrices(weight.to(y.dtype), stride)
                y = gelu(layer_norm(y, norm_weight, norm_bias, eps)[0], in_place=y_is_temporary)
                convolve(y, matrices, stride, output[outputs])
        assert output is not None  # there is at least one portion
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        x, first_weight, first_bias, norm_weight, norm_bias, weight = ctx.saved_tensors
        grad_x = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        # Any: the gradient of a parameter is None if there is no such parameter
        sums: list[Any] = []  # of first_weight, first_bias, norm_weight, norm_bias and the matrices
        first: list[Any] = [None if p is None else p.to(grad.dtype) for p in (first_weight, first_bias)]
        matrices = as_matrices(weight.to(grad.dtype), ctx.stride)
        for inputs, outputs in portions(x, weight, ctx.stride):
            part = x[inputs].to(grad.dtype)
            y = part if first_weight is None else F.linear(part, *first)
            grad_y, grads = portion_gradients(
                grad[outputs].contiguous(), y, norm_weight, norm_bias, ctx.eps, matrices, ctx.stride
            )
            if first_weight is None:
                grads = [None, None, *grads]
            else:  # (k, C): this product is many times faster than its transpose
                grad_first = part.flatten(0, 1).t() @ grad_y.flatten(0, 1)
                grads = [grad_first.t(), None if first_bias is None else grad_y.sum((0, 1)), *grads]
            if grad_x is not None:  # added: portions share frames if the kernel is longer than its stride
                grad_x[inputs] += grad_y if first_weight is None else grad_y @ first[0]
            sums = add_gradients(sums, grads)
        return grad_x, *sums[:4], None, as_weight(sums[4:], weight.size(1)), None


def portions(x: Tensor, weight: Tensor, stride: int) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """Split the work: (utterances, frames) of x (B, L, any) and those of the output (B, F, N) that they produce.

    On a CPU a portion is so small that what passes between operators stays in the cache; elsewhere it is large enough
    to keep a GPU busy.
    """
    numbers = PORTION_ON_CPU if x.device.type == "cpu" else PORTION_ELSEWHERE
    _, C, kernel = weight.shape
    rows = max(1, numbers // (x.size(1) * C))
    frames = max(1, numbers // (stride * C))
    all_frames = n_frames(x, weight, stride)
    for row in range(0, len(x), rows):
        utterances = slice(row, row + rows)
        for first in range(0, all_frames, frames):
            last = min(first + frames, all_frames)
            yield (utterances, slice(first * stride, (last - 1) * stride + kernel)), (utterances, slice(first, last))


def portion_gradients(
    grad: Tensor, y: Tensor, norm_weight, norm_bias, eps: float, matrices: list[Tensor], stride: int
) -> tuple[Tensor, list[Tensor | None]]:
    """Gradient of the output -> gradient of y, and those of norm_weight, norm_bias and the matrices."""
    n, mean, rstd = layer_norm(y, norm_weight, norm_bias, eps)
    grad_matrices = matrix_gradients(grad, F.gelu(n), matrices, stride)
    grad_n = input_gradient(grad, matrices, stride, y)
    # in place: these are the largest tensors of a training step
    grad_n = torch.ops.aten.gelu_backward.grad_input(grad_n, n, grad_input=grad_n)
    if norm_weight is None:
        return grad_n, [None, None, *grad_matrices]
    del n
    x = upcast_on_cpu(y)
    parameters = (norm_weight.to(x.dtype), norm_bias.to(x.dtype))
    grad_y, *grads = torch.ops.aten.native_layer_norm_backward(
        grad_n.to(x.dtype), x, norm_weight.shape, mean, rstd, *parameters, (True, True, True)
    )
    return grad_y.to(y.dtype), [*grads, *grad_matrices]


def add_gradients(sums: list[Tensor | None], terms: list[Tensor | None]) -> list[Tensor | None]:
    """``sums`` plus ``terms``, in float32 at least; ``sums`` is empty at the start."""
    if not sums:
        return [None if term is None else term.to(torch.promote_types(term.dtype, torch.float32)) for term in terms]
    return [None if term is None or total is None else total.add_(term) for total, term in zip(sums, terms)]


def gelu(x: Tensor, in_place: bool) -> Tensor:
    return torch.ops.aten.gelu_(x) if in_place else F.gelu(x)
