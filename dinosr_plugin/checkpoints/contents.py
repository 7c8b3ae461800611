"""What a checkpoint of fairseq contains: each part is checked before it is used, see ``checkpoints.file``."""

import re
from argparse import Namespace
from typing import Any

import torch
from torch import Tensor

from ..modules.conv_spec import parse_conv_layers
from ..modules.literals import shortened
from .other_files import other_program

MAX_CONFIG_VALUES = 100_000
MAX_CONFIG_DEPTH = 50
MAX_TENSORS = 1_000_000
MAX_SHARED = 4  # elements of all tensors for each byte of the file; tensors may share their memory
MAX_UPDATES = 10**12
MAX_EPOCHS = 10**9  # also of batches in an epoch
CONV_FIELDS = ("conv_feature_layers", "conv_aggregator_layers", "feature_encoder_spec")
COUNT_FIELDS = re.compile(r"(encoder|decoder|conv|final)_\w*(layers|dim|heads|groups|size)|conv_pos")
REFERENCE = re.compile(r"\$\{[\w.]+\}")  # to another field; with a colon it would call a resolver of OmegaConf


class Damaged(Exception):
    """A checkpoint cannot be used; the message says what is wrong with it.

    Attributes:
        remedy: what to do, if that depends on what is wrong; None: the usual remedy.
    """

    def __init__(self, what: str, remedy: str | None = None):
        super().__init__(what)
        self.remedy = remedy


def require_fairseq(state: dict[str, Any], size: int) -> None:
    """Raises Damaged unless this is a checkpoint of fairseq whose parts have the types that fairseq expects.

    Args:
        size: bytes of its file.
    """
    weights, cfg, args = state.get("model"), state.get("cfg"), state.get("args")
    if not isinstance(weights, dict):
        raise Damaged(f"not a checkpoint of fairseq{other_program(state)}")
    check_weights(weights, size)
    if not isinstance(args, Namespace | None) or not isinstance(cfg, dict | None) or (args is None and cfg is None):
        raise Damaged(f"has no config (cfg), so it is not a checkpoint of fairseq{other_program(state)}")
    check_config(args, "args")
    check_config(cfg, "cfg")
    for name in ("model", "task") if args is None else ():
        part = (cfg or {}).get(name)
        if not isinstance(part, dict | Namespace) or not isinstance(name_of(part), str):
            raise Damaged(f"cfg.{name} does not name a {name}")
    check_history(state)
    check_extra_state(state.get("extra_state"))
    check_optimizer(state.get("last_optimizer_state"))
    check_task_state(state.get("task_state"))


def name_of(part: Any) -> Any:
    """The name by which fairseq's registries know a part of a config; None if it has none."""
    fields = vars(part) if isinstance(part, Namespace) else part or {}
    return fields.get("_name") or fields.get("arch")


def check_weights(weights: Any, size: int) -> None:
    """Raises Damaged unless these are tensors by name, perhaps nested, that are not larger than their file (bytes)."""
    pending, seen, total = [(weights, "model", 0)], 0, 0
    while pending:
        part, name, depth = pending.pop()
        seen += len(part)
        if seen > MAX_TENSORS or depth > MAX_CONFIG_DEPTH:
            raise Damaged(f"contains more than {MAX_TENSORS} tensors, or {MAX_CONFIG_DEPTH} levels of them")
        for key, value in part.items():
            if isinstance(value, dict):
                pending.append((value, f"{name}.{key}", depth + 1))
                continue
            if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
                raise Damaged(f"{shortened(f'{name}.{key}')} is not a tensor")
            total += value.numel()
            if value.numel() > size or total > MAX_SHARED * size:  # views that repeat elements
                raise Damaged(f"{shortened(f'{name}.{key}')} is larger than the file")


def check_config(part: Any, name: str) -> None:
    """Raises Damaged unless a config is plain data, convolutions included; see the top of ``checkpoints.file``."""
    pending, seen = [(part, name, 0)], 0
    while pending:
        value, name, depth = pending.pop()
        seen += 1
        if seen > MAX_CONFIG_VALUES or depth > MAX_CONFIG_DEPTH:
            raise Damaged(f"its config has more than {MAX_CONFIG_VALUES} values, or {MAX_CONFIG_DEPTH} levels")
        if isinstance(value, Namespace):
            value = vars(value)
        if isinstance(value, dict):
            check_convolutions(value, name)
            check_counts(value, name)
            pending += [(inner, f"{name}.{key}", depth + 1) for key, inner in value.items()]
        elif isinstance(value, list | tuple):
            pending += [(inner, f"{name}[{i}]", depth + 1) for i, inner in enumerate(value)]
        elif isinstance(value, str):
            if "${" in value and not REFERENCE.fullmatch(value):
                what = "is an expression of OmegaConf; only a reference to another field is allowed"
                raise Damaged(f"{name}={shortened(value)} {what}")
        elif not isinstance(value, int | float | None):
            raise Damaged(f"{name} is a {type(value).__name__}, neither a number nor text")


