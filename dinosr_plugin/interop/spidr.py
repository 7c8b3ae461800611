"""Checkpoints of spidr (facebookresearch): SpidR, and DinoSR as trained with the same code, converted when read.

They become checkpoints of this plug-in's ``dinosr``. A published file contains ``model``, a state dict; a training
saves more entries, and ``config.json`` in the same folder.

Sizes are read from the tensors. The number of attention heads and the strides of the front end cannot be seen in them:
they come from ``config.json``, and without one the model must have the published size, 768. SpidR's layers have no bias
in the projections to queries, keys and values; these biases are zero in the converted model.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from ..checkpoints.contents import Damaged, check_weights
from ..errors import UserError
from ..files import is_file, read_json
from ..models.dinosr import DinoSRConfig, check_config
from ..models.encoder import check_trunk_config, positional_kernel
from ..modules.conv_spec import parse_conv_layers

logger = logging.getLogger(__name__)

OPTIONS = "config.json"
PUBLISHED_WIDTH, PUBLISHED_HEADS = 768, 12
PUBLISHED_CONVOLUTIONS = [(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2
MODES = {"layer_norm": "layer_norm", "group_norm": "default"}
"""``extractor_mode`` in spidr -> in this plug-in."""

ENCODERS = ("student.", "teacher.")
OF_ENCODER = (
    (r"pos_conv_embed\.convs\.(\d+)\.(\w+)", r"pos_conv.\1.0.\2"),
    (r"layer_norm\.(\w+)", r"layer_norm.\1"),
    (r"(layers\.\d+)\.attention\.([qkv]_proj)\.(\w+)", r"\1.self_attn.\2.\3"),
    (r"(layers\.\d+)\.attention\.proj\.(\w+)", r"\1.self_attn.out_proj.\2"),
    (r"(layers\.\d+)\.layer_norm\.(\w+)", r"\1.self_attn_layer_norm.\2"),
    (r"(layers\.\d+)\.final_layer_norm\.(\w+)", r"\1.final_layer_norm.\2"),
    (r"(layers\.\d+)\.feed_forward\.intermediate_dense\.(\w+)", r"\1.fc1.\2"),
    (r"(layers\.\d+)\.feed_forward\.output_dense\.(\w+)", r"\1.fc2.\2"),
)
"""Name in ``student`` or ``teacher`` (regular expression) -> name in this plug-in's ``Encoder``."""

OTHERS = (
    (r"mask_embedding", "mask_emb"),
    (r"feature_extractor\.conv_layers\.(\d+)\.conv\.(\w+)", r"feature_extractor.conv_layers.\1.0.\2"),
    (r"feature_projection\.layer_norm\.(\w+)", r"layer_norm.\1"),
    (r"feature_projection\.projection\.(\w+)", r"post_extract_proj.\1"),
    (r"heads\.(\d+)\.0\.(\w+)", r"heads.\1.\2"),
    (r"codebooks\.(\d+)\.codebook", r"_codebook\1"),
    (r"codebooks\.(\d+)\.counts", r"_codebook_cnts\1"),
)
NORM_OF_CONVOLUTION = r"feature_extractor\.conv_layers\.(\d+)\.layer_norm\.(\w+)"
NORMS = {
    "layer_norm": r"feature_extractor.conv_layers.\1.2.1.\2",
    "default": r"feature_extractor.conv_layers.\1.2.\2",
}


