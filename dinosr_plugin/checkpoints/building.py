"""Building a model from a checkpoint: bounded memory, and one line for whatever fails."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import UserError
from ..files import kind_of
from .file import REMEDY

RANGES = ("arange", "linspace", "logspace", "randperm", "range")
SQUARES = ("eye", "tril_indices", "triu_indices")


class DoesNotFit(UserError):
    """No model can be built from a checkpoint, or it does not fit the weights, the dictionary or the options."""


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
        self.left: float = size + self.SLACK
        self.name = name

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
