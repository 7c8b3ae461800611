"""Ranges of the numbers in configs: declared beside each field, and checked for a whole config at once.

A field of a config dataclass declares its range in its metadata: ``metadata={"range": SHARE, "help": ...}``. The range
of a list or a dict is that of its elements. ``check_ranges`` refuses every other value, NaN and infinity included.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from .errors import UserError, setting


@dataclass(frozen=True)
class Range:
    """The numbers from ``low`` to ``high`` and those in ``also``; the bounds are included unless excluded."""

    low: float
    high: float
    exclude_low: bool = False
    exclude_high: bool = False
    also: tuple[float, ...] = ()

    def __contains__(self, number: float) -> bool:
        if number in self.also:
            return True
        # every comparison with NaN is false
        low_enough = number < self.high if self.exclude_high else number <= self.high
        return low_enough and (number > self.low if self.exclude_low else number >= self.low)

    def __str__(self) -> str:
        """``between 0 and 1``, ``at least 0 and less than 1``, ``above 0 and at most 1000``, ``..., or -1``."""
        if self.exclude_low or self.exclude_high:
            low = f"{'above' if self.exclude_low else 'at least'} {number_text(self.low)}"
            text = f"{low} and {'less than' if self.exclude_high else 'at most'} {number_text(self.high)}"
        else:
            text = f"between {number_text(self.low)} and {number_text(self.high)}"
        return ", or ".join([text, *map(number_text, self.also)])


def number_text(number: float) -> str:
    return str(int(number)) if number == int(number) and abs(number) <= 2**32 else f"{number:g}"


MANY = 10**9  # more updates, epochs, samples or files than a run can have

SHARE = Range(0, 1)
DROPOUT = Range(0, 1, exclude_high=True)
"""Share of values that are set to zero; below 1, because the others are divided by the rest."""

WEIGHT = Range(0, 1e6)
"""Factor of a loss or of a gradient."""

WIDTH = Range(1, 65_536)
"""Channels, dimensions, codewords."""

LAYERS = Range(1, 1_000)
FRAMES = Range(1, 100_000)
COUNT = Range(1, MANY)
COUNT_OR_0 = Range(0, MANY)
COUNT_OR_NEVER = Range(0, MANY, also=(-1,))
LABELS = Range(2, 10**6)
"""Labels of a set, clusters."""

SEED = Range(0, 2**32 - 1)
SCORE = Range(-1e6, 1e6)
FINITE = Range(-1e300, 1e300)
"""The range of fields that declare none."""


def check_ranges(
    cfg: Any, config_class: type, group: str, others: Mapping[str, Mapping[str, Range]] | None = None
) -> None:
    """Raise UserError for the first number of a config that is out of its range.

    Args:
        cfg: an instance of the dataclass, or a DictConfig with its fields; null and missing values are not checked.
        config_class: the dataclass.
        group: the name of the config in messages, such as ``model``.
        others: ranges of fields that declare none, by the name of the dataclass and of the field.
    """
    for name, allowed in declared_ranges(config_class, others or {}).items():
        value = cfg.get(name) if isinstance(cfg, Mapping) else getattr(cfg, name, None)
        for number in numbers_in(value):
            if number not in allowed:
                raise UserError(f"{setting(f'{group}.{name}', value)}: must be {allowed}")


def declared_ranges(config_class: type, others: Mapping[str, Mapping[str, Range]]) -> dict[str, Range]:
    """Name of a field -> its range, for every field of a dataclass that holds numbers."""
    of_classes = [others[one.__name__] for one in config_class.__mro__ if one.__name__ in others]
    ranges = {}
    for field in fields(config_class):
        if holds_numbers(field.type):
            tables = [table[field.name] for table in of_classes if field.name in table]
            ranges[field.name] = field.metadata.get("range") or (tables or [FINITE])[0]
    return ranges


def holds_numbers(annotation: Any) -> bool:
    """Whether a field of this type is a number, or a list, tuple or dict of numbers, or null."""
    parts = getattr(annotation, "__args__", None)
    return any(map(holds_numbers, parts)) if parts else annotation in (int, float)


def numbers_in(value: Any) -> Iterator[float]:
    """The number itself, or those in a list or dict, nested or not; nothing for other values."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value
    elif isinstance(value, Iterable) and not isinstance(value, str):
        for element in value.values() if isinstance(value, Mapping) else value:
            yield from numbers_in(element)
