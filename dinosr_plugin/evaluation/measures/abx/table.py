"""ABX of feature folders and unit files on the same items: what `dinosr abx` prints and writes."""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ....errors import UserError, printable
from ....files import kind_of, write_files
from ...measuring import Entry, Source, measure_all
from ...sources import expand, open_features, open_units
from ...speech import Speech
from ...table import Column, RowTable, format_table
from .items import Item
from .measure import AbxMeasure
from .score import PAIR_COLUMNS, SPEAKER_COLUMNS

COLUMNS = (
    Column("name", "features"),
    Column("distance", "distance"),
    Column("rate", "Hz", "g"),
    Column("within", "within %", ".2f"),
    Column("across", "across %", ".2f"),
    Column("items", "items", "d"),
    Column("too_short", "without a frame", "d"),
    Column("missing", "without features", "d"),
)


class AbxTable(AbxMeasure):
    """ABX of what a source has, features or units, with the errors of every speaker and pair of phones (``tables``)."""

    columns: Sequence[Column] = COLUMNS

    def __call__(self, source: Source, speech: Speech) -> dict[str, Any]:
        of_features = source.features is not None
        result = self.of_features(source) if of_features else self.of_units(source)
        tables = {
            condition: {"speakers": score.speaker_rows(), "pairs": score.pair_rows()}
            for condition, score in result.scores.items()
        }
        distance = "angular" if of_features else source.unit_distance
        return {"distance": distance, "rate": source.rate, **result.as_dict(), "tables": tables}


def open_sources(
    paths: Sequence[Path],
    unit_rate: float | None = None,
    unit_distance: str | None = None,
    tsv: Path | None = None,
) -> list[Source]:
    """Feature folders, unit files, and folders of these (``sources.expand``), in this order.

    Features are compared by the angular distance. For units ``unit_distance`` is the choice (default: ``"onehot"``,
    the published protocol). ``unit_rate`` and ``tsv`` as in ``sources.open_units``.

    Raises:
        UserError: no such folder or file, damaged, units without a rate, or options for units without any unit file.
    """
    sources = []
    for path in itertools.chain.from_iterable(map(expand, paths)):
        if (kind := kind_of(path)) == "folder":
            sources.append(open_features(path))
        elif kind != "file":
            raise UserError(
                f"{path}: no such folder or file; `dinosr features` writes folders of features, `dinosr units` unit "
                "files"
            )
        else:
            sources.append(open_units(path, unit_rate, None, tsv, unit_distance=unit_distance or "onehot"))
    if sources and (unit_rate or unit_distance) and all(source.units is None for source in sources):
        raise UserError("--rate and --distance are for unit files, and there are only folders of features; remove them")
    return sources


def measure_abx(
    sources: Sequence[Source], items: Sequence[Item], out: Path | None = None, **options: Any
) -> list[dict[str, Any]]:
    """A row for each source, with ``COLUMNS`` and ``tables``; ``options`` as for ``AbxMeasure``.

    Finished rows are kept in ``out/abx_rows.json``: the same command resumes. Raises UserError as ``errors.abx``.
    """
    inputs = hashlib.sha256(repr((list(items), sorted(options.items()))).encode()).hexdigest()
    table = RowTable(out and out / "abx_rows.json", inputs)

    def entry(source: Source) -> Entry:
        key = f"{source.name} {source.digest} {source.rate:g} Hz {source.unit_distance}"
        return Entry(key, {"name": source.name}, lambda: source)

    speech = Speech(phones=None, speakers=None)  # ABX uses the items only
    return measure_all(map(entry, sources), speech, [AbxTable(items, **options)], table)


def tables(rows: Sequence[Mapping]) -> str:
    """Errors of every speaker and of every pair of phones, of all rows, as text."""
    parts = []
    for row in rows:
        for condition, errors in row["tables"].items():
            parts.append(f"{row['name']}, {condition} speakers")
            parts += [format_table(errors["speakers"], SPEAKER_COLUMNS), format_table(errors["pairs"], PAIR_COLUMNS)]
    return "\n\n".join(parts)


def write_abx(out: Path, rows: Sequence[Mapping], settings: dict) -> list[Path]:
    """``abx.json`` with everything, including ``settings``; ``abx.tsv``, ``abx_speakers.tsv`` and ``abx_pairs.tsv``.

    Raises UserError if the folder cannot be written.
    """
    plain = [{column.key: row[column.key] for column in COLUMNS} for row in rows]
    speakers, pairs = [], []
    for row in rows:
        for condition, errors in row["tables"].items():
            columns = {"name": row["name"], "distance": row["distance"], "condition": condition}
            speakers += [{**columns, **line} for line in errors["speakers"]]
            pairs += [{**columns, **line} for line in errors["pairs"]]
    files = {
        "abx.json": [json.dumps({**settings, "rows": rows}, indent=1)],
        "abx.tsv": _tsv(plain),
        "abx_speakers.tsv": _tsv(speakers),
        "abx_pairs.tsv": _tsv(pairs),
    }
    write_files(out, files)
    return [out / name for name in files]


def _tsv(rows: Sequence[Mapping]) -> list[str]:
    """A header and one line per row; None is empty, and control characters are escaped: a field has no tab."""
    return [
        "\t".join(rows[0]),
        *("\t".join("" if value is None else printable(value) for value in row.values()) for row in rows),
    ]
