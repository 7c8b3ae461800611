"""Tensors in whatever a PyTorch file contains, with a bound on their number and size."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.contents import MAX_CONFIG_DEPTH, MAX_TENSORS, Damaged
from ..modules.literals import shortened
from .weights import Weight, Weights


def weights_of(tensors: Mapping[str, Tensor]) -> Weights:
    """Names, shapes and number formats."""
    return {name: Weight(tuple(one.shape), str(one.dtype).removeprefix("torch.")) for name, one in tensors.items()}


def tensors_anywhere(state: Mapping[Any, Any], size: int) -> dict[str, Tensor]:
    """All tensors in dictionaries that contain each other, by the keys that lead to them, joined by dots.

    Args:
        size: bytes of the file.

    Raises:
        Damaged: more than a file can contain, or a tensor that is larger than the file or has no values in it.
    """
    found: dict[str, Tensor] = {}
    pending: list[tuple[Mapping[Any, Any], str, int]] = [(state, "", 0)]
    seen = 0
    while pending:
        part, prefix, depth = pending.pop()
        seen += len(part)
        if seen > MAX_TENSORS or depth > MAX_CONFIG_DEPTH:
            raise Damaged(f"contains more than {MAX_TENSORS} values, or {MAX_CONFIG_DEPTH} levels of them")
        for key, value in part.items():
            name = f"{prefix}{key}"[:1000]
            if isinstance(value, dict):
                pending.append((value, f"{name}.", depth + 1))
            elif isinstance(value, Tensor):
                if value.layout != torch.strided or value.is_meta or value.numel() > size:
                    raise Damaged(f"{shortened(name)} is larger than the file, or has no values")
                found[name] = value
    return found
