"""safetensors: files of tensors by name, in which there is no code."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from ...checkpoints.contents import Damaged, check_weights
from ...checkpoints.file import read_checkpoint
from ...errors import UserError
from ...files import NOT_A_FILE, kind_of

WEIGHTS, PICKLED, SHARDED = "model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"
REMEDY = "copy the folder again, or export it again"


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """The content of a file with these tensors, which transformers takes for one of PyTorch."""
    separate = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    return save(separate, {"format": "pt"})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Name -> tensor of a .safetensors file. Raises UserError for anything else."""
    if (kind := kind_of(path)) != "file":
        raise UserError(f"{path}: {NOT_A_FILE[kind]}; {REMEDY}")
    try:
        return load_file(path)
    except OSError:
        raise
    except Exception as error:  # of classes that safetensors does not export, and RuntimeError and KeyError of torch
        raise UserError(f"{path}: damaged, or not a safetensors file; {REMEDY}") from error


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a model of transformers: ``model.safetensors``, or else ``pytorch_model.bin`` without its code.

    Raises UserError if there are none, for weights in several files, and for a Python object among them.
    """
    if kind_of(folder / WEIGHTS) == "nothing" and kind_of(folder / PICKLED) != "nothing":
        path = folder / PICKLED
        weights: Mapping[str, Any] = read_checkpoint(path, remedy="save the model again, as safetensors")
        try:
            check_weights(weights, os.path.getsize(path))
        except Damaged as error:
            raise UserError(f"{path}: {error}; save the model again, as safetensors") from None
        return dict(weights)
    if kind_of(folder / WEIGHTS) == "nothing" and kind_of(folder / SHARDED) != "nothing":
        raise UserError(f"{folder}: its weights are in several files; save the model again, as one {WEIGHTS}")
    return read_tensors(folder / WEIGHTS)
