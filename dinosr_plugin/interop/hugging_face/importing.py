"""``dinosr import hf``: a folder of transformers as a checkpoint.

A folder that ``export.py`` wrote becomes the checkpoint that it was made of, with the same weights, heads, teacher and
codebooks, but without the state of the optimiser. Any other folder becomes fairseq's model with the same features:
wav2vec 2.0, HuBERT or data2vec, or a CTC model around it. Its pre-training heads, which transformers' models lack, are
untrained.

Of the folder JSON, safetensors and tensors of PyTorch are read; no code in it is run. The checkpoint is loaded before
it gets its name, with the checks of every other one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fairseq.data import Dictionary
from torch import Tensor

from ...checkpoints.load import load_model
from ...checkpoints.packed import checkpoint
from ...checkpoints.weights import require_finite
from ...errors import UserError
from ...files import is_file, output, read_json, require_folder
from .config import DATA2VEC, EXTRACTOR_MODES, FAMILIES, HUBERT, LOG_MEL, Family
from .export import AVERAGE, CODEBOOKS, HEAD_IN_CTC, ORIGINAL, TEACHER, TRUNK_IN_CTC, exported_bias, special_symbols
from .foreign import Foreign
from .names import Names, with_prefix
from .tensors import REMEDY, WEIGHTS, read_tensors, read_weights


class Imported(NamedTuple):
    """``objective``: name of the model in fairseq's registry; ``parameters`` in it; ``notes`` for the user."""

    objective: str
    parameters: int
    notes: list[str]


def import_folder(folder: Path, out: Path) -> Imported:
    """Write a checkpoint with the model of a folder.

    Raises:
        UserError: not a folder of a model; a model that fairseq does not have; weights that are missing, damaged, of
            another size or not accounted for; a checkpoint that cannot be loaded; an ``out`` that is a folder.
    """
    require_folder(folder, "give the folder of a model of transformers")
    if not is_file(folder / "config.json"):
        raise UserError(f"{folder}: has no config.json, so it is not a model of transformers; give the folder of one")
    if is_file(out):
        raise UserError(f"OUT {out}: already exists; give a new file, or remove it first")
    config, weights = read_json(folder / "config.json", REMEDY), read_weights(folder)
    ours = config.get("dinosr")
    state, notes = (original(folder, config, ours, weights), []) if ours else converted(folder, config, weights)
    with output(out, "OUT") as unfinished:
        torch.save(state, unfinished)
        try:
            model = load_model(unfinished).model
            require_finite(model, unfinished)
        except UserError as error:
            reason = str(error).replace(f"{unfinished}: ", "")
            raise UserError(f"{folder}: {reason.rpartition(';')[0] or reason}; {REMEDY}") from None
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Imported(str(state["cfg"]["model"]["_name"]), parameters, notes)


# ---- folders that `dinosr export hf` wrote ---------------------------------------------------------------------------