def from_spidr(state: dict[str, Any], path: str | Path) -> dict[str, Any] | None:
    """A checkpoint of spidr in the form in which fairseq loads one of this plug-in (``cfg``, ``model``).

    None for the state of any other file.

    Raises UserError for missing tensors, tensors of other shapes or names, an invalid ``config.json``, and without it
    a model of another width than the published ones.
    """
    tensors = tensors_of(state, path)
    if tensors is None:
        return None
    options = read_options(Path(path))
    cfg = fields_of(tensors, options, path)
    check_trunk_config(DinoSRConfig(**cfg))
    check_config(DinoSRConfig(**cfg))
    require_complete(expected(cfg), tensors, path)
    is_spidr = predicts_from_matching_layers(tensors, options, cfg)
    cfg["head_layers"] = "matching_ffn" if is_spidr else "last"
    size = f"{cfg['encoder_layers']} layers of {cfg['encoder_embed_dim']}"
    books = f"{cfg['average_top_k_layers']} codebooks of {cfg['codebook_size']}"
    logger.info(f"{path}: a checkpoint of spidr: {'SpidR' if is_spidr else 'DinoSR'}, {size}, {books}")
    normalize = option(options, "data", "normalize", True)
    task = {"_name": "dinosr_pretraining", "data": os.devnull, "normalize": normalize}
    model = renamed(tensors, cfg["extractor_mode"])
    return {"cfg": OmegaConf.create({"model": {"_name": "dinosr", **cfg}, "task": task}), "args": None, "model": model}


def tensors_of(state: dict[str, Any], path: str | Path) -> dict[str, Tensor] | None:
    """The float32 tensors by name, without the prefix of data-parallel training; None for another program's file.

    Raises UserError for tensors that are larger than their file, before one of them is copied.
    """
    tensors = model_in(state)
    if tensors is None:
        return None
    try:
        check_weights(tensors, os.path.getsize(path))
    except Damaged as error:
        raise UserError(f"{path}: {error}; copy it again") from None
    tensors.pop("current_step", None)  # the number of updates
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def model_in(state: dict[str, Any]) -> dict[str, Tensor] | None:
    """The tensors of a model of spidr; None for another program's file."""
    part = state.get("model", state)
    items = part.items() if isinstance(part, dict) else ()
    tensors = {str(name).removeprefix("module."): tensor for name, tensor in items if torch.is_tensor(tensor)}
    is_spidr = "feature_projection.projection.weight" in tensors and numbers_after("student.layers.", tensors)
    return tensors if is_spidr else None


def updates_in(state: dict[str, Any]) -> int | None:
    """Number of updates that a checkpoint of spidr has seen; None for another file, and for one that omits it."""
    tensors = model_in(state) or {}
    for count in (state.get("step") if tensors else None, tensors.get("current_step")):
        if torch.is_tensor(count) and count.dtype == torch.int64 and count.numel() == 1:
            return int(count)
    return None


# ---- settings --------------------------------------------------------------------------------------------------------


def read_options(path: Path) -> dict[str, Any]:
    """The options in the folder of a checkpoint; {} if there are none."""
    options = path.with_name(OPTIONS)
    if not is_file(options):
        return {}
    return read_json(options, f"copy it again from the source of {path.name}, or remove it")


def option(options: Mapping[str, Any], group: str, name: str, default: Any) -> Any:
    """An option of a training. Raises UserError for a value of another type than the default."""
    fields = options.get(group, {})
    value = fields.get(name, default) if isinstance(fields, dict) else None
    if type(value) is not type(default):
        raise UserError(f"{group}.{name} in {OPTIONS} is not a {type(default).__name__}; copy that file again")
    return value


