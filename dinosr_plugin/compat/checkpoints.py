"""Checkpoint files: the one function that reads them, and what fairseq may do with their contents.

Every command, every training and every function of fairseq that loads a checkpoint reads it through this module, so
that a checkpoint from a stranger is safe to open:

- It is data: torch's ``weights_only`` stays on, which refuses Python objects. Two harmless classes are allowed.
- It is intact: the checksums of its records are compared, once for each file and process.
- Its config is data, too: no text of it is evaluated (``compat.evaluation``), no resolver of OmegaConf is called, so
  that nothing of the environment gets into a model, and no path or command in it is used, except for folders of
  dictionaries.
- Its numbers are bounded by its size: a model is not built if it is much larger than the file (``AllocationLimit``).

YAML files are different: a config, ``--config-dir`` or an override may name code to run (``common.user_dir``,
``task.post_save_script``). Use those of people whom you trust.
"""

import math
import os
import re
import zipfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import UserError
from ..files import is_folder, kind_of, open_file
from ..modules.conv_spec import parse_conv_layers
from ..modules.literals import shortened
from .wrapping import wrap_once

REMEDY = "give a checkpoint that a training saved"
MAX_CONFIG_VALUES = 100_000
MAX_CONFIG_DEPTH = 50
MAX_UPDATES = 10**12
CONV_FIELDS = ("conv_feature_layers", "conv_aggregator_layers", "feature_encoder_spec")
COUNT_FIELDS = re.compile(r"(encoder|decoder|conv|final)_\w*(layers|dim|heads|groups|size)|conv_pos")
REFERENCE = re.compile(r"\$\{[\w.]+\}")  # of one field to another; with a colon it would call a resolver

_intact: set[tuple] = set()  # identities of the files whose checksums match


class Damaged(Exception):
    """A checkpoint cannot be used; the message says what is wrong with it."""


class DoesNotFit(UserError):
    """No model can be built from a checkpoint, or it does not fit the weights, the dictionary or the options."""


# ---- reading a file --------------------------------------------------------------------------------------------------


def read_checkpoint(path: str | Path, name: str | None = None, remedy: str = REMEDY) -> dict[str, Any]:
    """What a PyTorch file contains, after comparing its checksums. Its tensors stay on the disk.

    Args:
        name: what messages call the file: the path by default.
        remedy: what they tell the user to give instead.

    Raises UserError for anything but an intact PyTorch file with a dictionary in it.
    """
    try:
        return read_state(path)
    except Damaged as error:
        raise UserError(f"{name or path}: {error}; {remedy}") from None


def read_fairseq_checkpoint(path: str | Path, name: str | None = None, remedy: str = REMEDY) -> dict[str, Any]:
    """``read_checkpoint``, which also raises UserError for a file that is not a checkpoint of fairseq."""
    state = read_checkpoint(path, name, remedy)
    try:
        require_fairseq(state, os.path.getsize(path))
    except Damaged as error:
        raise UserError(f"{name or path}: {error}; {remedy}") from None
    return state


