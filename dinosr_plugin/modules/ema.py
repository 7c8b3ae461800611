"""The teacher: an exponential moving average of the student's encoder (DinoSR section 3.1)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def annealed_decay(start: float, end: float, step: int, steps: int) -> float:
    """Linear from ``start`` at update 0 to ``end`` at update ``steps``, then ``end``."""
    if step >= steps:
        return end
    return end - (end - start) * (1 - step / steps)


class EmaTeacher(nn.Module):
    """Averages ``student`` into ``model``, in float32 whatever the precision of the student.

    The average is no part of ``parameters()`` nor of this module's state dict: it has no gradient, and checkpoints keep
    it as one nested dictionary (``average()``), the layout of the released model.

    Args:
        model: a module of the student's architecture; takes the student's weights at once and stays in eval mode.
        copied: prefixes of the parameters that are copied from the student instead of averaged.
    """

    def __init__(self, model: nn.Module, student: nn.Module, copied: Iterable[str] = ()):
        super().__init__()
        model.load_state_dict(student.state_dict())
        model.requires_grad_(False).eval()
        self.__dict__["model"] = model  # not registered: see the class's docstring
        self.copied = tuple(copied)
        self._average = {name: p.data for name, p in model.named_parameters()}

    def _apply(self, fn, recurse=True):
        self.model._apply(fn)
        parameters = dict(self.model.named_parameters())
        for name, tensor in self._average.items():
            p = parameters[name]
            if p.dtype == torch.float32:
                self._average[name] = p.data.copy_(
                    tensor
                )  # back from half precision the model's weights are rounded ones
            else:
                self._average[name] = tensor.to(p.device)
        return self

    def average(self) -> dict[str, Tensor]:
        """Parameter name inside the encoder -> float32 tensor."""
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

    @torch.no_grad()
    def step_(self, student: nn.Module, decay: float):
        """average <- decay * average + (1 - decay) * student; ``copied`` parameters are taken over."""
        averaged, copied = ([], []), ([], [])
        for name, p in student.named_parameters():
            mine, theirs = copied if name.startswith(self.copied) else averaged
            mine.append(self._average[name])
            theirs.append(p.data.float())
        torch._foreach_mul_(averaged[0], decay)
        torch._foreach_add_(averaged[0], averaged[1], alpha=1 - decay)
        if copied[0]:
            torch._foreach_copy_(copied[0], copied[1])
        self._write_model()

    def _write_model(self):
        """The model's weights are the average itself; a rounded copy where it runs in half precision, a copy after a deepcopy."""
        for name, p in self.model.named_parameters():
            if p.data_ptr() != self._average[name].data_ptr():
                p.data.copy_(self._average[name])
