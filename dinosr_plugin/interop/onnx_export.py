"""Models as ONNX files: ``dinosr export onnx``.

A file computes, from one waveform of any length at 16 kHz as it was recorded, features of layers and the model's codes,
of a CTC model the logits. Normalising the recording, where a model expects that, and log-Mel frames are part of the
graph. Its metadata say what it is (``metadata_of``).
"""

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fairseq.models import MODEL_REGISTRY
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecCtc
from torch import Tensor

from ..checkpoints.load import Loaded, load_model
from ..checkpoints.opening import make_embedder, make_reader
from ..checkpoints.readers import FrameReader, Layer
from ..errors import UserError
from ..files import kind_of, output
from ..modules.frame_grid import SAMPLE_RATE
from .onnx_graphs import OPSET, Graph, outputs_for, plain_parts

INPUT = "waveform"
PREFIX = "dinosr."  # of the names of metadata
LARGEST = 2**31 - 2**20  # bytes of weights in one file, whose format ends at 2 GiB
EXAMPLE = SAMPLE_RATE  # samples of the waveform that is followed through the model; files take any length


class Exported(NamedTuple):
    """``outputs``: their names, in order; ``parameters``: numbers in the file's weights."""

    outputs: tuple[str, ...]
    parameters: int


def require_onnx() -> None:
    """Raise UserError if what torch's exporter needs is not installed."""
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing or not hasattr(torch.onnx, "ops"):
        what = " and ".join(missing) or "torch 2.8 or later"
        raise UserError(f"export onnx: requires {what}: pip install 'dinosr-plugin[onnx]'")


def require_new(out: str | Path) -> None:
    """Raise UserError if something has this name."""
    if kind_of(out) != "nothing":
        raise UserError(f"OUT {out}: already exists; give another name, or remove it first")


def export(path: str | Path, out: str | Path, layer: Layer | None = None, codes: bool = True) -> Exported:
    """As ``export_onnx``, of a checkpoint.

    Also raises UserError as ``load_model`` does, for a missing package, an existing ``out`` and a model of speakers.
    """
    require_onnx()
    require_new(out)
    loaded = load_model(path)
    if make_embedder(loaded, path, "cpu"):
        raise UserError(f"{path}: a model of speakers, which is not exported; give one whose output are frames")
    return export_onnx(loaded, make_reader(loaded, path), out, layer, codes)


def export_onnx(
    loaded: Loaded, reader: FrameReader, out: str | Path, layer: Layer | None = None, codes: bool = True
) -> Exported:
    """Write a model to the file ``out``, which does not exist yet.

    Args:
        loaded, reader: a checkpoint, and the reader of the model in it.
        layer: a number, "last", the name of one of the reader's outputs, or "all" layers. None: all layers of a
            pre-trained model, none of a CTC model, whose logits are always in the file.
        codes: whether the model's codes are in the file, if it has any.

    Raises:
        UserError: a model that is not this plug-in's; a layer that does not exist; a model that is too large for one
            file.
    """
    recogniser = loaded.model if isinstance(loaded.model, Wav2VecCtc) else None
    require_exportable(reader)
    names = output_names(reader, layer, codes, recogniser is not None)
    graph = Graph(reader, names, recogniser).eval()
    with plain_parts(reader.model), quiet():
        program = traced(graph)
    weights = program.model.graph.initializers.values()
    if sum(weight.const_value.nbytes for weight in weights) > LARGEST:
        raise UserError(f"{reader.path}: more than 2 GB of weights, too many for one ONNX file; add --no-codes")
    program.model.metadata_props.update(metadata_of(loaded, reader, names))
    with output(out, "OUT") as unfinished:
        program.save(str(unfinished), external_data=False)
    return Exported(tuple(names), sum(weight.const_value.size for weight in weights))


def require_exportable(reader: FrameReader) -> None:
    """Raise UserError for fairseq's own models."""
    if outputs_for(reader.model) is None:
        raise UserError(
            f"{reader.path}: contains fairseq's {type(reader.model).__name__}, which is not exported to ONNX; start a "
            "model of this plug-in from it (model.start_from), or use the exporter of Hugging Face's optimum"
        )


def output_names(reader: FrameReader, layer: Layer | None, codes: bool, with_logits: bool) -> list[str]:
    """Names of ``onnx_graphs.Outputs``, in the file's order. Raises UserError for a layer that does not exist."""
    names = ["logits"] if with_logits else []
    if layer == "all" or (layer is None and not with_logits):
        names += [f"layer_{number}" for number in range(reader.n_layers)]
    elif isinstance(layer, int) and 0 <= layer < reader.n_layers:
        names.append(f"layer_{layer}")
    elif layer is not None and (layer == "last" or layer in reader.outputs):
        names.append(str(layer))
    elif layer is not None:
        others = "".join(f", {name}" for name in reader.outputs)
        raise UserError(f"--layer {layer}: {reader.path} has layers 0 to {reader.n_layers - 1}, last, all{others}")
    return names + [f"codes_{name}" for name in reader.code_sets if codes]


@torch.no_grad()
def traced(graph: Graph) -> Any:
    """The ``torch.onnx.ONNXProgram`` of a graph, for any number of samples."""
    example: Tensor = torch.randn(1, EXAMPLE, generator=torch.Generator().manual_seed(0))
    return torch.onnx.export(
        graph,
        (example,),
        dynamo=True,
        dynamic_shapes=({1: torch.export.Dim("samples", min=graph.grid.field + graph.grid.hop)},),
        input_names=[INPUT],
        output_names=list(graph.names),
        opset_version=OPSET,
        verbose=False,
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's warnings: about its own code, and that torchvision is not installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)


def metadata_of(loaded: Loaded, reader: FrameReader, names: Sequence[str]) -> dict[str, str]:
    """What the file says about itself, by name; numbers and lists as JSON."""
    model = reader.model
    objectives = [name for name, kind in MODEL_REGISTRY.items() if kind is type(model)]
    facts: dict[str, Any] = {
        "name": reader.name,
        "objective": objectives[0] if objectives else type(model).__name__,
        "fingerprint": reader.fingerprint,
        "input": "mono waveform (1, samples) float32 at 16 kHz, as recorded, about -1 to 1, without padding",
        "sample_rate": SAMPLE_RATE,
        "shortest": reader.grid.field,  # samples
        "frame_rate": reader.rate,  # frames per second
        "first_centre": reader.first_centre,  # seconds
        "width": reader.width,
        "normalizes": reader.normalize,  # whether the graph scales the waveform to mean 0 and variance 1
        "outputs": list(names),
        "codes": {
            f"codes_{name}": {
                "count": codes.count,
                "size": codes.size,
                "layers": codes.layers,
                "weights": codes.weights,
            }
            for name, codes in reader.code_sets.items()
            if f"codes_{name}" in names
        },
    }
    if "logits" in names and isinstance(loaded.model, Wav2VecCtc):
        dictionary = loaded.task.target_dictionary
        facts |= {"symbols": dictionary.symbols, "blank": dictionary.index(loaded.task.blank_symbol)}
    return {
        PREFIX + name: fact if isinstance(fact, str) else json.dumps(fact, ensure_ascii=False)
        for name, fact in facts.items()
    }