def read_state(path: str | Path, checksums: bool = True) -> dict[str, Any]:
    """The dictionary in a PyTorch file; its tensors stay on the disk.

    Raises Damaged for a missing or damaged file, and UserError for one that exists but cannot be opened.
    """
    kinds = {"nothing": "no such file", "folder": "is a folder, not a file", "other": "is a pipe or a device"}
    if (kind := kind_of(path)) != "file":
        raise Damaged(kinds[kind])
    with open_file(path, REMEDY) as file:
        start = file.read(4)
    if not start:
        raise Damaged("empty (0 bytes)")
    if not start.startswith((b"PK", b"\x80")):
        raise Damaged("not a PyTorch file")
    is_zip = start.startswith(b"PK")
    if is_zip and not zipfile.is_zipfile(path):  # the directory of a zip file is at its end
        raise Damaged("truncated")
    if checksums:
        check_bytes(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # torch, pickle and zipfile raise many classes, with long and misleading messages
        raise Damaged(why_not_loaded(error)) from None
    if not isinstance(state, dict):
        raise Damaged(f"not a checkpoint: it contains a value of the type {type(state).__name__}")
    return state


def is_torch_file(path: str | Path) -> bool:
    """Whether a file starts as PyTorch's do: a zip archive or, before torch 1.6, a pickle. False for a folder.

    Raises UserError if it cannot be read.
    """
    if is_folder(path):
        return False
    with open_file(path, "give a checkpoint, a file of units, or a folder of these") as file:
        return file.read(4).startswith((b"PK\x03\x04", b"\x80"))


def why_not_loaded(error: Exception) -> str:
    """The reason, without torch's advice to set ``weights_only=False``, which would run code from the file."""
    refused = re.search(r"(?:Unsupported (?:global: GLOBAL|class)|unsupported GLOBAL) (\S+)", str(error))
    return f"contains a Python object of {refused[1]}, which is not loaded from files" if refused else "unreadable"


def check_bytes(path: str | Path) -> None:
    """Raises Damaged if a checksum does not match; a file that did not change since is not read again.

    torch.load compares none: it loads the zeros that a power cut leaves in a file.
    """
    status = os.stat(path)
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if identity in _intact or not zipfile.is_zipfile(path):  # the format of torch before 1.6 has no checksums
        return
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            if any(record.compress_type for record in records) or sum(r.file_size for r in records) > status.st_size:
                raise Damaged("compressed, which PyTorch files are not")  # or claims more bytes than it has
            wrong = archive.testzip()
    except Damaged:
        raise
    except Exception as error:  # zipfile raises exceptions of many classes for an invalid directory
        raise Damaged("unreadable") from error
    if wrong:
        raise Damaged("damaged (checksums do not match)")
    _intact.add(identity)


# ---- what a checkpoint of fairseq contains ---------------------------------------------------------------------------


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
        raise Damaged("has no config (cfg), so it is not a checkpoint of fairseq")
    for name, part in {"args": args, "cfg": cfg}.items():
        check_config(part, name)
    for name in ("model", "task") if args is None else ():
        if not isinstance(cfg.get(name), dict | Namespace) or not isinstance(name_of(cfg[name]), str):
            raise Damaged(f"cfg.{name} does not name a {name}")
    check_history(state)
    if not isinstance(state.get("extra_state"), dict | None):
        raise Damaged("extra_state is not a dictionary")
    check_task_state(state.get("task_state"))


def name_of(part: Any) -> Any:
    """The name by which fairseq's registries know a part of a config; None if it has none."""
    fields = vars(part) if isinstance(part, Namespace) else part or {}
    return fields.get("_name") or fields.get("arch")


def other_program(state: dict[str, Any]) -> str:
    """A guess where a file comes from that has no entry ``model``."""
    if state and all(isinstance(value, Tensor) for value in state.values()):
        return ": it contains nothing but tensors, like Hugging Face's pytorch_model.bin"
    return f": it contains {', '.join(map(shortened, list(state)[:3]))}" if state else ": it is empty"


def check_weights(weights: Any, size: int, name: str = "model", depth: int = 0) -> None:
    """Raises Damaged unless these are tensors by name, perhaps nested, that are not larger than their file (bytes)."""
    for key, value in weights.items():
        if isinstance(value, dict) and depth < MAX_CONFIG_DEPTH:
            check_weights(value, size, f"{name}.{key}", depth + 1)
        elif not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
            raise Damaged(f"{shortened(f'{name}.{key}')} is not a tensor")
        elif value.numel() > size:  # a view that repeats its elements
            raise Damaged(f"{shortened(f'{name}.{key}')} is larger than the file")


def check_config(part: Any, name: str) -> None:
    """Raises Damaged unless a config is plain data, convolutions included; see the top of this module."""
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
                raise Damaged(f"{name}={shortened(value)} would be resolved by OmegaConf, which is not done for files")
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
    specials = [fields.get(f"{name}_index") for name in ("bos", "pad", "eos", "unk")]
    numbers = [*indices.values(), *specials]
    return (
        len(symbols) == len(counts)
        and all(isinstance(symbol, str) for symbol in [*symbols, *indices])
        and all(type(count) is int for count in counts)
        and all(type(number) is int and 0 <= number < len(symbols) for number in numbers)
    )


# ---- building a model ------------------------------------------------------------------------------------------------


RANGES = ("arange", "linspace", "logspace", "randperm", "range")
SQUARES = ("eye", "tril_indices", "triu_indices")


class AllocationLimit(TorchDispatchMode):
    """Within this context new tensors may have together as many elements as the files have bytes, and ``SLACK``.

    The sizes of a model are numbers in its config: without a limit ``encoder_embed_dim`` of a million fills the memory
    before its weights are found not to fit. Trained models need a quarter of the limit.

    Raises UserError from whichever call in the context exceeds it.
    """

    SLACK = 2**26  # tables of positions, which are not in the file
    LEAST = 2**13  # counted for a small tensor, so that a billion layers are too many

    def __init__(self, size: int, name: str):
        super().__init__()
        self.left, self.name = size + self.SLACK, name

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not any(isinstance(arg, Tensor) for arg in args):  # else no new values: a view, a copy, in place
            self.take(elements_of(func.overloadpacket.__name__, args))
        return func(*args, **(kwargs or {}))

    def take(self, elements: float) -> None:
        self.left -= max(elements, self.LEAST)
        if self.left < 0:
            raise UserError(f"{self.name}: its config describes a much larger model than its weights; {REMEDY}")


def elements_of(function: str, args: Sequence[Any]) -> float:
    """How many elements a tensor will have, from the name and the arguments of the function that creates it."""
    if function in RANGES + SQUARES:
        largest = max([abs(arg) for arg in args if isinstance(arg, int | float)], default=0)
        return largest**2 if function in SQUARES else largest
    shapes = [arg for arg in args if isinstance(arg, list | tuple) and all(type(n) is int for n in arg)]
    return math.prod(shapes[0]) if shapes else 0


@contextmanager
def building(paths: Sequence[str | Path], name: str) -> Iterator[None]:
    """Within this context a model is built from these files. Every error becomes a UserError that names them.

    Args:
        name: what messages call the files.
    """
    try:
        with AllocationLimit(sum(os.path.getsize(path) for path in paths if kind_of(path) == "file"), name):
            yield
    except UserError as error:
        if any(str(path) in str(error) for path in paths):
            raise
        raise UserError(f"{name}: {error}") from None
    except Exception as error:  # torch, omegaconf and fairseq each raise their own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DoesNotFit(
            f"{name}: cannot be loaded as a fairseq checkpoint ({reason[:200]}); give another one"
        ) from error


