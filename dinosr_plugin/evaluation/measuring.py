"""The engine: sources, measures, and the table of both; and measures of pairs.

A source is what is measured: features or units, with their place in time. A measure turns a source into
figures. ``measure_all`` fills a table of both, which resumes where a run was interrupted. A pair measure compares two
representations of the same frames (``similarity``).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..errors import UserError
from ..units.frames import UtteranceArrays
from .speech import Speech
from .table import Column, RowTable


@dataclass(frozen=True)
class Source:
    """Features, units, or both, of the same speech.

    Attributes:
        name: the name of its row.
        rate: frames per second.
        first_centre: time of the centre of frame 0, in seconds.
        features: utterance -> (n, D) numbers; None for units alone. (n, L, D): L layers, for probes, which learn a
            weighted sum of them.
        units: utterance -> (n,) integers from 0; None for features alone.
        n_codes: number of different units; None: the largest unit + 1.
        unit_distance: distance of units in ABX, ``onehot`` or ``edit``.
        centred: whether the mean of each utterance was subtracted from its features, as of MFCC and log-Mel.
        training: features of the training speech, utterance -> as ``features``, for measures that are fitted on it.
        digest: identifies the content, for tables that are kept on the disk.
    """

    name: str
    rate: float
    first_centre: float
    features: UtteranceArrays | None = None
    units: Mapping[str, np.ndarray] | None = None
    n_codes: int | None = None
    unit_distance: str = "onehot"
    centred: bool = False
    training: UtteranceArrays | None = None
    digest: str = ""

    def require_features(self) -> UtteranceArrays:
        """Raises UserError for units alone."""
        if self.features is None:
            raise UserError("contains units only, but features are required; give a folder from `dinosr features`")
        return self.features

    def require_units(self) -> Mapping[str, np.ndarray]:
        """Raises UserError for features alone."""
        if self.units is None:
            raise UserError("contains features only, but units are required; create them with `dinosr kmeans apply`")
        return self.units


class Measure(Protocol):
    """Figures of a source. ``columns``: what they are, for the table."""

    columns: Sequence[Column]

    def __call__(self, source: Source, speech: Speech) -> dict[str, Any]:
        """Figures by the keys of ``columns``, ready for JSON; None for what does not apply. Raises UserError."""
        ...


class PairFigure(NamedTuple):
    """``value``; ``std``: its standard deviation over samples of frames, None where all frames are used."""

    value: float
    std: float | None = None


class PairMeasure(Protocol):
    """A figure of two representations.

    Attributes:
        title: its name in tables and pictures.
        symmetric: whether the order of the two does not matter.
        statistic: what it is computed from, ``moments`` or ``sample`` of
            ``measures.similarity.statistics.Statistics``, which one pass over the sound collects for all pairs.
    """

    @property
    def title(self) -> str: ...

    @property
    def symmetric(self) -> bool: ...

    @property
    def statistic(self) -> str: ...

    def __call__(self, figures: Any, a: str, b: str) -> PairFigure:
        """Of representations ``a`` and ``b``, from ``measures.similarity.measure.Figures``."""
        ...


@dataclass(frozen=True)
class Entry:
    """A row to measure: ``key`` identifies it in a table, ``head`` has its first columns, ``make`` opens its source."""

    key: str
    head: Mapping[str, Any]
    make: Callable[[], Source]


def measure_all(
    entries: Iterable[Entry], speech: Speech, measures: Sequence[Measure], table: RowTable
) -> list[dict[str, Any]]:
    """A row for each entry: its head and the figures of every measure. Rows that the table has are not measured again.

    Raises UserError as sources and measures do, with the source's name in front.
    """
    rows = []
    for entry in entries:
        row = table.get(entry.key)
        if row is None:
            row = table.add(entry.key, {**entry.head, **figures_of(entry.make(), speech, measures)})
        rows.append(row)
    return rows


def figures_of(source: Source, speech: Speech, measures: Sequence[Measure]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for measure in measures:
        try:
            figures |= measure(source, speech)
        except UserError as error:
            raise UserError(f"{source.name}: {error}") from error
    return figures