def check_convolutions(fields: dict, name: str) -> None:
    for field in CONV_FIELDS:
        if field in fields:
            try:
                parse_conv_layers(fields[field], f"{name}.{field}")
            except ValueError as error:
                raise Damaged(str(error)) from None


def check_counts(fields: dict, name: str) -> None:
    """Raises Damaged for a negative number of layers and the like: not all models of fairseq notice it."""
    for field, value in fields.items():
        if COUNT_FIELDS.fullmatch(str(field)) and isinstance(value, int | float) and value < 0:
            raise Damaged(f"{name}.{shortened(field)}={value} is negative")


def check_history(state: dict[str, Any]) -> None:
    """Raises Damaged unless the last entry of the history has a sensible number of updates, or none."""
    if "optimizer_history" not in state and {"best_loss", "optimizer"} <= state.keys():
        return  # fairseq before 2018
    history = state.get("optimizer_history")
    if not isinstance(history, list) or not history or not all(isinstance(entry, dict) for entry in history):
        raise Damaged("has no optimizer_history, so it is not a checkpoint of fairseq")
    n_updates = history[-1].get("num_updates", 0)
    if type(n_updates) is not int or not 0 <= n_updates <= MAX_UPDATES:
        raise Damaged(f"num_updates={shortened(n_updates)} in its optimizer_history is not a number of updates")
    for field in ("criterion_name", "optimizer_name"):  # fairseq prints them
        name = history[-1].get(field) or "none"
        if not isinstance(name, str) or not name.isidentifier():
            raise Damaged(f"{field} in its optimizer_history is not a name")


def check_extra_state(extra: Any) -> None:
    """Raises Damaged unless the place in the data and the meters are as fairseq saves them.

    fairseq creates meters by calling whatever has the name that the file states.
    """
    from fairseq.logging import meters

    if not isinstance(extra, dict | None):
        raise Damaged("extra_state is not a dictionary")
    place, groups = ((extra or {}).get(name) for name in ("train_iterator", "metrics"))
    numbers = [place.get(name, 0) for name in ("epoch", "iterations_in_epoch")] if isinstance(place, dict) else []
    if place is not None and not (numbers and all(type(n) is int and 0 <= n <= MAX_EPOCHS for n in numbers)):
        raise Damaged("extra_state.train_iterator is not a place in the data")
    entries = groups.values() if isinstance(groups, dict) else [groups or []]
    for entry in (one for group in entries for one in (group if isinstance(group, list) else [group])):
        kind = vars(meters).get(str(entry[2])) if isinstance(entry, tuple) and len(entry) == 4 else None
        if not isinstance(kind, type) or not issubclass(kind, meters.Meter) or not isinstance(entry[3], dict):
            raise Damaged("extra_state.metrics contains something else than meters")


def check_optimizer(state: Any) -> None:
    """Raises Damaged unless the state of an optimizer is a dictionary with groups of parameters, if it has these."""
    if not isinstance(state, dict | None):
        raise Damaged("last_optimizer_state is not a dictionary")
    groups, values = ((state or {}).get(name) for name in ("param_groups", "state"))
    if not isinstance(groups, list | None) or not isinstance(values, dict | None):
        raise Damaged("last_optimizer_state has no groups of parameters")
    if not all(isinstance(group, dict) for group in groups or []):
        raise Damaged("last_optimizer_state has groups of something else than parameters")


def check_task_state(task_state: Any) -> None:
    """Raises Damaged unless the dictionaries that a task saved are dictionaries."""
    if not isinstance(task_state, dict | None):
        raise Damaged("task_state is not a dictionary")
    task_state = task_state or {}
    dictionaries = task_state.get("dictionaries")
    if not isinstance(dictionaries, list | None):
        raise Damaged("task_state.dictionaries is not a list")
    for name in ("target_dictionary", "source_dictionary"):
        if not is_dictionary(task_state.get(name)):
            raise Damaged(f"task_state.{name} is not a dictionary of symbols")
    if not all(map(is_dictionary, dictionaries or [])):
        raise Damaged("task_state.dictionaries contains something else than dictionaries of symbols")


def is_dictionary(value: Any) -> bool:
    """Whether it is None, or one of fairseq's dictionaries with symbols, their indices and counts."""
    from fairseq.data.dictionary import Dictionary

    if value is None:
        return True
    fields = vars(value) if isinstance(value, Dictionary) else {}
    symbols, counts, indices = fields.get("symbols"), fields.get("count"), fields.get("indices")
    if not isinstance(symbols, list) or not isinstance(counts, list) or not isinstance(indices, dict):
        return False
    if any(hasattr(Dictionary, name) for name in fields):  # hides a method
        return False
    specials = [fields.get(f"{name}_index") for name in ("bos", "pad", "eos", "unk")]
    numbers = [*indices.values(), *specials]
    return (
        len(symbols) == len(counts)
        and all(isinstance(symbol, str) and not {"\n", "\r"} & set(symbol) for symbol in [*symbols, *indices])
        and all(type(count) is int for count in counts)
        and all(type(number) is int and 0 <= number < len(symbols) for number in numbers)
    )