def original(folder: Path, config: Mapping[str, Any], ours: Any, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The checkpoint that a folder was made of."""
    family = FAMILIES.get(str(config.get("model_type")))
    right = isinstance(ours, dict) and all(isinstance(ours.get(part), dict) for part in ("model", "task"))
    if not right or family is None or not isinstance(ours["model"].get("_name"), str):
        raise UserError(f"{folder}: `dinosr` in config.json is not as `dinosr export hf` writes it; {REMEDY}")
    words = dictionary_of(folder, ours.get("dictionary"))
    is_ctc = "lm_head.weight" in weights
    rest = folder / (ORIGINAL if is_ctc else CODEBOOKS)
    others = read_tensors(rest) if is_file(rest) else {}
    state: dict[str, Any] = {name: tensor for name, tensor in others.items() if not name.startswith(AVERAGE)}
    if average := with_prefix(others, AVERAGE):
        state["_ema"] = average
    names = names_of(family, config)
    prefix, base = (TRUNK_IN_CTC, f"{family.base}.") if is_ctc else ("", "")
    for name, tensor in weights.items():
        if not name.startswith("lm_head."):
            state[prefix + trunk_name(folder, names, name.removeprefix(base))] = tensor
    if is_ctc:
        add_head(folder, ours["model"], state, weights, words)
    if is_file(folder / TEACHER / WEIGHTS):
        teacher = {trunk_name(folder, names, name): x for name, x in read_tensors(folder / TEACHER / WEIGHTS).items()}
        state["_ema"] = with_prefix(teacher, "encoder.")
    updates = ours.get("updates")
    made = checkpoint(ours["model"], ours["task"], state, updates if type(updates) is int else 0, words)
    if labels := ours.get("labels"):  # the label sets of fairseq's HuBERT
        made["task_state"]["dictionaries"] = [dictionary_of(folder, one) for one in labels]
    return made


def names_of(family: Family, config: Mapping[str, Any]) -> Names:
    modes = {theirs: ours for ours, theirs in EXTRACTOR_MODES.items()}
    return Names(
        None if family is LOG_MEL else modes.get(str(config.get("feat_extract_norm")), "layer_norm"), family is DATA2VEC
    )


def trunk_name(folder: Path, names: Names, name: str) -> str:
    ours = names.to_trunk(name)
    if ours is None:
        raise UserError(f"{folder}: its weights have {name[:80]}, which its config does not account for; {REMEDY}")
    return ours


def add_head(
    folder: Path,
    model: Mapping[str, Any],
    state: dict[str, Any],
    weights: Mapping[str, Tensor],
    words: Dictionary | None,
) -> None:
    """The linear layer of a CTC model. Where its bias was changed by the export and not since, the original one."""
    bias, kept = weights.get("lm_head.bias"), state.get(f"{HEAD_IN_CTC}bias")
    if words is None or bias is None or kept is None or kept.shape != bias.shape or len(bias) != len(words):
        raise UserError(f"{folder}: {ORIGINAL}, the bias or the dictionary of its CTC model is missing; {REMEDY}")
    weight = float(model.get("blank_weight") or 0.0)
    state[f"{HEAD_IN_CTC}bias"] = torch.where(exported_bias(kept, special_symbols(words), weight) == bias, kept, bias)
    state[f"{HEAD_IN_CTC}weight"] = weights["lm_head.weight"]


def dictionary_of(folder: Path, words: Any) -> Dictionary | None:
    """fairseq's dictionary of (symbol, count); None for None."""
    if words is None:
        return None
    pairs: list[Any] = words if isinstance(words, list) else [None]
    if not all(isinstance(p, list) and len(p) == 2 and type(p[0]) is str and type(p[1]) is int for p in pairs):
        raise UserError(f"{folder}: `dinosr.dictionary` in config.json is not a list of symbols and counts; {REMEDY}")
    dictionary = Dictionary()
    dictionary.symbols, dictionary.count = [symbol for symbol, _ in pairs], [count for _, count in pairs]
    dictionary.indices = {symbol: index for index, symbol in enumerate(dictionary.symbols)}
    return dictionary


# ---- other folders ---------------------------------------------------------------------------------------------------


def converted(
    folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> tuple[dict[str, Any], list[str]]:
    """fairseq's model with the same features, and notes for the user."""
    found = Foreign(folder, config, weights)
    notes = [f"{folder}: left out: {', '.join(found.left_out[:3])}, ..."] if found.left_out else []
    normalize = expects_normalized(folder)
    task: dict[str, Any] = {"_name": "audio_pretraining", "data": "", "normalize": normalize}
    model = found.model_settings()
    if found.family is HUBERT:
        task |= {"_name": "hubert_pretraining", "labels": ["km"], "label_rate": 50}
    if found.head is None:
        notes.append(f"{folder}: has no pre-training heads of fairseq's {model['_name']}; they are untrained")
        torch.manual_seed(0)
        return checkpoint(model, task, found.trunk | found.untrained_heads(), 0), notes
    if found.family is HUBERT:  # fairseq's wav2vec_ctc cannot run its HuBERT
        model |= {"_name": "dinosr_hubert", "num_classes": [2], "final_dim": 1}
        task = {"_name": "dinosr_pretraining", "data": "", "normalize": normalize}
    around: dict[str, Any] = {"_name": "wav2vec_ctc", "w2v_path": "", "w2v_args": {"model": model, "task": task}}
    around |= {"normalize": normalize, "data": "", "mask_channel_length": 1, "final_dropout": 0.0}
    state = {TRUNK_IN_CTC + name: tensor for name, tensor in found.trunk.items()}
    state |= {f"{HEAD_IN_CTC}weight": found.head[0], f"{HEAD_IN_CTC}bias": found.head[1]}
    finetuning = {"_name": "dinosr_finetuning", "data": "", "labels": "ltr", "normalize": normalize}
    return checkpoint(around, finetuning, state, 0, found.dictionary), notes


def expects_normalized(folder: Path) -> bool:
    """``do_normalize`` of the feature extractor; its default without one is that of transformers, true."""
    path = folder / "preprocessor_config.json"
    return bool(read_json(path, REMEDY).get("do_normalize", True)) if is_file(path) else True
