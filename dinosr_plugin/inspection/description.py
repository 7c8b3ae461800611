"""What is said about a file: the record that every module of this package fills in."""

from dataclasses import dataclass, field
from typing import Any

from ..modules.literals import shortened

MAX_VALUE = 10**12  # of sizes, updates and epochs: what exceeds it is not stated
FIRST = 8  # symbols, tensors or entries that are listed


@dataclass(frozen=True)
class Codebooks:
    """Discrete units that a model has.

    Attributes:
        noun: what one of them is called.
        count, size: K of V entries each.
        layers: the layer, from 0, that each belongs to; None if they do not belong to layers.
        in_use: for each the number of entries that have received frames in training; None if the file does not say it.
    """

    noun: str
    count: int
    size: int
    layers: list[int] | None = None
    in_use: list[int] | None = None


@dataclass(frozen=True)
class Symbols:
    """A dictionary. ``count``: special symbols included; ``first``: of the others; ``normalization``: of the texts, if
    its rules are beside the file."""

    count: int
    first: list[str]
    normalization: dict[str, Any] | None = None


@dataclass
class Description:
    """What a file is.

    Attributes:
        kind: the model, or what the file contains instead; ``objective``: what it was trained to do.
        format, written_by: of the file.
        updates, epochs: of the training; epochs are complete ones.
        parameters: part of the model -> number of its parameters.
        sizes: ``layers``, ``width``, ``heads`` ...: what of these is known.
        rate, first_centre: of the frames: Hz, seconds.
        normalized_waves: whether recordings must have mean 0 and variance 1.
        precision: number formats of the parameters, the most frequent first.
        contents: a few entries or tensors, of a file whose model is not known.
        commands: what can be done with it here. Empty for a file that cannot be read; then ``instead`` says why, or
            what to do.
    """

    kind: str
    format: str
    objective: str | None = None
    written_by: str | None = None
    updates: int | None = None
    epochs: int | None = None
    parameters: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    rate: float | None = None
    first_centre: float | None = None
    normalized_waves: bool | None = None
    codebooks: Codebooks | None = None
    dictionary: Symbols | None = None
    precision: list[str] = field(default_factory=list)
    contents: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    instead: str | None = None


def whole(value: Any) -> int | None:
    """A count from a file; None for anything that is not a sensible one."""
    return value if type(value) is int and 0 <= value <= MAX_VALUE else None


def known(**sizes: Any) -> dict[str, int]:
    """The sizes that are sensible numbers above 0."""
    return {name: value for name, value in sizes.items() if whole(value)}


def text(value: Any, length: int = 60) -> str:
    """A name from a file, cut to a length."""
    return value if isinstance(value, str) and len(value) <= length else shortened(value, length)
