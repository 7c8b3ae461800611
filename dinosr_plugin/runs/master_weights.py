"""The values that the optimiser moves: of training in half precision, fairseq's float32 copies of the parameters."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError, setting


@torch.no_grad()
def normalize_rows(parameters: Iterable[Tensor], optimizer: Any) -> None:
    """Scale the rows of matrices to norm 1, computed in float32.

    In training in half precision, the rows of fairseq's float32 copies have norm 1, and the parameters are these rows,
    rounded.

    Args:
        parameters: of the model, (K, D) each.
        optimizer: fairseq's optimiser of the model.
    """
    for p in parameters:
        weight = master_weight(p, optimizer)
        weight.copy_(F.normalize(weight.float(), dim=-1))
        p.data.copy_(weight)


def master_weight(p: Tensor, optimizer: Any) -> Tensor:
    """The tensor that the optimiser moves for this parameter, of the same shape: its float32 copy, or its own values.

    There are no copies in training in float32, with ``common.amp``, and with ``common.memory_efficient_fp16`` or
    ``memory_efficient_bf16``.

    Raises ValueError for a parameter that the optimiser does not move.
    """
    copies = getattr(optimizer, "fp32_params", None)
    if copies is None:
        return p.data
    start = 0
    for number, half in enumerate(optimizer.fp16_params):
        if half is p and not optimizer.has_flat_params:
            return copies[number].data
        if half is p:  # one vector with all parameters, in this order
            flat = copies[p.device.index] if isinstance(copies, dict) else copies
            return flat.data[start : start + p.numel()].view_as(p)
        start += half.numel()
    raise ValueError("the optimiser does not move this parameter")


def drop_gradients(parameters: Iterable[Tensor], optimizer: Any) -> None:
    """Leave parameters of the model out of the next step of fairseq's optimiser: no weight decay, the same momentum.

    Raises UserError if all float32 copies are one vector, with one gradient.
    """
    copies = getattr(optimizer, "fp32_params", None)
    for p in parameters:
        if copies is None:
            p.grad = None
        elif optimizer.has_flat_params:
            raise UserError(
                f"{setting('common.fp16_no_flatten_grads', False)}: some parameters are not to be trained yet; set "
                f"{setting('common.fp16_no_flatten_grads', True)}, or use optimizer=dino_sgd"
            )
        else:
            copies[next(number for number, half in enumerate(optimizer.fp16_params) if half is p)].grad = None
