"""Quality of the checkpoints of a run: the model's own units over updates, and the last one with its baselines."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoints.load import updates_of
from ..checkpoints.opening import open_reader
from ..checkpoints.readers import CodeSet, FrameReader
from ..errors import UserError
from ..files import write_files
from ..units.codes import read_codes
from .comparison import Comparison, code_name, measures_for
from .layers import MAX_BYTES
from .measures.abx.items import Item
from .measures.abx.measure import COLUMNS as ABX_COLUMNS
from .measures.quality.measure import COLUMNS as QUALITY_COLUMNS
from .measures.quality.measure import UnitQualityMeasure
from .measures.quality.units import UnitCounts
from .measures.speaker import COLUMNS as PROBE_COLUMNS
from .measuring import Source
from .phones import PhoneAlignment
from .plots import plot_code_by_phone, plot_curves
from .speech import Speech
from .table import best_row, filled, format_table
from .unit_quality import NAME


def measure_checkpoints(
    checkpoints: Sequence[str | Path],
    speech: Speech,
    train_tsv: str | Path | None = None,
    work: str | Path | None = None,
    abx: bool = False,
    clusters: int | None = None,
    cache: str | Path | None = None,
    max_bytes: float = MAX_BYTES,
    speakers: bool = False,
    items: Sequence[Item] | None = None,
) -> dict[str, Any]:
    """Figures of one or more checkpoints of a run, in order of updates; with ``train_tsv``, baselines of the last one.

    Every checkpoint is loaded once.

    Args:
        train_tsv, work, clusters, cache, max_bytes: as ``Comparison``; with ``clusters`` the checkpoint need not have
            codebooks, and there is no history.
        abx, speakers, items: as ``measures_for``.

    Returns:
        ``history``: one entry per checkpoint: ``updates`` and, by the name of each set of codes, ``UnitQuality`` of
            each codebook;
        ``code_sets``: name -> title of the sets of codes;
        ``rows``: of ``Comparison``, or without ``train_tsv`` those of the sets of codes;
        ``baselines``: name -> the row of k-means on MFCC, on log-Mel, and on the untrained model's best layer;
        ``counts``: (n_phones, V) of the codebook with the highest PNMI, in the default set of the last checkpoint;
            ``best``: its number. None without a history or without phones.

    Raises:
        UserError: a checkpoint without codebooks, or with those of another kind than the last one; as ``Comparison``,
            and from the audio.
    """
    checkpoints = sorted(checkpoints, key=updates_of) if len(checkpoints) > 1 else list(checkpoints)
    last, with_history = open_reader(checkpoints[-1]), clusters is None
    titles = {name: codes.title for name, codes in last.code_sets.items()}
    history: list[dict[str, Any]] = []
    best: int | None = None
    counts: np.ndarray | None = None
    if train_tsv is None:
        default = last.require_codes()
        history = [measure_codebooks(alike(path, last), speech)[0] for path in checkpoints[:-1]]
        entry, counts_of = measure_codebooks(last, speech)
        history.append(entry)
        rows = [
            {"name": code_name(codes, k), "kind": kind, "index": k, **row}
            for kind, codes in last.code_sets.items()
            for k, row in enumerate(entry[kind])
        ]
        best, baselines = best_by_pnmi(entry[default]), {}
        counts = None if best is None else counts_of[default][best].by_phone
    else:
        measures = measures_for(speech, abx, speakers, items)
        with Comparison(last, train_tsv, speech, measures, work, clusters, cache, max_bytes) as comparison:
            if with_history:
                history = [measure_codebooks(alike(path, last), speech)[0] for path in checkpoints[:-1]]
            rows = comparison.rows()
            if with_history:
                default = last.require_codes()
                figures = {kind: [quality_of(row) for row in rows if row["kind"] == kind] for kind in titles}
                history.append({"updates": updates_of(checkpoints[-1]), **figures})
                best = best_by_pnmi(history[-1][default])
            if best is not None:
                counts = UnitQualityMeasure().count(comparison.code_source(default, best), speech).by_phone
        baselines = baselines_of(rows)
    found = {"history": history, "code_sets": titles, "rows": rows, "baselines": baselines}
    return {**found, "best": best, "counts": counts}


def alike(path: str | Path, last: FrameReader) -> FrameReader:
    """Open a checkpoint. Raises UserError if its sets of codes are not those of the last one."""
    reader = open_reader(path)
    reader.require_codes()
    if list(reader.code_sets) != list(last.code_sets):
        kinds = [type(one.model).__name__ for one in (reader, last)]
        raise UserError(f"{path}: contains {kinds[0]}, but {last.path} {kinds[1]}; give checkpoints of one run")
    return reader


def quality_of(row: dict[str, Any]) -> dict[str, Any]:
    """The figures of ``UnitQuality`` among those of a row."""
    return {column.key: row[column.key] for column in QUALITY_COLUMNS}


def measure_codebooks(reader: FrameReader, speech: Speech) -> tuple[dict[str, Any], dict[str, list[UnitCounts]]]:
    """An entry of the history, and the counts behind it."""
    counts = codebook_counts(reader, speech)
    figures = {kind: [of_codebook.figures().as_dict() for of_codebook in tables] for kind, tables in counts.items()}
    return {"updates": updates_of(reader.path), **figures}, counts


def codebook_counts(reader: FrameReader, speech: Speech) -> dict[str, list[UnitCounts]]:
    """Set of codes -> counts of each codebook, lowest layer first, in one pass over the sound.

    Raises UserError from the audio.
    """
    units_of = read_codes(reader, speech.utterances, list(reader.code_sets))
    counter = UnitQualityMeasure()

    def count(code_set: str, codes: CodeSet, k: int) -> UnitCounts:
        units = {utt: of_utterance[k] for utt, of_utterance in units_of[code_set].items()}
        source = Source(code_name(codes, k), reader.rate, reader.first_centre, units=units, n_codes=codes.size)
        return counter.count(source, speech)

    return {name: [count(name, codes, k) for k in range(codes.count)] for name, codes in reader.code_sets.items()}


def best_by_pnmi(figures: Sequence[dict]) -> int | None:
    """None without phones."""
    known = [k for k in range(len(figures)) if figures[k]["pnmi"] is not None]
    return max(known, key=lambda k: figures[k]["pnmi"], default=None)


def baselines_of(rows: Sequence[dict]) -> dict[str, dict]:
    """The rows of ``Comparison`` that a picture compares the PNMI of the codebooks with; empty if there are none."""
    names = {"mfcc": "MFCC k-means", "fbank": "log-Mel k-means", "untrained": "untrained model"}
    best = {name: best_row(rows, [kind], "pnmi") for kind, name in names.items()}
    return {name: dict(row) for name, row in best.items() if row} if all(best.values()) else {}


def quality_table(figures: dict) -> str:
    """The rows as text; ``figures`` as from ``measure_checkpoints``."""
    head = [f"after {figures['history'][-1]['updates']} updates"] if figures["history"] else []
    return "\n".join([*head, rows_table(figures["rows"])])


def rows_table(rows: Sequence[dict]) -> str:
    """Rows with the figures of unit quality, ABX and the speaker probe as text, without those that no row has."""
    return format_table(rows, filled(rows, [NAME, *QUALITY_COLUMNS, *ABX_COLUMNS, *PROBE_COLUMNS]))


def write_quality(
    out: Path, figures: dict, phones: PhoneAlignment | None, losses: Sequence[tuple[int, float]] = ()
) -> list[Path]:
    """``quality.json`` in the folder ``out``; with a history ``curves.png``, with phones too ``code_by_phone.png``.

    ``losses``: ``training_log.loss_curve``.
    """
    history = [{**entry, "loss": _nearest(losses, entry["updates"])} for entry in figures["history"]]
    written = {key: history if key == "history" else figures[key] for key in ("history", "rows", "baselines", "best")}
    write_files(out, {"quality.json": [json.dumps(written, indent=1)]})
    if not history:
        return [out / "quality.json"]
    curves = plot_curves(history, figures["code_sets"], out / "curves.png", figures["baselines"], "Units over training")
    if phones is None:
        return [out / "quality.json", curves]
    default = next(iter(figures["code_sets"]))
    of_default = [row["name"] for row in figures["rows"] if row["kind"] == default]
    title = f"P(phone | code) of {of_default[figures['best']]} after {history[-1]['updates']} updates"
    heat_map = plot_code_by_phone(figures["counts"], phones.names, out / "code_by_phone.png", title)
    return [out / "quality.json", curves, heat_map]


def _nearest(losses: Sequence[tuple], update: int) -> float | None:
    """Training loss logged nearest to an update; None before the first."""
    return min(losses, key=lambda point: abs(point[0] - update))[1] if losses and update else None
