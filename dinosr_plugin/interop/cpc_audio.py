"""Checkpoints of CPC_audio (facebookresearch) and of its fork CPC_DeepCluster (iiscleap), read as if they were this plug-in's ``cpc`` or ``cpc_deepcluster``.

There are two layouts. What training saves: ``gEncoder`` (the weights of encoder and context network), ``cpcCriterion`` (of the predictors), in the
fork ``cpc_classifier``, with the options in ``checkpoint_args.json`` beside the file. And what torch.hub and Textless NLP offer: ``weights`` and ``config``.

Sizes come from the tensors. The options are asked only for what no tensor tells.
"""

import json
import logging
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from ..errors import UserError
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
"""By kind: their names, ours."""

CONSTANTS = re.compile(
    r"wPrediction\.predictors\.\d+\.0\.multihead\.Att\.(z|mask)"
)  # what every such layer holds, whatever it learned
GATES: dict[float, str] = {4: "lstm", 3: "gru"}
ARGS = "checkpoint_args.json"


def read_cpc_audio(path: str | Path) -> dict[str, Any] | None:
    """A checkpoint of CPC_audio as fairseq's loader gives one of this plug-in (``cfg``, ``model``); None for any other file, a damaged one too.

    Predictors of a kind that ``cpc`` does not have are left out (``predictor=none``).

    Raises UserError for a model that is another than ``cpc``, for one with tensors missing, and for a ``checkpoint_args.json`` that is none.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception:  # torch, pickle and zipfile each have their own; fairseq's loader meets it again
        return None
    if not isinstance(state, dict):
        return None
    weights = tensors_of(state.get("gEncoder") or state.get("weights"))
    if not any("gEncoder." in name for name in weights):
        return None
    args = state["config"] if isinstance(state.get("config"), dict) else read_args(Path(path))
    if args.get("cpc_mode") == "reverse":
        raise UserError(
            f"{path}: was trained backwards in time (cpc_mode=reverse in its options), which model=cpc is not; give one without"
        )
    cfg, model = encoder_and_context(weights, path)
    cfg |= {"n_negatives": int(args.get("negativeSamplingExt", 128)), "predictor": "none"}
    require_complete(cfg, model, path)
    for part in (
        predictors(tensors_of(state.get("cpcCriterion")), cfg),
        classifier(tensors_of(state.get("cpc_classifier")), cfg),
    ):
        cfg, model = cfg | part[0], model | part[1]
    said = (
        "no predictors that model=cpc has"
        if cfg["predictor"] == "none"
        else f"{cfg['predictor']} predictors of {cfg['steps']} steps"
    )
    size = f"norm {cfg['encoder_norm']}, {cfg['context']} of {cfg['context_layers']} x {cfg['context_dim']}"
    logger.info(f"{path}: a checkpoint of CPC_audio: {cfg['encoder_channels']} channels, {size}, {said}")
    task = {"_name": "dinosr_pretraining", "data": os.devnull, "normalize": False}
    return {"cfg": OmegaConf.create({"model": {"_name": "cpc", **cfg}, "task": task}), "args": None, "model": model}


def read_args(path: Path) -> dict[str, Any]:
    """The options beside a checkpoint, {} with a warning where there are none."""
    beside = path.with_name(ARGS)
    if not beside.is_file():
        logger.warning(
            f"{path}: no {ARGS} beside it, so it counts as trained forwards in time, which its weights do not tell; put that file there if you have it"
        )
        return {}
    try:
        args = json.loads(beside.read_text())
    except ValueError as error:
        raise UserError(
            f"{beside}: no JSON ({error}); copy it again from where {path.name} is from, or take it away"
        ) from error
    if not isinstance(args, dict):
        raise UserError(
            f"{beside}: no options of CPC_audio by name; copy it again from where {path.name} is from, or take it away"
        )
    return args


def tensors_of(state: Any) -> dict[str, Tensor]:
    """float32 and by name, without the prefix of a model that several GPUs shared; {} for what is no state dict."""
    given = state.items() if isinstance(state, dict) else ()
    return {
        str(name).removeprefix("module."): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in given
        if torch.is_tensor(tensor)
    }


def renamed(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """What of ``state`` has one of these names, under ours."""
    found = {}
    for name, tensor in state.items():
        for theirs, ours in names.items():
            if match := re.fullmatch(theirs, name):
                found[match.expand(ours)] = tensor
    return found


def encoder_and_context(state: dict[str, Tensor], path: str | Path):
    """(fields of the config, state dict). Raises UserError for another encoder or context network."""
    own = {name: tensor for name, tensor in state.items() if name.startswith(("gEncoder.", "gAR."))}
    model = renamed(own, ENCODER_AND_CONTEXT)
    if unknown := [name for name in own if not renamed({name: own[name]}, ENCODER_AND_CONTEXT)]:
        raise UserError(
            f"{path}: a CPC_audio model with {unknown[0]}, which model=cpc has not; give one with convolutions and a forward LSTM or GRU"
        )
    first, recurrent = model.get("encoder.convolutions.0.weight"), model.get("context.layers.0.weight_hh_l0")
    if first is None or recurrent is None:
        what = "gEncoder.conv0.weight" if first is None else "gAR.baseNet.weight_hh_l0"
        raise UserError(
            f"{path}: a CPC_audio model without {what}; give one with convolutions and an LSTM or GRU, and copy it again if this is one"
        )
    gates = recurrent.size(0) / recurrent.size(-1)
    if gates not in GATES:
        raise UserError(
            f"{path}: a CPC_audio model with a recurrent network of {gates:g} gates, which is no LSTM (4) and no GRU (3); give one of these"
        )
    cfg = {
        "encoder_channels": first.size(0),
        "encoder_norm": norm_of(model),
        "context": GATES[gates],
        "context_dim": recurrent.size(-1),
    }
    cfg["context_layers"] = sum(name.endswith(".weight_hh_l0") for name in model)
    for name in [name for name in model if name.startswith("encoder.norms.")]:
        model[name] = model[name].flatten() if model[name].dim() == 3 else model[name]  # ChannelNorm's are (1, C, 1)
    if cfg["encoder_norm"] == "batch":  # torch before 0.4.1 did not count
        model = {**{f"encoder.norms.{i}.num_batches_tracked": torch.tensor(0) for i in range(5)}, **model}
    return cfg, model


def norm_of(model: dict[str, Tensor]) -> str:
    """Which normalisation has such parameters."""
    weight = model.get("encoder.norms.0.weight")
    if weight is None:
        return "none"
    if "encoder.norms.0.running_mean" in model:
        return "batch"
    return "channel" if weight.dim() == 3 else "instance"


def predictors(state: dict[str, Tensor], cfg: dict[str, Any]):
    """(fields, state dict); ({}, {}) where they are of another kind or size than those of ``cpc``.

    A Transformer predictor of theirs works on windows of exactly S anchors, and finds the embedding of d frames back in column S - 1 - d.
    """
    learned = {name: tensor for name, tensor in state.items() if not CONSTANTS.fullmatch(name)}
    for kind, names in PREDICTORS.items():
        model = renamed(learned, names)
        if not model or len(model) < len(learned):
            continue
        if kind == "linear":  # matrix k is rows k C .. (k + 1) C
            fields = {"steps": len(model)}
            model = {
                "predictors.project.weight": torch.cat(
                    [model[name] for name in sorted(model, key=lambda name: int(name.partition(".")[0]))]
                )
            }
        else:
            distances = [name for name in model if name.endswith(".distances")]
            fields = {"steps": len(distances), "predictor_positions": model[distances[0]].size(-1)} if distances else {}
            model |= {name: model[name].flip(1).T for name in distances}
        if shapes_of(model) == expected(cfg | fields | {"predictor": kind}, "predictors."):
            return {"predictor": kind, **fields}, model
    return {}, {}


def classifier(state: dict[str, Tensor], cfg: dict[str, Any]):
    """(fields, state dict) of the fork's classifier of clusters; ({}, {}) without one."""
    clusters = len(state.get("classifier.bias", ()))
    if shapes_of(state) != {"classifier.weight": (clusters, cfg["context_dim"]), "classifier.bias": (clusters,)}:
        return {}, {}
    return {"_name": "cpc_deepcluster", "num_classes": [clusters]}, state


def expected(cfg: dict[str, Any], prefix: str = "") -> dict[str, tuple]:
    """Shapes of the parameters of such a ``cpc`` whose names begin so; {} where there can be none."""
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
    """Raises UserError for the first tensor that is missing, of another shape, or of a layer that is not there."""
    wanted, given = expected(cfg), shapes_of(model)
    for name in sorted(wanted.keys() | given.keys()):
        if wanted.get(name) != given.get(name):
            found, should = given.get(name, "missing"), wanted.get(name, "absent")
            raise UserError(
                f"{path}: a CPC_audio model whose {name} (as it is called here) is {found}, not {should}; copy it again"
            )
