"""What an ONNX file computes: layers, codes and logits of one waveform without padding, named, in plain operators.

The exporter follows tensors through a model once and must not meet a decision that depends on the length of the
waveform. So the models are called below the places where padding is handled, and while they are exported, parts whose
code does meet such decisions are replaced by equal ones (``plain_parts``).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecCtc
from torch import Tensor, nn

from ..checkpoints.adapters import CODEBOOK, HEAD, LOGITS, PROJECTION, TEACHER
from ..checkpoints.readers import FrameReader
from ..models.cpc import CPC, MelEncoder
from ..models.dinosr import DinoSR
from ..models.predictive import Predictive
from ..models.predictive_encoder import SinusoidalPositions
from ..models.spin import Spin
from ..models.trunk import Trunk
from ..modules.fast.extractor import ConvExtractor, extractor_reference
from ..modules.frame_grid import FrameGrid

OPSET = 20  # of the operators; onnxruntime reads it from 1.17 on
Outputs = dict[str, Tensor]
"""``layer_0`` ..., ``last``, an output by its name (1, F, D); ``codes_SET`` (K, F) int64; ``logits`` (1, F, V)."""


class Graph(nn.Module):
    """A waveform (1, T) float32 at 16 kHz, as recorded -> the outputs of these names.

    Args:
        reader: of the model.
        names: of ``Outputs``.
        recogniser: the CTC model around the reader's model, of which ``logits`` come; None for a pre-trained one.
    """

    def __init__(self, reader: FrameReader, names: Sequence[str], recogniser: Wav2VecCtc | None = None):
        super().__init__()
        self.model, self.grid, self.normalize, self.names = reader.model, reader.grid, reader.normalize, tuple(names)
        self.head = None if recogniser is None else recogniser.w2v_encoder.proj
        compute = outputs_for(reader.model)
        assert compute is not None  # `onnx_export.require_exportable`
        self.compute = compute

    def forward(self, waveform: Tensor) -> list[Tensor]:
        if self.normalize:
            waveform = waveform - waveform.mean()
            waveform = waveform * (waveform.square().mean() + 1e-5).rsqrt()  # as fairseq's dataset does
        outputs = self.compute(self.model, waveform, self.names)
        if self.head is not None:
            outputs["logits"] = self.head(outputs["last"])
        return [outputs[name] for name in self.names]


def outputs_for(model: nn.Module) -> Callable[[nn.Module, Tensor, Sequence[str]], Outputs] | None:
    """The function that computes the outputs of this kind of model; None for a kind that cannot be exported."""
    for kind, function in OUTPUTS.items():
        if isinstance(model, kind):
            return function
    return None


def trunk_outputs(model: Trunk, waveform: Tensor, names: Sequence[str]) -> Outputs:
    if model.cfg.front_end == "fbank":
        frames = model.feature_extractor(waveform, no_padding(model.grid, waveform)).transpose(1, 2)  # (1, F, C)
    else:
        frames = model.feature_extractor(waveform)
    inputs = model.project(frames)  # (1, F, D)
    last, results = model.encoder(inputs, None)
    outputs = by_layer(last, results)
    if isinstance(model, DinoSR):
        if f"codes_{TEACHER}" in names:
            targets = model.targets(inputs, None).squeeze(1)  # (K, F, D)
            outputs[f"codes_{TEACHER}"] = model.codebooks.assign(targets)
        if f"codes_{HEAD}" in names:
            outputs[f"codes_{HEAD}"] = model.logits(model.head_inputs(last, results)).argmax(-1).squeeze(1)
    if isinstance(model, Spin) and model.codebook is not None:
        scores = model.scores(last)  # (1, F, V)
        outputs |= {PROJECTION: model.project_frames(last), LOGITS: scores, f"codes_{CODEBOOK}": scores.argmax(-1)}
    return outputs


def cpc_outputs(model: CPC, waveform: Tensor, names: Sequence[str]) -> Outputs:
    encoder = model.encoder
    if isinstance(encoder, MelEncoder):
        z = encoder.convolve(encoder.log_mel(waveform, no_padding(model.grid, waveform)), None)
    else:
        z = encoder(waveform)
    return by_layer(*model.context(z))


def predictive_outputs(model: Predictive, waveform: Tensor, names: Sequence[str]) -> Outputs:
    frames = model.log_mel(waveform, no_padding(model.grid, waveform)).transpose(1, 2)  # (1, F, n_mels)
    return by_layer(*model.encode(frames, None))


OUTPUTS: dict[type[nn.Module], Callable[..., Outputs]] = {
    Trunk: trunk_outputs,
    CPC: cpc_outputs,
    Predictive: predictive_outputs,
}


def by_layer(last: Tensor, results: list) -> Outputs:
    """The output (1, F, D) and fairseq's layer results, whose outputs are (F, 1, D) -> by name, all (1, F, D)."""
    return {f"layer_{n}": output.transpose(0, 1) for n, (output, _, _) in enumerate(results)} | {"last": last}


def no_padding(grid: FrameGrid, waveform: Tensor) -> Tensor:
    """(1, F) bool, all false. ``FrameGrid.count`` compares the number with 0, which the exporter must not meet."""
    n_frames = (waveform.size(1) - grid.field) // grid.hop + 1
    return torch.zeros(1, n_frames, dtype=torch.bool, device=waveform.device)


