"""Quality of the checkpoints of a run: codebooks and heads over updates, and the last one with its baselines."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoints.load import updates_of
from ..checkpoints.opening import open_reader
from ..checkpoints.readers import HEAD, TEACHER, FrameReader
from ..data.manifest import write_files
from ..units.codes import read_codes
from .comparison import Comparison, measures_for, name_of
from .layers import MAX_BYTES
from .measures.abx.measure import COLUMNS as ABX_COLUMNS
from .measures.quality.measure import COLUMNS as QUALITY_COLUMNS
from .measures.quality.measure import UnitQualityMeasure
from .measures.quality.units import UnitCounts
from .measuring import Source
from .plots import plot_code_by_phone, plot_curves
from .speech import Speech
from .table import format_table
from .unit_quality import NAME

PARTS = {"teacher": TEACHER, "student": HEAD}  # of an entry of the history -> set of codes


def measure_checkpoints(
    checkpoints: Sequence[str | Path],
    speech: Speech,
    train_tsv: str | Path | None = None,
    work: str | Path | None = None,
    abx: bool = False,
    clusters: int | None = None,
    cache: str | Path | None = None,
    max_bytes: float = MAX_BYTES,
) -> dict[str, Any]:
    """Figures of one or more checkpoints of a run, in order of updates; with ``train_tsv``, baselines of the last one.

    Every checkpoint is loaded once.

    Args:
        train_tsv, work, clusters, cache, max_bytes: as ``Comparison``; with ``clusters`` the checkpoint need not have
            codebooks, and there is no history.
        abx: with ABX errors.

    Returns:
        ``history``: one entry per checkpoint: ``updates``, ``teacher`` and ``student`` (``UnitQuality`` of each
            codebook and head);
        ``rows``: of ``Comparison``, or without ``train_tsv`` those of codebooks and heads;
        ``baselines``: name -> the row of k-means on MFCC, on log-Mel, and on the untrained model's best layer;
        ``counts``: (n_phones, V) of the last checkpoint's codebook with the highest PNMI, ``best`` its number; None
            without a history.

    Raises:
        UserError: a checkpoint without codebooks; as ``Comparison``, and from the audio.
    """
    checkpoints = sorted(checkpoints, key=updates_of) if len(checkpoints) > 1 else list(checkpoints)
    last, with_history = open_reader(checkpoints[-1]), clusters is None
    best: int | None = None
    counts: np.ndarray | None = None
    if train_tsv is None:
        entries = [measure_codebooks(open_reader(path), speech, path) for path in checkpoints[:-1]]
        entries.append(measure_codebooks(last, speech, checkpoints[-1]))
        history = [entry for entry, _ in entries]
        rows = [
            {"name": name_of(kind, k), "kind": kind, "index": k, **row}
            for part, kind in PARTS.items()
            for k, row in enumerate(history[-1][part])
        ]
        best, counts = best_codebook(history[-1], entries[-1][1])
        return {"history": history, "rows": rows, "baselines": {}, "best": best, "counts": counts}
    comparison = Comparison(last, train_tsv, speech, measures_for(speech, abx), work, clusters, cache, max_bytes)
    with comparison:
        earlier = checkpoints[:-1] if with_history else []
        history = [measure_codebooks(open_reader(path), speech, path)[0] for path in earlier]
        rows = comparison.rows()
        if with_history:
            figures = {part: [quality_of(row) for row in rows if row["kind"] == kind] for part, kind in PARTS.items()}
            history.append({"updates": updates_of(checkpoints[-1]), **figures})
            best = best_by_pnmi(history[-1]["teacher"])
            counts = UnitQualityMeasure().count(comparison.code_source(TEACHER, best), speech).by_phone
    return {"history": history, "rows": rows, "baselines": baselines_of(rows), "best": best, "counts": counts}


def quality_of(row: dict[str, Any]) -> dict[str, Any]:
    """The figures of ``UnitQuality`` among those of a row."""
    return {column.key: row[column.key] for column in QUALITY_COLUMNS}


def measure_codebooks(
    reader: FrameReader, speech: Speech, checkpoint: str | Path
) -> tuple[dict[str, Any], dict[str, list[UnitCounts]]]:
    """An entry of the history, and the counts behind it."""
    counts = codebook_counts(reader, speech)
    figures = {part: [of_codebook.figures().as_dict() for of_codebook in tables] for part, tables in counts.items()}
    return {"updates": updates_of(checkpoint), **figures}, counts


def best_codebook(entry: dict[str, Any], counts: dict[str, list[UnitCounts]]) -> tuple[int, np.ndarray]:
    best = best_by_pnmi(entry["teacher"])
    return best, counts["teacher"][best].by_phone


def codebook_counts(reader: FrameReader, speech: Speech) -> dict[str, list[UnitCounts]]:
    """Counts of each codebook (``teacher``) and head (``student``), lowest layer first, in one pass over the sound.

    Raises UserError for a model without codebooks, and from the audio.
    """
    size = reader.require_codes(TEACHER).size
    codes = read_codes(reader, speech.utterances, list(PARTS.values()))
    counter = UnitQualityMeasure()

    def count(code_set: str, k: int) -> UnitCounts:
        units = {utt: of_utterance[k] for utt, of_utterance in codes[code_set].items()}
        source = Source(name_of(code_set, k), reader.rate, reader.first_centre, units=units, n_codes=size)
        return counter.count(source, speech)

    return {
        part: [count(code_set, k) for k in range(reader.code_sets[code_set].count)] for part, code_set in PARTS.items()
    }


def best_by_pnmi(figures: Sequence[dict]) -> int:
    return max(range(len(figures)), key=lambda k: figures[k]["pnmi"])


def baselines_of(rows: Sequence[dict]) -> dict[str, dict]:
    """The rows of ``Comparison`` that a picture compares the codebooks with; empty if there are none."""
    of = {kind: [row for row in rows if row["kind"] == kind] for kind in ("mfcc", "fbank", "untrained")}
    if not all(of.values()):
        return {}
    return {
        "MFCC k-means": of["mfcc"][0],
        "log-Mel k-means": of["fbank"][0],
        "untrained model": of["untrained"][best_by_pnmi(of["untrained"])],
    }


def quality_table(figures: dict) -> str:
    """The rows as text; ``figures`` as from ``measure_checkpoints``."""
    head = [f"after {figures['history'][-1]['updates']} updates"] if figures["history"] else []
    return "\n".join([*head, rows_table(figures["rows"])])


def rows_table(rows: Sequence[dict]) -> str:
    """Rows with the figures of unit quality, and of ABX if one of them has it, as text."""
    abx = ABX_COLUMNS if any(row.get("unit_abx_within") is not None for row in rows) else ()
    return format_table(rows, [NAME, *QUALITY_COLUMNS, *abx])


def write_quality(
    out: Path, figures: dict, phone_names: Sequence[str], losses: Sequence[tuple[int, float]] = ()
) -> list[Path]:
    """``quality.json`` and, with a history, ``curves.png`` and ``code_by_phone.png`` in the folder ``out``.

    ``losses``: ``training_log.loss_curve``.
    """
    history = [{**entry, "loss": _nearest(losses, entry["updates"])} for entry in figures["history"]]
    written = {key: history if key == "history" else figures[key] for key in ("history", "rows", "baselines", "best")}
    write_files(out, {"quality.json": [json.dumps(written, indent=1)]})
    if not history:
        return [out / "quality.json"]
    title = f"P(phone | code) of codebook {figures['best']} after {history[-1]['updates']} updates"
    return [
        out / "quality.json",
        plot_curves(history, out / "curves.png", figures["baselines"], "Codebooks over training"),
        plot_code_by_phone(figures["counts"], phone_names, out / "code_by_phone.png", title),
    ]


def _nearest(losses: Sequence[tuple], update: int) -> float | None:
    """Training loss logged nearest to an update; None before the first."""
    return min(losses, key=lambda point: abs(point[0] - update))[1] if losses and update else None