def fields_of(tensors: Mapping[str, Tensor], options: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """Fields of the config of ``dinosr``. Raises UserError for a model that it cannot describe."""
    width = size_of(tensors, "feature_projection.projection.weight", 0, path)
    if "model" not in options and width != PUBLISHED_WIDTH:
        raise UserError(
            f"{path}: a SpidR model of width {width}, whose attention heads are not known: the published width is "
            f"{PUBLISHED_WIDTH}; copy the {OPTIONS} that its training wrote into its folder"
        )
    mode = option(options, "model", "extractor_mode", "layer_norm")
    if mode not in MODES:
        raise UserError(f"{path}: model.extractor_mode in {OPTIONS} is not one of {', '.join(MODES)}; copy it again")
    depth = numbers_after("student.pos_conv_embed.convs.", tensors)
    if depth == 1:
        raise UserError(
            f"{path}: a SpidR model with one positional convolution and LayerNorm, which model=dinosr does not have; "
            "give one with several"
        )
    return {
        "extractor_mode": MODES[mode],
        "conv_feature_layers": str(convolutions_in(options, path)),
        "conv_bias": "feature_extractor.conv_layers.0.conv.bias" in tensors,
        "encoder_layers": numbers_after("student.layers.", tensors),
        "encoder_embed_dim": width,
        "encoder_ffn_embed_dim": size_of(tensors, "student.layers.0.feed_forward.intermediate_dense.weight", 0, path),
        "encoder_attention_heads": option(options, "model", "encoder_num_heads", PUBLISHED_HEADS),
        "qkv_bias": "student.layers.0.attention.qkv.bias" in tensors,
        "layer_norm_first": option(options, "model", "encoder_layer_norm_first", False),
        "pos_conv_depth": depth,
        "conv_pos": depth * size_of(tensors, "student.pos_conv_embed.convs.0.weight", 2, path),
        "conv_pos_groups": width // size_of(tensors, "student.pos_conv_embed.convs.0.weight", 1, path),
        "average_top_k_layers": numbers_after("codebooks.", tensors),
        "codebook_size": size_of(tensors, "codebooks.0.codebook", 0, path),
    }


def convolutions_in(options: Mapping[str, Any], path: str | Path) -> list[tuple[int, int, int]]:
    """(channels, kernel, stride) of each. Raises UserError for anything else."""
    layers = option(options, "model", "extractor_conv_layer_config", PUBLISHED_CONVOLUTIONS)
    try:
        return parse_conv_layers(str([tuple(layer) for layer in layers]))
    except (TypeError, ValueError):
        raise UserError(
            f"{path}: model.extractor_conv_layer_config in {OPTIONS} is not a list of convolutions; copy it again"
        ) from None


def size_of(tensors: Mapping[str, Tensor], name: str, dimension: int, path: str | Path) -> int:
    """Size of a tensor in this dimension. Raises UserError if it is missing or has no such dimension."""
    tensor = tensors.get(name)
    if tensor is None or tensor.dim() <= dimension or tensor.size(dimension) == 0:
        raise UserError(f"{path}: a SpidR model with {name} missing or of another shape; copy the file again")
    return tensor.size(dimension)


def numbers_after(prefix: str, tensors: Mapping[str, Tensor]) -> int:
    """How many different numbers follow this prefix in the names: of layers, of codebooks."""
    numbers = {name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix)}
    return len(numbers)


def predicts_from_matching_layers(
    tensors: Mapping[str, Tensor], options: Mapping[str, Any], cfg: Mapping[str, Any]
) -> bool:
    """Whether it is SpidR, whose heads read the feed-forward outputs of their layers, and not DinoSR.

    Both have the same tensors. The options of a training say which it is. In a file alone it is seen in the LayerNorm
    that comes last: SpidR never trains it, so that it still has its initial values.
    """
    if "run" in options:
        return option(options, "run", "model_type", "dinosr") == "spidr"
    last = "" if cfg["layer_norm_first"] else f"layers.{cfg['encoder_layers'] - 1}.final_"
    norm = tensors[f"student.{last}layer_norm.weight"], tensors[f"student.{last}layer_norm.bias"]
    return bool((norm[0] == 1).all()) and bool((norm[1] == 0).all())


# ---- tensors ---------------------------------------------------------------------------------------------------------


