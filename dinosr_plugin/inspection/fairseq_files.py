"""Checkpoints of fairseq: of this plug-in, of fairseq's own models, the released ones of DinoSR; and CPC_audio's."""

import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from .. import register
from ..checkpoints.building import building
from ..checkpoints.classifier import PSEUDO_LABELS
from ..checkpoints.contents import require_fairseq
from ..compat.language_models import require_language_model
from ..data.manifest import read_dictionary
from ..data.text_normalization import kept_normalization
from ..errors import UserError
from ..files import is_file
from ..interop.cpc_audio import from_cpc_audio
from ..interop.fairseq_checkpoints import FINE_TUNED, require_kind
from .config import CPC, PREDICTIVE, SPEAKER, Config, grid_of_model, sizes_of
from .description import Codebooks, Description, Symbols, text, whole
from .frames import timing
from .objectives import FRAMES, KINDS, START, UNITS, Kind, kind_of_other
from .tensors import tensors_anywhere, weights_of
from .weights import Weights, first, layers_in, parameters_of, precision_of

FORMAT = "PyTorch"
MAX_CODEBOOKS = 1000
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
OWN_COMMANDS = "use the commands of fairseq, such as fairseq-generate"


def claims_fairseq(state: Mapping[str, Any]) -> bool:
    """Whether a dictionary is laid out as fairseq's trainer saves it."""
    return isinstance(state.get("model"), dict) and (is_config(state.get("cfg")) or state.get("args") is not None)


def is_config(cfg: Any) -> bool:
    return isinstance(cfg, dict) and "model" in cfg


def describe_fairseq(state: dict[str, Any], path: Path) -> Description:
    """Raises Damaged unless the checkpoint is intact, as reading it does."""
    require_fairseq(state, os.path.getsize(path))
    register()  # the names and the defaults of this plug-in's models
    config = Config.of(state["cfg"] if state.get("cfg") is not None else state["args"])
    history, extra = state.get("optimizer_history") or [{}], state.get("extra_state") or {}
    why_not = refusal(config, path)  # registers data2vec
    tensors = tensors_anywhere(state["model"], os.path.getsize(path))
    described = of_config(config, tensors)
    described.written_by = writer_of(config)
    described.updates = whole(history[-1].get("num_updates"))
    described.epochs = whole((extra.get("train_iterator") or {}).get("epoch", 0) - 1)
    described.codebooks = codebooks_of(config, tensors, state)
    described.dictionary = dictionary_of(config, state, path)
    described.instead = why_not or mismatch(config.inside or config, tensors) or not_finite(tensors)
    if described.instead:
        described.commands = []
    elif config.model == "dinosr" and described.codebooks:
        described.commands = [*UNITS, *described.commands]
    return described


def describe_cpc_audio(state: dict[str, Any], path: Path, weights: Weights) -> Description | None:
    """None for the state of another program."""
    try:
        with building([path], str(path)):  # as in reading it
            converted = from_cpc_audio(state, path)
    except UserError as error:
        why_not = reason(error, path)
        return Description(
            "CPC_audio", FORMAT, KINDS["cpc"].objective, "CPC_audio", parameters=parameters_of(weights),
            precision=precision_of(weights), instead=why_not,
        )  # fmt: skip
    if converted is None:
        return None
    described = of_config(Config.of(OmegaConf.to_container(converted["cfg"])), converted["model"])
    described.written_by, described.commands = "CPC_audio", [*FRAMES, *START]
    described.instead = not_finite(converted["model"])
    if described.instead:
        described.commands = []
    return described


def of_config(config: Config, tensors: Mapping[str, Tensor]) -> Description:
    """What the config and the weights say."""
    weights, core = weights_of(tensors), config.inside or config
    kind = kind_of(config)
    normalized = config.task_fields.get("normalize")
    outputs = [weight.shape[0] for name, weight in weights.items() if name.endswith("w2v_encoder.proj.weight")]
    rate, first_centre = timing(grid_of_model(core))
    return Description(
        kind.title,
        FORMAT,
        objective=kind.objective or None,
        parameters=parameters_of(weights),
        sizes=sizes_of(core, weights) | ({"outputs": outputs[0]} if outputs else {}),
        rate=rate,
        first_centre=first_centre,
        normalized_waves=normalized if isinstance(normalized, bool) else None,
        precision=precision_of(weights),
        commands=list(kind.commands),
    )


def kind_of(config: Config) -> Kind:
    kind = KINDS.get(config.model) or kind_of_other(text(config.model), text(config.task))
    if config.model in FINE_TUNED and config.inside:
        return kind._replace(
            title=f"{kind.title}, fine-tuned from {kind_of(config.inside._replace(inside=None)).title}"
        )
    return kind


def writer_of(config: Config) -> str:
    if config.task.startswith("dinosr_"):
        return "dinosr_plugin, with fairseq"
    return "the released code of DinoSR, with fairseq" if config.model == "dinosr" else "fairseq"


