"""Checks of a model's weights: a fingerprint that identifies them, and whether all of them are finite."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError


def fingerprint(models: Sequence[nn.Module]) -> str:
    """SHA-256 of the weights of the models; it depends on the weights only, not on the file that they come from."""
    digest = hashlib.sha256()
    for model in models:
        for name, tensor in tensors_in(nn.Module.state_dict(model)):  # data2vec's own state_dict logs a warning
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def require_finite(model: nn.Module, path: str | Path) -> None:
    """Raise UserError for NaN or infinity in the weights: the codes of such a model look like any others."""
    for name, tensor in tensors_in(nn.Module.state_dict(model)):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{path}: NaN or infinity in its weights ({name}); give an earlier checkpoint")


def tensors_in(state: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors of a state dict by name, including those of nested dictionaries (a teacher's)."""
    for name, value in state.items():
        if isinstance(value, dict):
            yield from tensors_in(value, f"{prefix}{name}.")
        elif torch.is_tensor(value):
            yield prefix + name, value