def expected(cfg: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of such a model, by their names in spidr."""
    width, size = cfg["encoder_embed_dim"], cfg["codebook_size"]
    shapes: dict[str, tuple[int, ...]] = {"mask_embedding": (width,)}
    channels = 1
    for i, (out, kernel, _) in enumerate(parse_conv_layers(cfg["conv_feature_layers"])):
        at = f"feature_extractor.conv_layers.{i}"
        shapes[f"{at}.conv.weight"] = (out, channels, kernel)
        shapes |= {f"{at}.conv.bias": (out,)} if cfg["conv_bias"] else {}
        shapes |= both(f"{at}.layer_norm", out) if cfg["extractor_mode"] == "layer_norm" or i == 0 else {}
        channels = out
    shapes |= both("feature_projection.layer_norm", channels)
    shapes |= linear("feature_projection.projection", width, channels)
    for part in ("student", "teacher"):
        shapes |= {f"{part}.{name}": shape for name, shape in of_transformer(cfg)}
    for k in range(cfg["average_top_k_layers"]):
        shapes |= linear(f"heads.{k}.0", size, width)
        shapes |= {f"codebooks.{k}.codebook": (size, width), f"codebooks.{k}.counts": (size,)}
    return shapes


def of_transformer(cfg: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name in ``student`` or ``teacher``, and shape."""
    width, feed_forward = cfg["encoder_embed_dim"], cfg["encoder_ffn_embed_dim"]
    kernel = positional_kernel(DinoSRConfig(**cfg))
    for j in range(cfg["pos_conv_depth"]):
        yield f"pos_conv_embed.convs.{j}.weight", (width, width // cfg["conv_pos_groups"], kernel)
        yield f"pos_conv_embed.convs.{j}.bias", (width,)
    yield from both("layer_norm", width).items()
    for n in range(cfg["encoder_layers"]):
        yield f"layers.{n}.attention.qkv.weight", (3 * width, width)
        if cfg["qkv_bias"]:
            yield f"layers.{n}.attention.qkv.bias", (3 * width,)
        yield from chain(
            linear(f"layers.{n}.attention.proj", width, width).items(),
            linear(f"layers.{n}.feed_forward.intermediate_dense", feed_forward, width).items(),
            linear(f"layers.{n}.feed_forward.output_dense", width, feed_forward).items(),
            both(f"layers.{n}.layer_norm", width).items(),
            both(f"layers.{n}.final_layer_norm", width).items(),
        )


def both(name: str, size: int) -> dict[str, tuple[int, ...]]:
    """Weight and bias of a norm."""
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def linear(name: str, out: int, inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, inputs), f"{name}.bias": (out,)}


def require_complete(shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise UserError for the first tensor that is missing, has an unexpected shape, or belongs to no layer."""
    actual = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(shapes.keys() | actual.keys()):
        if shapes.get(name) != actual.get(name):
            is_now, should_be = actual.get(name, "missing"), shapes.get(name, "absent")
            raise UserError(f"{path}: a SpidR model whose {name} is {is_now}, not {should_be}; copy the file again")


def renamed(tensors: Mapping[str, Tensor], extractor_mode: str) -> dict[str, Any]:
    """The state dict of ``DinoSR``: ``_ema`` is that of the teacher's encoder."""
    others = (*OTHERS, (NORM_OF_CONVOLUTION, NORMS[extractor_mode]))
    model = {ours(name, others): tensor for name, tensor in tensors.items() if not name.startswith(ENCODERS)}
    student, teacher = (of_encoder(part, tensors) for part in ENCODERS)
    return model | {f"encoder.{name}": tensor for name, tensor in student.items()} | {"_ema": teacher}


def of_encoder(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of ``Encoder``, from the tensors with this prefix."""
    encoder = {}
    for name, tensor in tensors.items():
        if not name.startswith(prefix):
            continue
        inner = name.removeprefix(prefix)
        at, is_joint, kind = inner.partition(".qkv.")
        if not is_joint:
            encoder[ours(inner, OF_ENCODER)] = tensor
            continue
        for letter, part in zip("qkv", tensor.chunk(3)):  # (3 D, D), queries first
            encoder[ours(f"{at}.{letter}_proj.{kind}", OF_ENCODER)] = part.clone()
            encoder.setdefault(ours(f"{at}.{letter}_proj.bias", OF_ENCODER), torch.zeros(len(part)))
    return encoder


def ours(name: str, names: tuple[tuple[str, str], ...]) -> str:
    """The name in this plug-in; the first pattern that matches is used."""
    for pattern, replacement in names:
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    raise AssertionError(name)  # `require_complete` has refused it
