"""A checkpoint as one safetensors file: weights in half precision, and the config as JSON. It contains no code.

The models in the package (``pretrained``) have this format. DinoSR's teacher is an average of its student; a packed
DinoSR has the average only, which serves as both.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from ..files import parse_json
from ..pretrained import FORMAT
from .contents import Damaged

TEACHER, STUDENT = "_ema", "encoder."  # the teacher's entry in a checkpoint; prefix of the same weights of the student
PRETRAINED = "give a pre-trained model of this plug-in"
EXACT = "_codebook"  # prefix of what keeps its precision: sums and counts of frames


def is_packed(path: str | Path) -> bool:
    """Whether a file has this format. False for one that cannot be read."""
    return metadata_of(path).get("format") == FORMAT


def metadata_of(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file; {} for one without, or that cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}


def read_packed(path: str | Path) -> dict[str, Any]:
    """The checkpoint in a packed file, as fairseq's trainer would save it; weights in float32.

    Raises Damaged if the file has changed since it was written, or contains no config.
    """
    metadata = metadata_of(path)
    try:
        weights = load_file(path)
    except (SafetensorError, RuntimeError, KeyError):  # the last two: torch has no such tensors
        raise Damaged("damaged") from None
    about = metadata.get("checkpoint", "")
    if checksum(about, weights) != metadata.get("sha256"):
        raise Damaged("damaged (checksums do not match)")
    try:
        model, task, updates = (parse_json(about)[name] for name in ("model", "task", "updates"))
    except (KeyError, TypeError, ValueError):
        raise Damaged("has no config in its metadata") from None
    state: dict[str, Any] = {name: x.float() if x.is_floating_point() else x for name, x in weights.items()}
    if any(name.startswith(EXACT) for name in state):
        state[TEACHER] = {
            name.removeprefix(STUDENT): x.clone() for name, x in state.items() if name.startswith(STUDENT)
        }
    return checkpoint(model, task, state, updates)


def checkpoint(
    model: Mapping[str, Any],
    task: Mapping[str, Any],
    weights: Mapping[str, Any],
    updates: int,
    words: Any = None,
) -> dict[str, Any]:
    """What fairseq's trainer would save, without the state of the optimiser; ``words``: fairseq's dictionary."""
    history = {"num_updates": updates, "criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}}
    return {
        "args": None,
        "cfg": {"common": {}, "model": dict(model), "task": dict(task)},
        "model": dict(weights),
        "task_state": {} if words is None else {"target_dictionary": words},
        "optimizer_history": [history],
        "extra_state": {},
    }


def packed(state: Mapping[str, Any]) -> bytes:
    """The packed file of a checkpoint's state. Raises Damaged for one that this format cannot contain."""
    if (state.get("task_state") or {}).get("target_dictionary") is not None:
        raise Damaged("a fine-tuned model, whose dictionary this format does not contain", PRETRAINED)
    if not isinstance(state.get("cfg"), Mapping):
        raise Damaged("a checkpoint of fairseq before 0.10.2, without a config", PRETRAINED)
    weights = dict(state["model"])
    weights |= {STUDENT + name: tensor for name, tensor in weights.pop(TEACHER, {}).items()}
    tensors = {name: packed_tensor(name, tensor) for name, tensor in weights.items()}
    parts = {part: without_paths(state["cfg"][part]) for part in ("model", "task")}
    about = json.dumps(parts | {"updates": state["optimizer_history"][-1].get("num_updates", 0)})
    return save(tensors, {"format": FORMAT, "checkpoint": about, "sha256": checksum(about, tensors)})


def packed_tensor(name: str, tensor: Tensor) -> Tensor:
    exact = name.startswith(EXACT) or not tensor.is_floating_point()
    return (tensor if exact else tensor.half()).contiguous()


def checksum(about: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the config and of the tensors' bytes, in the order of their names."""
    digest = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].numpy().tobytes())
    return digest.hexdigest()


def without_paths(value: Any) -> Any:
    """A config in which all text that is a path is empty. In ``views`` a slash divides the views."""
    if isinstance(value, dict):
        return {key: inner if key == "views" else without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_paths(inner) for inner in value]
    return "" if isinstance(value, str) and "/" in value else value


@contextmanager
def as_torch_file(path: str | Path, state: Mapping[str, Any]) -> Iterator[str]:
    """The path of a file that ``torch.load`` reads: a temporary copy of a packed one, ``path`` itself of others.

    ``state``: what the file contains.
    """
    if not is_packed(path):
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "checkpoint.pt")
        torch.save(state, copy)
        yield str(copy)
