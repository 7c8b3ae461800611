"""Checkpoints of CPC_audio (facebookresearch) and its fork CPC_DeepCluster (iiscleap), converted when they are read.

They become checkpoints of this plug-in's ``cpc`` or ``cpc_deepcluster``. There are two layouts. Training saves
``gEncoder`` (weights of the encoder and the context network), ``cpcCriterion`` (predictors) and, in the fork,
``cpc_classifier``; the options are in ``checkpoint_args.json`` in the same folder. The files of torch.hub and Textless
NLP contain ``weights`` and ``config``.

Sizes are read from the tensors. Options are used only where the tensors are not sufficient.
"""

import logging
import os
import re
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from ..checkpoints.contents import Damaged, check_weights
from ..errors import UserError
from ..files import is_file, read_json
from ..models.cpc import CPC, CPCConfig, check_config

logger = logging.getLogger(__name__)

ENCODER_AND_CONTEXT = {
    r"gEncoder\.conv(\d)\.(weight|bias)": r"encoder.convolutions.\1.\2",
    r"gEncoder\.batchNorm(\d)\.(weight|bias|running_mean|running_var|num_batches_tracked)": r"encoder.norms.\1.\2",
    r"gAR\.baseNet\.(weight|bias)_(ih|hh)_l(\d+)": r"context.layers.\3.\1_\2_l0",
}
PREDICTORS = {
    "linear": {r"wPrediction\.predictors\.(\d+)\.weight": r"\1.weight"},
    "transformer": {
        r"wPrediction\.predictors\.(\d+)\.0\.multihead\.Wq\.weight": r"predictors.layers.\1.query.weight",
        r"wPrediction\.predictors\.(\d+)\.0\.multihead\.Wk\.weight": r"predictors.layers.\1.key.weight",
        r"wPrediction\.predictors\.(\d+)\.0\.multihead\.Wv\.weight": r"predictors.layers.\1.value.weight",
        r"wPrediction\.predictors\.(\d+)\.0\.multihead\.Wo\.weight": r"predictors.layers.\1.out.weight",
        r"wPrediction\.predictors\.(\d+)\.0\.multihead\.Att\.Krelpos": r"predictors.layers.\1.distances",
        r"wPrediction\.predictors\.(\d+)\.0\.ln_multihead\.(weight|bias)": r"predictors.layers.\1.attention_norm.\2",
        r"wPrediction\.predictors\.(\d+)\.0\.ffnetwork\.lin1\.(weight|bias)": r"predictors.layers.\1.expand.\2",
        r"wPrediction\.predictors\.(\d+)\.0\.ffnetwork\.lin2\.(weight|bias)": r"predictors.layers.\1.contract.\2",
        r"wPrediction\.predictors\.(\d+)\.0\.ln_ffnetwork\.(weight|bias)": r"predictors.layers.\1.feed_forward_norm.\2",
    },
}
"""By kind of predictor: name in CPC_audio (regular expression) -> name in this plug-in."""

CONSTANTS = re.compile(r"wPrediction\.predictors\.\d+\.0\.multihead\.Att\.(z|mask)")  # buffers that are not learned
MAX_NEGATIVES = 100_000
GATES: dict[float, str] = {4: "lstm", 3: "gru"}
ARGS = "checkpoint_args.json"