# ---- in fairseq ------------------------------------------------------------------------------------------------------


def check_loaded_checkpoints():
    """fairseq loads a checkpoint without comparing checksums or types, and fails with a traceback if it is damaged.

    It advises to load Python objects from the file where torch refuses them.
    """
    from fairseq import checkpoint_utils
    from fairseq.file_io import PathManager

    def make(previous):
        def load(path, *args, **kwargs):
            read_fairseq_checkpoint(PathManager.get_local_path(path), str(path))
            return previous(path, *args, **kwargs)

        return load

    wrap_once(checkpoint_utils, "load_checkpoint_to_cpu", make)


def check_built_models():
    """fairseq builds whatever model a checkpoint's config describes, and fails with a traceback if it cannot."""
    from fairseq import checkpoint_utils

    def make(previous):
        def load(
            filenames, arg_overrides=None, task=None, strict=True, suffix="", num_shards=1, state=None
        ):  # fairseq's signature
            filenames = list(map(str, filenames))
            if state is None and num_shards == 1 and not suffix:  # else fairseq changes the names
                for name in filenames:
                    if "://" not in name:
                        read_checkpoint(name)
            with building(filenames, ":".join(filenames)):
                return previous(filenames, arg_overrides, task, strict, suffix, num_shards, state)

        return load

    wrap_once(checkpoint_utils, "load_model_ensemble_and_task", make)


def split_only_lists_of_paths():
    """fairseq splits a path at each colon, also where a file or a folder has one in its name."""
    from fairseq import utils

    def make(previous):
        def split(paths: str, separator=os.pathsep):
            parts, found = previous(paths, separator), []
            if "://" in paths:
                return parts
            while parts:
                counts = (n for n in range(len(parts), 1, -1) if os.path.exists(separator.join(parts[:n])))
                n = next(counts, 1)
                found.append(separator.join(parts[:n]))
                parts = parts[n:]
            return found

        return split

    wrap_once(utils, "split_paths", make)
