"""ABX of several feature folders and unit files on the same items: one row each, and the files that keep the figures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ....data.manifest import write_files
from ....errors import UserError
from ...table import format_table
from .errors import abx
from .items import Item
from .score import PAIR_COLUMNS, SPEAKER_COLUMNS, AbxResult

COLUMNS = [
    ("name", "features", ""),
    ("distance", "distance", ""),
    ("rate", "Hz", "g"),
    ("within", "within %", ".2f"),
    ("across", "across %", ".2f"),
    ("items", "items", "d"),
    ("too_short", "without a frame", "d"),
    ("missing", "without features", "d"),
]


@dataclass(frozen=True)
class Source:
    """Something to be measured; arguments of ``abx.abx``, and a name for its row."""

    name: str
    features: Mapping[str, np.ndarray]
    rate: float  # frames or units a second
    distance: str


@dataclass(frozen=True)
class Row:
    source: Source
    result: AbxResult

    def as_dict(self) -> dict:
        """Plain numbers for ``COLUMNS``; errors in %."""
        return {
            "name": self.source.name,
            "distance": self.source.distance,
            "rate": self.source.rate,
            **self.result.as_dict(),
        }


def open_sources(
    paths: Sequence[Path], unit_rate: float | None = None, unit_distance: str | None = None, tsv: Path | None = None
) -> list[Source]:
    """Feature folders, unit files, and folders of these (see ``inside``), in the order given.

    Features are compared by the angular distance. Units have a choice, ``unit_distance`` (default: ``"onehot"``, the published protocol), and
    need ``unit_rate``, units a second. ``tsv``: manifest that names the utterances of files which do not (``.km``).

    Raises:
        UserError: no such folder or file, damaged, units without a rate, or a rate or distance of units where there are none.
    """
    from ....units.store import FeatureFolder

    sources = []
    for path in [one for given in paths for one in inside(given)]:
        if path.is_dir():
            features = FeatureFolder(path)
            sources.append(Source(str(path), features, features.rate, "angular"))
        elif not path.exists():
            raise UserError(
                f"{path}: no such folder or file; `dinosr features` makes folders of features, `dinosr units` files of units"
            )
        elif unit_rate is None:
            raise UserError(
                f"{path}: a file of units wants --rate HZ, the units a second that it was written with (a DinoSR model's own: 50)"
            )
        else:
            from ...unit_files import read_labelled_units  # imports torch, which folders of features do not need

            sources.append(Source(str(path), read_labelled_units(path, tsv), unit_rate, unit_distance or "onehot"))
    if sources and (unit_rate or unit_distance) and all(source.distance == "angular" for source in sources):
        raise UserError(
            "--rate and --distance are of files of units, and there are only folders of features; leave them out"
        )
    return sources


def inside(path: Path) -> list[Path]:
    """Of a folder that `dinosr features --layer all` or `dinosr units` wrote: every layer, or every ``.units`` file; otherwise the path itself."""
    from ....units.store import layer_folders

    if not path.is_dir() or (path / "meta.json").is_file():
        return [path]
    return layer_folders(path) or sorted(path.glob("*.units")) or [path]


def measure(sources: Sequence[Source], items: Sequence[Item], **options) -> list[Row]:
    """A row for each source; ``options`` as for ``abx.abx``. Raises UserError as it does, with the source's name before it."""
    rows = []
    for source in sources:
        try:
            rows.append(Row(source, abx(source.features, items, source.rate, source.distance, **options)))
        except UserError as error:
            raise UserError(f"{source.name}: {error}") from error
    return rows


def tables(rows: Sequence[Row]) -> str:
    """Errors of every speaker and of every pair of phones, of all rows, as text."""
    parts = []
    for row in rows:
        for condition, score in row.result.scores.items():
            parts.append(f"{row.source.name}, {condition} speakers")
            parts += [
                format_table(score.speaker_rows(), SPEAKER_COLUMNS),
                format_table(score.pair_rows(), PAIR_COLUMNS),
            ]
    return "\n\n".join(parts)


def write_abx(out: Path, rows: Sequence[Row], settings: dict) -> list[Path]:
    """``abx.json`` with everything, ``settings`` included; ``abx.tsv``, ``abx_speakers.tsv`` and ``abx_pairs.tsv`` with a header line.

    Raises UserError where the folder cannot be written.
    """
    figures, speakers, pairs = [], [], []
    for row in rows:
        named = {"name": row.source.name, "distance": row.source.distance}
        own = {
            condition: {"speakers": score.speaker_rows(), "pairs": score.pair_rows()}
            for condition, score in row.result.scores.items()
        }
        figures.append({**row.as_dict(), "tables": own})
        speakers += [
            {**named, "condition": condition, **line} for condition, table in own.items() for line in table["speakers"]
        ]
        pairs += [
            {**named, "condition": condition, **line} for condition, table in own.items() for line in table["pairs"]
        ]
    files = {
        "abx.json": [json.dumps({**settings, "rows": figures}, indent=1)],
        "abx.tsv": _tsv([row.as_dict() for row in rows]),
        "abx_speakers.tsv": _tsv(speakers),
        "abx_pairs.tsv": _tsv(pairs),
    }
    write_files(out, files)
    return [out / name for name in files]


def _tsv(rows: Sequence[Mapping]) -> list[str]:
    """A header and one line a row; None is empty."""
    return [
        "\t".join(rows[0]),
        *("\t".join("" if value is None else str(value) for value in row.values()) for row in rows),
    ]
