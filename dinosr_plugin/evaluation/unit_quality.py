"""Quality of unit files and folders of them, for `dinosr quality`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import UserError, printable
from ..files import is_folder, write_files
from .measures.quality.measure import LagMeasure, UnitQualityMeasure
from .measures.quality.units import UnitCounts
from .measuring import Measure, Source, figures_of
from .phones import PhoneAlignment
from .plots import plot_code_by_phone
from .sources import Durations, expand, matched_units, open_units, short_names
from .speech import Speech, manifest_speakers, speakers_of
from .table import Column

NAME = Column("name", "units of")
DEFAULT_RATE = 50.0  # units per second of a file without ``UnitInfo``


def unit_files(path: str | Path) -> list[Path]:
    """The file itself, or the unit files of a folder. Raises UserError for a folder without any."""
    path = Path(path)
    files = expand(path)
    if files == [path] and is_folder(path):
        raise UserError(f"{path}: contains no .units or .km file; `dinosr units` and `dinosr kmeans apply` write them")
    return files


@dataclass(frozen=True)
class MeasuredUnits:
    """``row``: ``{"name", **figures}``; ``counts``: what the figures are computed from."""

    row: dict[str, Any]
    counts: UnitCounts


def measure_files(
    paths: Sequence[str | Path],
    phones: PhoneAlignment | None,
    tsv: str | Path | None,
    rate: float | None = None,
    first_centre: float | None = None,
    skip_missing: bool = False,
    alignment: str = "centres",
    lags: bool = False,
) -> tuple[list[MeasuredUnits], list[str]]:
    """Figures of unit files and folders of them, and notes for the user.

    Args:
        phones: of the speech; None without one: no figures about phones.
        tsv: manifest of the speech, None for none: names the utterances of units without names, and the speakers, and
            says which part of the alignment counts. Without alignment the durations in it must match the units.
        rate, first_centre: as ``open_units``.
        skip_missing: as ``matched_units``.
        alignment: one of ``quality.units.ALIGNMENTS``.
        lags: add PNMI over lags.

    Raises:
        UserError: as ``unit_files``, ``open_units``, ``matched_units`` and ``speakers_of``; for lags without phones.
    """
    files = [file for path in paths for file in unit_files(path)]
    corpus = None if tsv is None else manifest_speakers(tsv).keys()
    durations = Durations.of_alignment(phones) if phones else Durations.of_manifest(tsv) if tsv else None
    quality = UnitQualityMeasure(alignment)
    others: list[Measure] = [LagMeasure(alignment)] if lags else []
    measured: list[MeasuredUnits] = []
    notes: list[str] = []
    for name, file in zip(short_names(files), files):
        source: Source = open_units(file, rate, first_centre, tsv, DEFAULT_RATE)
        units = source.require_units()
        if durations is not None:
            units, left_out = matched_units(file, units, durations, source.rate, skip_missing, corpus)
            notes += left_out
        speakers = speakers_of(list(units), tsv)
        if speakers is None:
            notes.append(f"{file}: speakers unknown, as names are not LibriSpeech's; give --manifest")
        source, speech = replace(source, name=name, units=units), Speech(phones, speakers)
        counts = quality.count(source, speech)
        row = {"name": name, **counts.figures().as_dict(), **figures_of(source, speech, others)}
        measured.append(MeasuredUnits(row, counts))
    return measured, notes


def write_unit_quality(out: Path, measured: Sequence[MeasuredUnits], phones: PhoneAlignment | None) -> list[Path]:
    """``quality.json`` with all rows, in folder ``out``; with phones also ``code_by_phone.png`` of the highest PNMI."""
    write_files(out, {"quality.json": [json.dumps({"rows": [one.row for one in measured]}, indent=1)]})
    if phones is None:
        return [out / "quality.json"]
    best = max(measured, key=lambda one: one.row["pnmi"])
    assert best.counts.by_phone is not None  # there are phones
    title = f"P(phone | code) of {printable(best.row['name'])}"
    return [
        out / "quality.json",
        plot_code_by_phone(best.counts.by_phone, phones.names, out / "code_by_phone.png", title),
    ]