def from_cpc_audio(state: dict[str, Any], path: str | Path) -> dict[str, Any] | None:
    """A checkpoint of CPC_audio in the form in which fairseq loads one of this plug-in (``cfg``, ``model``).

    None for the state of any other file. Predictors of a kind that ``cpc`` does not have are left out
    (``predictor=none``).

    Raises UserError for a model that differs from ``cpc``, for missing tensors, and for an invalid
    ``checkpoint_args.json``.
    """
    parts = [state.get("gEncoder") or state.get("weights"), state.get("cpcCriterion"), state.get("cpc_classifier")]
    if not any("gEncoder." in str(name) for name in (parts[0] if isinstance(parts[0], dict) else ())):
        return None
    weights, of_predictors, of_classifier = (tensors_of(part, path) for part in parts)
    args = state["config"] if isinstance(state.get("config"), dict) else read_args(Path(path))
    if args.get("cpc_mode") == "reverse":
        raise UserError(
            f"{path}: the model was trained backwards in time (cpc_mode=reverse), which model=cpc does not support; "
            "give one that was trained forwards"
        )
    cfg, model = encoder_and_context(weights, path)
    negatives = args.get("negativeSamplingExt", 128)
    if type(negatives) is not int or not 0 < negatives <= MAX_NEGATIVES:
        raise UserError(f"{path}: negativeSamplingExt in its options is not from 1 to {MAX_NEGATIVES}; copy it again")
    cfg |= {"n_negatives": negatives, "predictor": "none"}
    require_complete(cfg, model, path)
    for part in (
        predictors(of_predictors, cfg),
        classifier(of_classifier, cfg),
    ):
        cfg, model = cfg | part[0], model | part[1]
    description = (
        "no predictors that model=cpc supports"
        if cfg["predictor"] == "none"
        else f"{cfg['predictor']} predictors of {cfg['steps']} steps"
    )
    size = f"norm {cfg['encoder_norm']}, {cfg['context']} of {cfg['context_layers']} x {cfg['context_dim']}"
    logger.info(f"{path}: a checkpoint of CPC_audio: {cfg['encoder_channels']} channels, {size}, {description}")
    task = {"_name": "dinosr_pretraining", "data": os.devnull, "normalize": False}
    return {"cfg": OmegaConf.create({"model": {"_name": "cpc", **cfg}, "task": task}), "args": None, "model": model}


def read_args(path: Path) -> dict[str, Any]:
    """The options in the folder of a checkpoint; {} with a warning if there are none."""
    options = path.with_name(ARGS)
    if not is_file(options):
        logger.warning(
            f"{path}: no {ARGS} in its folder, so the model is assumed to be trained forwards in time, which cannot be "
            "seen from its weights; add the file if you have it"
        )
        return {}
    return read_json(options, f"copy it again from the source of {path.name}, or remove it")


