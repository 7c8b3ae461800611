"""The values that the optimiser moves: of training in half precision, fairseq's float32 copies of the parameters."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def normalize_rows(parameters: Iterable[Tensor], optimizer: Any) -> None:
    """Scale the rows of matrices to norm 1, in float32, and in training in half precision also the rounded copies.

    Args:
        parameters: of the model, (K, D) each.
        optimizer: fairseq's optimiser of the model.
    """
    for p in parameters:
        rows = master_weight(p, optimizer)
        rows.div_(rows.norm(dim=-1, keepdim=True).clamp(min=1e-12))
        if rows is not p.data:
            p.data.copy_(rows)


def master_weight(p: Tensor, optimizer: Any) -> Tensor:
    """The float32 tensor that the optimiser moves for this parameter, of the same shape; the parameter's own if it has
    no copy."""
    copies = getattr(optimizer, "fp32_params", None)
    if copies is None:  # float32, or memory_efficient_fp16
        return p.data
    if not optimizer.has_flat_params:
        return next(copy.data for half, copy in zip(optimizer.fp16_params, copies) if half is p)
    flat = copies[p.device.index] if isinstance(copies, dict) else copies
    start = 0
    for half in optimizer.fp16_params:
        if half is p:
            return flat.data[start : start + p.numel()].view_as(p)
        start += half.numel()
    raise ValueError("the optimiser does not move this parameter")
