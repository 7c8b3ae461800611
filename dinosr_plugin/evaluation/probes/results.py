"""Probes of a checkpoint: the measuring, and what is printed and written."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...checkpoints.embedding import EmbeddingReader
from ...checkpoints.opening import open_model
from ...checkpoints.readers import FrameReader
from ...errors import UserError
from ...files import claim_folder, temporary_folder, write_files
from ...units.batches import hours
from ...units.features import default_device
from ..layers import MAX_BYTES
from ..measures.probing.measure import TrainingSpeech
from ..model_rows import FBANK, LAYER, MFCC, UNTRAINED, frame_field
from ..plots.probes import plot_probes
from ..table import Column, best_row, csv_lines, format_table
from .inputs import NUMBERS, OF_UTTERANCES, ProbeInputs, ProbeOptions, make_measures, read_inputs
from .rows import EMBEDDING, WEIGHTED, EmbeddingRows, ProbeRows, TrainedRows

CSV = (
    *("name", "kind", "index", "task", "score", "low", "high"),
    *("control", "selectivity", "majority", "penalty", "train", "test"),
)
ACCURACY, R2 = "accuracy", "R²"
SUMMARY = (
    Column("task", "probe of"),
    Column("unit", "score"),
    Column("best", "best layer"),
    Column("score", "its score", ".3f"),
    Column("interval", "95 %"),
    Column("control", "shuffled", ".3f"),
    Column("selectivity", "selectivity", ".3f"),
    Column("majority", "majority", ".3f"),
    Column("weighted", "weighted sum", ".3f"),
    Column("untrained", "untrained", ".3f"),
    Column("fbank", "log-Mel", ".3f"),
    Column("mfcc", "MFCC", ".3f"),
)


def read_for(model: FrameReader | EmbeddingReader, options: ProbeOptions) -> ProbeInputs:
    """The inputs for a model. Raises UserError as ``read_inputs`` and ``require_tasks``."""
    require_tasks(model, options.tasks)
    return read_inputs(options, model.min_samples if isinstance(model, EmbeddingReader) else frame_field(model))


def require_tasks(model: FrameReader | EmbeddingReader, tasks: Sequence[str]) -> None:
    """Raise UserError for tasks on frames of a model without them."""
    others = [task for task in tasks if task not in OF_UTTERANCES]
    if others and isinstance(model, EmbeddingReader):
        raise UserError(
            f"--task {others[0]}: {model.name} embeds whole recordings and has no frames; "
            f"choose from {', '.join(OF_UTTERANCES)}"
        )


def measure_model(
    model: FrameReader | EmbeddingReader,
    inputs: ProbeInputs,
    work: Path,
    cache: str | Path | None = None,
    max_bytes: float = MAX_BYTES,
    baselines: bool = True,
    tracks: Path | None = None,
) -> list[dict[str, Any]]:
    """The rows of a model, in the order of ``ModelRows.rows``.

    Args:
        work: folder for finished rows, and for features unless there is a ``cache``.
        cache, max_bytes: as ``ModelRows``.
        baselines: without them only the layers or the embedding, and no probes of shuffled labels.
        tracks: folder for F0 and energy; None: with the other features.
    """
    kept = Path(cache) if cache else work / "cache"
    measures = make_measures(inputs, tracks or kept, controls=baselines)
    common = (inputs.fitted, inputs.speech, measures, work)
    if isinstance(model, EmbeddingReader):
        with EmbeddingRows(model, inputs.options.train, *common, baselines) as embeddings:
            rows = embeddings.rows()
    else:
        kind = ProbeRows if baselines else TrainedRows
        with kind(model, *common, cache, max_bytes) as table:
            rows = table.rows()
    shutil.rmtree(work / "cache", ignore_errors=True)
    return rows


@contextmanager
def workspace(out: Path | None) -> Iterator[Path]:
    """The folder for what an interrupted command resumes from: ``out/probing``, or a temporary one."""
    with claim_folder(out / "probing") if out else temporary_folder() as work:
        yield work


def probe_checkpoint(
    checkpoint: str | Path,
    options: ProbeOptions,
    out: Path | None = None,
    cache: str | Path | None = None,
    max_bytes: float = MAX_BYTES,
) -> dict[str, Any]:
    """``{"about", "rows", "notes"}`` of one checkpoint and its baselines. Raises UserError from all inputs."""
    model = open_model(checkpoint, default_device())
    inputs = read_for(model, options)
    with workspace(out) as work:
        rows = measure_model(model, inputs, work, cache, max_bytes)
    return {"about": about(model.name, inputs), "rows": rows, "notes": list(inputs.notes)}


def about(name: str, inputs: ProbeInputs) -> dict[str, Any]:
    training = TrainingSpeech(inputs.training)
    tested = inputs.speech.utterances
    return {
        "checkpoint": name,
        "tasks": list(inputs.options.tasks),
        "train": str(inputs.options.train),
        "train_speakers": len(set(inputs.training.values())),
        "train_utterances": len(inputs.fitted),
        "train_hours": round(hours(inputs.fitted, range(len(inputs.fitted))), 3),
        "test": str(inputs.options.manifest),
        "test_speakers": inputs.speakers,
        "test_utterances": len(tested),
        "test_hours": round(hours(tested, range(len(tested))), 3),
        "examples": inputs.options.frames,
        "penalty_chosen_on": f"{len(training.held_out_groups)} training "
        + ("speakers" if training.by_speaker else "utterances"),
        "classes": {task: list(names) for task, names in inputs.classes.items()},
    }


# ---- text ------------------------------------------------------------------------------------------------------------


def unit_of(task: str) -> str:
    return R2 if task in NUMBERS else ACCURACY


def describe_speech(about: Mapping[str, Any]) -> str:
    return (
        f"{about['checkpoint']}: fitted on {about['train']} ({amount(about, 'train')}; at most {about['examples']} "
        f"examples of a probe), measured on {about['test']} ({amount(about, 'test')}); penalties chosen on "
        f"{about['penalty_chosen_on']}"
    )


def amount(about: Mapping[str, Any], part: str) -> str:
    hours, utterances, speakers = (about[f"{part}_{what}"] for what in ("hours", "utterances", "speakers"))
    return f"{hours:.2f} h, {utterances} utterances, {speakers} speakers"


def summarise(rows: Sequence[Mapping], task: str) -> dict[str, Any]:
    """A row of ``SUMMARY``."""
    best = best_row(rows, (LAYER, EMBEDDING), task)
    assert best is not None  # every model has layers or an embedding
    others = {kind: best_row(rows, [kind], task) for kind in (WEIGHTED, UNTRAINED, FBANK, MFCC)}
    low, high = (best[f"{task}_{side}"] for side in ("low", "high"))
    return {
        "task": task,
        "unit": unit_of(task),
        "best": best["name"],
        "score": best[task],
        "interval": None if low is None else f"{low:.3f} to {high:.3f}",
        **{key: best[f"{task}_{key}"] for key in ("control", "selectivity", "majority")},
        **{kind: row and row[task] for kind, row in others.items()},
    }


def text_of(found: Mapping[str, Any]) -> str:
    """What the command prints."""
    rows, tasks = found["rows"], found["about"]["tasks"]
    parts = [describe_speech(found["about"])]
    columns = [Column("name", "features"), *(Column(task, task, ".3f") for task in tasks)]
    parts.append(format_table(rows, columns))
    summary = [summarise(rows, task) for task in tasks]
    shown = [column for column in SUMMARY if any(row[column.key] is not None for row in summary)]
    parts.append(format_table(summary, shown))
    if weights := [row for row in rows if row["kind"] == WEIGHTED]:
        parts.append("weights of the layers in the weighted sum\n" + weights_table(weights[0], tasks))
    if any(row["kind"] == LAYER for row in rows):
        of_layer: dict[str, list[str]] = {}
        for row in summary:
            of_layer.setdefault(row["best"], []).append(row["task"])
        parts.append("best: " + "; ".join(f"{name} for {', '.join(of)}" for name, of in sorted(of_layer.items())))
    return "\n\n".join(parts)


def weights_table(row: Mapping[str, Any], tasks: Sequence[str]) -> str:
    of_task = {task: row[f"{task}_weights"] for task in tasks if row.get(f"{task}_weights")}
    layers = max((len(weights) for weights in of_task.values()), default=0)
    lines = [
        {"task": task, **{str(i): weight for i, weight in enumerate(weights)}} for task, weights in of_task.items()
    ]
    columns = [Column("task", "probe of"), *(Column(str(i), str(i), ".3f") for i in range(layers))]
    return format_table(lines, columns)


# ---- files -----------------------------------------------------------------------------------------------------------


def write_probes(out: Path, found: Mapping[str, Any]) -> list[Path]:
    """``probes.json``, ``probes.csv`` and ``probes.png`` in a folder."""
    tasks = found["about"]["tasks"]
    write_files(
        out,
        {
            "probes.json": [json.dumps({key: found[key] for key in ("about", "rows", "notes")}, indent=1)],
            "probes.csv": csv_lines(long_rows(found["rows"], tasks), CSV),
        },
    )
    title = f"What can be read from {found['about']['checkpoint']} by linear probes"
    picture = plot_probes(found["rows"], {task: unit_of(task) for task in tasks}, out / "probes.png", title)
    return [out / "probes.json", out / "probes.csv", picture]


def long_rows(rows: Sequence[Mapping], tasks: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each row and task, by ``CSV``."""
    return [
        {**{key: row[key] for key in CSV[:3]}, "task": task, "score": row[task]}
        | {key: row[f"{task}_{key}"] for key in CSV[5:]}
        for row in rows
        for task in tasks
        if row.get(task) is not None
    ]