def tensors_of(state: Any, path: str | Path) -> dict[str, Tensor]:
    """The float32 tensors of a state dict, without the prefix of data-parallel training; {} for anything else.

    Raises UserError for tensors that are larger than their file, before one of them is copied.
    """
    items = state.items() if isinstance(state, dict) else ()
    tensors = {str(name).removeprefix("module."): tensor for name, tensor in items if torch.is_tensor(tensor)}
    try:
        check_weights(tensors, os.path.getsize(path))
    except Damaged as error:
        raise UserError(f"{path}: {error}; copy it again") from None
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def renamed(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """The tensors that match one of these names (regular expression -> replacement), renamed."""
    tensors = {}
    for name, tensor in state.items():
        for pattern, replacement in names.items():
            if match := re.fullmatch(pattern, name):
                tensors[match.expand(replacement)] = tensor
    return tensors


def encoder_and_context(state: dict[str, Tensor], path: str | Path):
    """(fields of the config, state dict). Raises UserError for an unsupported encoder or context network."""
    tensors = {name: tensor for name, tensor in state.items() if name.startswith(("gEncoder.", "gAR."))}
    model = renamed(tensors, ENCODER_AND_CONTEXT)
    if unknown := [name for name in tensors if not renamed({name: tensors[name]}, ENCODER_AND_CONTEXT)]:
        raise UserError(
            f"{path}: a CPC_audio model with {unknown[0]}, which model=cpc does not have; give one with convolutions "
            "and a forward LSTM or GRU"
        )
    first, recurrent = model.get("encoder.convolutions.0.weight"), model.get("context.layers.0.weight_hh_l0")
    if first is None or recurrent is None:
        missing = "gEncoder.conv0.weight" if first is None else "gAR.baseNet.weight_hh_l0"
        raise UserError(
            f"{path}: a CPC_audio model without {missing}; give one with convolutions and an LSTM or GRU, or copy it "
            "again if it is incomplete"
        )
    gates = recurrent.size(0) / recurrent.size(-1)
    if gates not in GATES:
        raise UserError(
            f"{path}: a CPC_audio model with a recurrent network of {gates:g} gates, which is neither an LSTM (4) nor "
            "a GRU (3); give one of these"
        )
    cfg = {
        "encoder_channels": first.size(0),
        "encoder_norm": norm_of(model),
        "context": GATES[gates],
        "context_dim": recurrent.size(-1),
    }
    cfg["context_layers"] = sum(name.endswith(".weight_hh_l0") for name in model)
    for name in [name for name in model if name.startswith("encoder.norms.")]:
        model[name] = model[name].flatten() if model[name].dim() == 3 else model[name]  # (1, C, 1) in ChannelNorm
    if cfg["encoder_norm"] == "batch":  # torch before 0.4.1 did not have this buffer
        model = {**{f"encoder.norms.{i}.num_batches_tracked": torch.tensor(0) for i in range(5)}, **model}
    return cfg, model


def norm_of(model: dict[str, Tensor]) -> str:
    """The kind of normalisation, from its parameters."""
    weight = model.get("encoder.norms.0.weight")
    if weight is None:
        return "none"
    if "encoder.norms.0.running_mean" in model:
        return "batch"
    return "channel" if weight.dim() == 3 else "instance"


def predictors(state: dict[str, Tensor], cfg: dict[str, Any]):
    """(fields, state dict); ({}, {}) if the kind or size is not supported by ``cpc``.

    A Transformer predictor of CPC_audio works on windows of exactly S anchors, and has the embedding of the distance of
    d frames back in column S - 1 - d.
    """
    learned = {name: tensor for name, tensor in state.items() if not CONSTANTS.fullmatch(name)}
    for kind, names in PREDICTORS.items():
        model = renamed(learned, names)
        if not model or len(model) < len(learned):
            continue
        if kind == "linear":  # matrix k becomes rows k C to (k + 1) C
            fields = {"steps": len(model)}
            in_order = sorted(model, key=lambda name: int(name.partition(".")[0]))
            model = {"predictors.project.weight": torch.cat([model[name] for name in in_order])}  # (steps C, D)
        else:
            distances = [name for name in model if name.endswith(".distances")]
            fields = {"steps": len(distances), "predictor_positions": model[distances[0]].size(-1)} if distances else {}
            model |= {name: model[name].flip(1).T for name in distances}
        if shapes_of(model) == expected(cfg | fields | {"predictor": kind}, "predictors."):
            return {"predictor": kind, **fields}, model
    return {}, {}


def classifier(state: dict[str, Tensor], cfg: dict[str, Any]):
    """(fields, state dict) of the fork's classifier of clusters; ({}, {}) if there is none."""
    clusters = len(state.get("classifier.bias", ()))
    if shapes_of(state) != {"classifier.weight": (clusters, cfg["context_dim"]), "classifier.bias": (clusters,)}:
        return {}, {}
    return {"_name": "cpc_deepcluster", "num_classes": [clusters]}, state


def expected(cfg: dict[str, Any], prefix: str = "") -> dict[str, tuple]:
    """Shapes of the parameters, with names that begin with ``prefix``, of a ``cpc`` model; {} if ``cfg`` is invalid."""
    config = CPCConfig(**cfg)
    try:
        check_config(config)
    except UserError:
        return {}
    with torch.device("meta"):
        return {name: shape for name, shape in shapes_of(CPC(config).state_dict()).items() if name.startswith(prefix)}


def shapes_of(state: dict[str, Tensor]) -> dict[str, tuple]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def require_complete(cfg: dict[str, Any], model: dict[str, Tensor], path: str | Path) -> None:
    """Raise UserError for the first tensor that is missing, has an unexpected shape, or belongs to no layer."""
    required, actual = expected(cfg), shapes_of(model)
    for name in sorted(required.keys() | actual.keys()):
        if required.get(name) != actual.get(name):
            is_now, should_be = actual.get(name, "missing"), required.get(name, "absent")
            raise UserError(
                f"{path}: a CPC_audio model whose {name} (its name in this plug-in) is {is_now}, not {should_be}; "
                "copy the file again"
            )