# ---- whether it can be read ------------------------------------------------------------------------------------------


def refusal(config: Config, path: Path) -> str | None:
    """Why a model cannot be read here, by its config; None if it can."""
    try:
        if config.task == "language_modeling":
            require_language_model(str(path), str(path))
            return None
        if config.model in FINE_TUNED and config.inside is None:
            return "without the config of its pre-trained model (w2v_args) it cannot be read; fine-tune it again"
        for one in (config, config.inside):
            if one is not None and one.model in KINDS:
                require_kind({"model": {"_name": one.model}, "task": {"_name": one.task}}, str(path))
    except UserError as error:
        return reason(error, path)
    return None if kind_of(config).commands else OWN_COMMANDS


def reason(error: UserError, path: Path) -> str:
    """The message without the name of the file."""
    return str(error).removeprefix(f"{path}: ")


def mismatch(core: Config, tensors: Mapping[str, Tensor]) -> str | None:
    """Whether the config of a Transformer describes other layers than there are weights for, and which.

    The rest is found when the model is built.
    """
    weights = weights_of(tensors)
    shapes = {name.rpartition("w2v_model.")[2]: weight.shape for name, weight in weights.items()}
    first_block = shapes.get("encoder.layers.0.fc1.weight", ())  # (feed-forward, D)
    if core.model in (*CPC, *PREDICTIVE, *SPEAKER) or core.task == "language_modeling":
        return None
    actual = [layers_in(weights), *first_block[::-1]]
    for field, number in zip(("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim"), actual):
        if core.get(field) != number:
            what = f"{field}={text(core.get(field))}, but its weights are of {number}"
            return f"its config has {what}; give another checkpoint"
    return None


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Why a model that has diverged cannot be read; None for finite weights."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return f"NaN or infinity in its weights ({text(name)}); give an earlier checkpoint"
    return None


# ---- codebooks, dictionary -------------------------------------------------------------------------------------------


def codebooks_of(config: Config, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Codebooks | None:
    """Units that a pre-trained model has; None for one without, also for a recogniser."""
    top = whole(config.get("encoder_layers")) or 0
    rows = lambda name: len(tensors[name]) if name in tensors and tensors[name].dim() else 0
    count = sum(bool(re.fullmatch(r"_codebook\d+", name)) for name in tensors)
    if 0 < count <= MAX_CODEBOOKS and rows("_codebook0"):
        counts = [tensors.get(f"_codebook_cnts{k}") for k in range(count)]
        used = [received(one) for one in counts if one is not None]
        in_use = used if len(used) == count else None
        return Codebooks(
            "codebook", count, rows("_codebook0"), [*range(top - count, top)] if top >= count else None, in_use
        )
    if config.model in ("spin", "r_spin") and rows("codebook.weight"):
        return Codebooks("codebook", 1, rows("codebook.weight"), [top - 1] if top else None)
    if config.model == "wav2vec2" and "quantizer.vars" in tensors:
        groups, size = whole(config.get("latent_groups")), whole(config.get("latent_vars"))
        return Codebooks("quantiser group", groups, size) if groups and size else None
    if rows("label_embs_concat"):
        return Codebooks("set of cluster labels", 1, rows("label_embs_concat"))
    if config.model == "cpc_deepcluster" and rows("classifier.weight"):
        return Codebooks("set of cluster labels", 1, rows("classifier.weight"))
    if config.model == "ssrl_speaker" and rows("_ema.head.weight"):
        return Codebooks("set of clusters of recordings", 1, rows("_ema.head.weight"), None, clusters_in_use(state))
    return None


def received(counts: Tensor) -> int:
    """Number of codes of a codebook that have received frames: the others still have the count 1 that they began
    with."""
    return int((counts != 1).sum())


def clusters_in_use(state: Mapping[str, Any]) -> list[int] | None:
    """Of SSRL: those that its task has not removed."""
    labels = (state.get("task_state") or {}).get(PSEUDO_LABELS)
    removed = labels.get("removed") if isinstance(labels, dict) else None
    return [int((~removed).sum())] if isinstance(removed, Tensor) and removed.dtype == torch.bool else None


def dictionary_of(config: Config, state: Mapping[str, Any], path: Path) -> Symbols | None:
    """The symbols of a recogniser's outputs, from the file; those of a language model, from dict.txt beside it.

    Raises UserError for a damaged dict.txt or text_normalization.json.
    """
    kept = (state.get("task_state") or {}).get("target_dictionary")
    if kept is not None:
        rule = kept_normalization(path.parent)
        return Symbols(len(kept.symbols), named(kept.symbols), asdict(rule) if rule else None)
    if config.task == "language_modeling" and is_file(path.parent / "dict.txt"):
        symbols = [*read_dictionary(path.parent / "dict.txt")]
        return Symbols(len(symbols) + len(SPECIAL), named(symbols))
    return None


def named(symbols: list[str]) -> list[str]:
    return [text(symbol, 20) for symbol in first(one for one in symbols if one not in SPECIAL)]