# ---- parts that are replaced -----------------------------------------------------------------------------------------


@contextmanager
def plain_parts(model: nn.Module) -> Iterator[None]:
    """Replace the parts of a model that cannot be exported; at the end it is as before."""
    roots = [model]
    if isinstance(model, DinoSR) and model.teacher is not None:
        roots.append(model.teacher.model)  # not a part of the model for torch
    parents = [parent for root in roots for parent in root.modules()]
    replaced = [
        (parent, name, child, plain)
        for parent in parents
        for name, child in parent.named_children()
        if (plain := plain_part(child)) is not None
    ]
    try:
        for parent, name, _, plain in replaced:
            parent._modules[name] = plain
        yield
    finally:
        for parent, name, child, _ in replaced:
            parent._modules[name] = child


def plain_part(part: nn.Module) -> nn.Module | None:
    """What takes the place of a part, or None if it stays."""
    if isinstance(part, ConvExtractor):
        return PlainExtractor(part)
    if isinstance(part, SinusoidalPositions):
        return PlainPositions(part)
    if isinstance(part, (nn.GRU, nn.LSTM)):
        return RecurrentOperator(part)
    if isinstance(part, nn.Conv1d) and hasattr(part, "weight_g"):
        return without_weight_norm(part)
    return None


class PlainExtractor(nn.Module):
    """``ConvExtractor`` in plain operators: (1, T) -> (1, F, C)."""

    def __init__(self, extractor: ConvExtractor):
        super().__init__()
        self.extractor = extractor

    def forward(self, source: Tensor) -> Tensor:
        return extractor_reference(self.extractor, source)


class PlainPositions(nn.Module):
    """``SinusoidalPositions``, computed for any number of frames and not read from a table that grows."""

    frequencies: Tensor

    def __init__(self, positions: SinusoidalPositions):
        super().__init__()
        self.first, self.odd = positions.padding_idx + 1, positions.embedding_dim % 2
        half = positions.embedding_dim // 2
        step = -math.log(10000) / (half - 1)
        self.register_buffer("frequencies", torch.exp(torch.arange(half, dtype=torch.float) * step))

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        numbers = torch.arange(x.size(1)) + self.first
        angles = numbers.to(torch.float).unsqueeze(1) * self.frequencies  # (F, D / 2)
        return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, self.odd)).unsqueeze(0)


def without_weight_norm(convolution: Any) -> nn.Conv1d:
    """The same ``nn.Conv1d`` with its weight as a parameter, which weight norm computes at every call."""
    v, g = convolution.weight_v.detach(), convolution.weight_g.detach()  # (D, C, k), (1, 1, k): a norm for each tap
    sizes = (convolution.in_channels, convolution.out_channels, convolution.kernel_size, convolution.stride)
    plain = nn.Conv1d(*sizes, padding=convolution.padding, groups=convolution.groups)
    plain.weight = nn.Parameter(v * g / v.norm(dim=(0, 1), keepdim=True), requires_grad=False)
    plain.bias = convolution.bias
    return plain


class RecurrentOperator(nn.Module):
    """One layer of torch's GRU or LSTM as ONNX's operator, which torch's exporter cannot make itself from any length.

    x, batch-first or not as in the layer -> (output, None). Only the shape of the output is right outside of an export.
    """

    weights: Tensor
    recurrence: Tensor
    biases: Tensor

    def __init__(self, layer: nn.GRU | nn.LSTM):
        super().__init__()
        if layer.num_layers != 1 or layer.bidirectional or not layer.bias:
            raise ValueError("only single layers in one direction, with bias, are exported")
        self.batch_first, self.width = layer.batch_first, layer.hidden_size
        # ONNX's gates: update, reset, new of a GRU; input, output, forget, cell of an LSTM
        self.kind, order = ("GRU", (1, 0, 2)) if isinstance(layer, nn.GRU) else ("LSTM", (0, 3, 1, 2))
        reordered = lambda weight: torch.cat([weight.detach().chunk(len(order))[gate] for gate in order])
        biases = torch.cat([reordered(layer.bias_ih_l0), reordered(layer.bias_hh_l0)])
        self.register_buffer("weights", reordered(layer.weight_ih_l0).unsqueeze(0))  # (1, gates * D, C)
        self.register_buffer("recurrence", reordered(layer.weight_hh_l0).unsqueeze(0))  # (1, gates * D, D)
        self.register_buffer("biases", biases.unsqueeze(0))  # (1, 2 * gates * D)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        x = x.transpose(0, 1) if self.batch_first else x  # (F, 1, C)
        attributes: dict[str, Any] = {"hidden_size": self.width}
        if self.kind == "GRU":
            attributes["linear_before_reset"] = 1  # as torch
        output = torch.onnx.ops.symbolic(
            self.kind,
            [x, self.weights, self.recurrence, self.biases],
            attributes,
            dtype=x.dtype,
            shape=(x.size(0), 1, 1, self.width),  # frames, directions, batch, D
            version=OPSET,
        ).squeeze(1)
        return output.transpose(0, 1) if self.batch_first else output, None
