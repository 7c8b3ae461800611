"""Quality of the checkpoints of a run: the teacher's codebooks and the student heads' predictions on unmasked speech, over updates and beside baselines."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from ..checkpoints.load import LayerReader
from ..data.manifest import write_files
from ..errors import UserError
from ..units.codes import CodeReader
from ..units.features import MAX_MINUTES, read_utterances
from .comparison import cluster_count, compare, name_of
from .measures.abx.items import manifest_speakers
from .measures.quality.units import UnitCounts, count_units
from .phones import PhoneAlignment
from .plots import plot_code_by_phone, plot_curves
from .table import ABX_COLUMNS, QUALITY_COLUMNS, format_table

PARTS = {"teacher": "teacher", "student": "head"}  # of an entry of the history -> kind of row


def codebook_counts(checkpoint: str | Path, part: str, dev_tsv: str | Path, phones: PhoneAlignment) -> list[UnitCounts]:
    """Of each codebook (part ``teacher``) or head (``student``), lowest layer first.

    Raises:
        UserError: a checkpoint without codebooks, a bad manifest, unreadable audio, an utterance without alignment.
    """
    reader = CodeReader(checkpoint, predicted=part == "student")
    utterances = read_utterances(dev_tsv, reader.field, MAX_MINUTES)
    phones.require(utterance.name for utterance in utterances)
    codes, speakers = dict(reader.stream(utterances)), manifest_speakers(dev_tsv)
    return [
        count_units(((utt, own[k]) for utt, own in codes.items()), phones, speakers, reader.rate, reader.size)
        for k in range(reader.n_codebooks)
    ]


def measure(
    checkpoints: Sequence[str | Path],
    dev_tsv: str | Path,
    phones: PhoneAlignment,
    train_tsv: str | Path | None = None,
    work: str | Path | None = None,
    abx: bool = False,
    clusters: int | None = None,
) -> dict:
    """Figures of one or more checkpoints of a run, in order of updates; of the last one, where ``train_tsv`` is given, beside baselines and layers.

    Args:
        train_tsv, abx, clusters: as ``compare``; with ``clusters`` the checkpoint is not asked for codebooks, and there is no history.
        work: as ``compare``; None: a temporary folder.

    Returns:
        ``history``: one entry a checkpoint: ``updates``, ``teacher`` and ``student`` (``UnitQuality`` of each codebook and head);
        ``rows``: the table, as ``compare`` gives it, or without ``train_tsv`` those of codebooks and heads;
        ``baselines``: name -> the row of k-means on MFCC, on log-Mel, and on the untrained model's best layer;
        ``counts``: (n_phones, V) of the last checkpoint's codebook with the highest PNMI, ``best`` its number; None without a history.

    Raises:
        UserError: as ``codebook_counts`` and ``compare``.
    """
    checkpoints = sorted(checkpoints, key=updates_of) if len(checkpoints) > 1 else list(checkpoints)
    if train_tsv is not None:  # what ``compare`` would refuse is refused before the minutes that codebooks take
        read_utterances(train_tsv)
        cluster_count(LayerReader(checkpoints[-1]), checkpoints[-1], clusters)
    history, counts = [], {}
    for checkpoint in checkpoints if clusters is None else ():
        counts = {part: codebook_counts(checkpoint, part, dev_tsv, phones) for part in PARTS}
        figures = {part: [own.figures().as_dict() for own in tables] for part, tables in counts.items()}
        history.append({"updates": updates_of(checkpoint), **figures})
    best = best_by_pnmi(history[-1]["teacher"]) if history else None
    if train_tsv is None:
        rows = [
            {"name": name_of(kind, k), "kind": kind, "index": k, **row}
            for part, kind in PARTS.items()
            for k, row in enumerate(history[-1][part])
        ]
    else:
        with tempfile.TemporaryDirectory() as temporary:
            rows = compare(
                checkpoints[-1],
                train_tsv,
                dev_tsv,
                phones,
                manifest_speakers(dev_tsv),
                work or temporary,
                abx,
                clusters,
            )
    return {
        "history": history,
        "rows": rows,
        "baselines": baselines_of(rows),
        "best": best,
        "counts": None if best is None else counts["teacher"][best].by_phone,
    }


def best_by_pnmi(figures: Sequence[dict]) -> int:
    return max(range(len(figures)), key=lambda k: figures[k]["pnmi"])


def baselines_of(rows: Sequence[dict]) -> dict[str, dict]:
    """What a picture shows of the rows of ``compare`` beside the codebooks; empty where there are none but those."""
    of = {kind: [row for row in rows if row["kind"] == kind] for kind in ("mfcc", "fbank", "untrained")}
    if not all(of.values()):
        return {}
    return {
        "MFCC k-means": of["mfcc"][0],
        "log-Mel k-means": of["fbank"][0],
        "untrained model": of["untrained"][best_by_pnmi(of["untrained"])],
    }


def updates_of(checkpoint: str | Path) -> int:
    """Number of updates that a fairseq checkpoint has seen. Raises UserError for another file."""
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        return int(state["optimizer_history"][-1]["num_updates"])
    except Exception as error:  # torch and pickle each have their own
        raise UserError(f"{checkpoint}: cannot be read as a fairseq checkpoint; is the file whole?") from error


def quality_table(figures: dict) -> str:
    """The rows as text; ``figures`` as from ``measure``."""
    head = [f"after {figures['history'][-1]['updates']} updates"] if figures["history"] else []
    return "\n".join([*head, rows_table(figures["rows"])])


def rows_table(rows: Sequence[dict]) -> str:
    """Rows with a name and what ``UnitQuality`` has, and ABX where one of them has it, as text."""
    return format_table(
        rows, QUALITY_COLUMNS + (ABX_COLUMNS if any(row.get("unit_abx_within") is not None for row in rows) else [])
    )


def write_quality(
    out: Path, figures: dict, phone_names: Sequence[str], losses: Sequence[tuple[int, float]] = ()
) -> list[Path]:
    """``quality.json`` and, where there is a history, ``curves.png`` and ``code_by_phone.png`` in the folder ``out``; ``losses``: ``training_log.loss_curve``."""
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
