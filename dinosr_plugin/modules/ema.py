"""The teacher: an exponential moving average of the student's encoder (DinoSR section 3.1)."""

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

STANDSTILL = 1e-7


def annealed_decay(start: float, end: float, step: int, steps: int) -> float:
    """Linear from ``start`` at update 0 to ``end`` at update ``steps``, then ``end``."""
    if step >= steps:
        return end
    return end - (end - start) * (1 - step / steps)


def exponential_decay(start: float, timescale: float, step: int) -> float:
    """From ``start`` at update 0 towards 1: 1 - (1 - start) exp(-step / timescale).

    1 as soon as it is within ``STANDSTILL`` of 1, as in SpidR (arXiv 2512.20308): float32 weights would not move.
    """
    distance = (1 - start) * math.exp(-step / timescale)
    return 1 - distance if distance > STANDSTILL else 1.0


class EmaTeacher(nn.Module):
    """Averages ``student`` into ``model``, in float32 in any precision of the student.

    The average is neither among ``parameters()`` nor in this module's state dict: it has no gradient, and checkpoints
    keep it as one nested dictionary (``average()``), which is the layout of the released model.

    The model stays in eval mode. With batch norm it therefore uses the running averages of the student, not those of
    its own outputs, unless it runs within ``synced_batch_norm.batch_statistics``. They are either a copy of the
    student's current buffers, or a moving average of them like the weights.

    Args:
        model: a module of the student's architecture; its weights are overwritten with the student's.
        copied: prefixes of the parameters and buffers that are copied from the student instead of averaged.
        buffers: whether floating-point buffers, such as batch norm's ``running_mean`` and ``running_var``, are copied
            from the student or averaged. Integer buffers are always copied.
    """

    model: nn.Module

    def __init__(
        self,
        model: nn.Module,
        student: nn.Module,
        copied: Iterable[str] = (),
        buffers: Literal["copy", "average"] = "copy",
    ):
        super().__init__()
        model.load_state_dict(student.state_dict())
        model.requires_grad_(False).eval()
        self.__dict__["model"] = model  # not registered: see the class's docstring
        self.copied = tuple(copied)
        self.averages_buffers = buffers == "average"
        self._average = {name: p.data for name, p in model.named_parameters()}
        persistent = model.state_dict().keys()
        self._average |= {name: buffer for name, buffer in model.named_buffers() if name in persistent}

    def _apply(self, fn, recurse=True):
        self.model._apply(fn)
        tensors = tensors_of(self.model)
        for name, average in self._average.items():
            tensor = tensors[name]
            if tensor.dtype == average.dtype:
                # back from half precision, the model's weights are the rounded ones
                self._average[name] = tensor.copy_(average)
            else:
                self._average[name] = average.to(tensor.device)
        return self

    def average(self) -> dict[str, Tensor]:
        """Name of a parameter or persistent buffer of the model -> its average, in float32 (integers as they are)."""
        return dict(self._average)

    @torch.no_grad()
    def restore_(self, average: dict[str, Tensor]):
        """Take the average from a checkpoint. Raises KeyError for a missing name, RuntimeError for another shape."""
        for name, tensor in self._average.items():
            if average[name].shape != tensor.shape:
                raise RuntimeError(
                    f"{name}: {tuple(average[name].shape)} in the checkpoint, {tuple(tensor.shape)} in the model"
                )
        for name, tensor in self._average.items():
            tensor.copy_(average[name])
        self._write_model()

    def load_(self, state_dict: dict[str, Any], key: str, missing_keys: list[str], error_msgs: list[str]):
        """``restore_`` from the entry ``key``, which is removed; arguments as of torch's ``_load_from_state_dict``."""
        average = state_dict.pop(key, None)
        if average is None:
            missing_keys.append(key)
            return
        try:
            self.restore_(average)
        except (KeyError, RuntimeError) as error:
            error_msgs.append(f"teacher (_ema): {error}")

    @torch.no_grad()
    def step_(self, student: nn.Module, decay: float):
        """average <- decay * average + (1 - decay) * student; tensors that are not averaged are copied."""
        averaged: tuple[list[Tensor], list[Tensor]] = ([], [])
        copied: tuple[list[Tensor], list[Tensor]] = ([], [])
        parameters = dict(student.named_parameters())
        for name, theirs in tensors_of(student).items():
            if name not in self._average:  # a buffer that is not persistent
                continue
            is_averaged = name in parameters or (self.averages_buffers and theirs.is_floating_point())
            ours, others = averaged if is_averaged and not name.startswith(self.copied) else copied
            ours.append(self._average[name])
            others.append(theirs.to(self._average[name].dtype))
        torch._foreach_mul_(averaged[0], decay)
        torch._foreach_add_(averaged[0], averaged[1], alpha=1 - decay)
        if copied[0]:
            torch._foreach_copy_(copied[0], copied[1])
        self._write_model()

    def _write_model(self):
        """Write the average into the model, where they are not the same memory (half precision, after a deepcopy)."""
        for name, tensor in tensors_of(self.model).items():
            if name in self._average and tensor.data_ptr() != self._average[name].data_ptr():
                tensor.copy_(self._average[name])


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters, then buffers, by name, as tensors without gradient."""
    return {name: p.data for name, p in model.named_parameters()} | dict(model.named_buffers())
