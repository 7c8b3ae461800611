"""Validation loss against probes: over the checkpoints of a run, does a lower loss go with better probes?

Chung, Belinkov and Glass (ICASSP 2021) find that it does for some objectives. Losses of different objectives, or with
other targets, cannot be compared: give checkpoints of one run.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...checkpoints.embedding import EmbeddingReader
from ...checkpoints.file import read_fairseq_checkpoint
from ...checkpoints.load import updates_of
from ...checkpoints.opening import open_model
from ...checkpoints.readers import FrameReader
from ...errors import UserError
from ...files import is_folder, scan, write_files
from ...units.features import default_device
from ..layers import MAX_BYTES
from ..measures.verification import CONFIDENCE
from ..model_rows import SEED
from ..plots.probes import plot_loss_probes
from ..table import Column, format_table
from ..training_log import loss_curve, read_training_log
from .inputs import ProbeInputs, ProbeOptions
from .results import about, best_row, describe_speech, measure_model, read_for, unit_of, workspace

MIN_CHECKPOINTS, FEW_CHECKPOINTS = 4, 8
RESAMPLES = 1000
MEASURES = ("pearson", "spearman")
LAST, BEST = "last", "best"
LAYERS = {LAST: "last layer", BEST: "best layer"}


def expand_checkpoints(paths: Sequence[Path]) -> list[Path]:
    """The files, and those of folders, ``*.pt``; of several with the same number of updates the first one.

    In order of updates. Raises UserError for a folder without any, and as ``updates_of``.
    """
    files: list[Path] = []
    for path in paths:
        inside = (
            sorted(Path(entry.path) for entry in scan(path) if entry.name.endswith(".pt")) if is_folder(path) else []
        )
        if is_folder(path) and not inside:
            raise UserError(f"{path}: contains no checkpoint (*.pt); give the checkpoint.save_dir of a training")
        files += inside or [path]
    by_updates: dict[int, Path] = {}
    for file in files:
        by_updates.setdefault(updates_of(file), file)
    return [by_updates[updates] for updates in sorted(by_updates)]


def validation_loss(path: Path, losses: Mapping[int, float]) -> float:
    """Of a checkpoint: that of the log at its update, or without a log (no ``losses``) what fairseq saved with it.

    Raises UserError if there is none, or if the run kept another figure than the loss.
    """
    if losses:
        if updates_of(path) not in losses:
            raise UserError(f"{path}: the log has no validation loss at {updates_of(path)} updates; omit it")
        return losses[updates_of(path)]
    state = read_fairseq_checkpoint(path)
    loss = (state.get("extra_state") or {}).get("val_loss")
    metric = ((state.get("cfg") or {}).get("checkpoint") or {}).get("best_checkpoint_metric", "loss")
    if metric != "loss":
        raise UserError(
            f"{path}: contains its {metric} on validation data, not its loss; give the run's log with --log"
        )
    if not isinstance(loss, int | float) or not np.isfinite(loss):
        raise UserError(
            f"{path}: contains no validation loss; give the log of its run with --log, or train with validation "
            "(dataset.disable_validation=false, validate_interval_updates)"
        )
    return float(loss)


def probe_checkpoints(
    checkpoints: Sequence[Path],
    options: ProbeOptions,
    log: Path | None = None,
    subset: str = "valid",
    out: Path | None = None,
    cache: str | Path | None = None,
    max_bytes: float = MAX_BYTES,
) -> dict[str, Any]:
    """``{"about", "points", "correlations", "notes"}`` of checkpoints of one run (``expand_checkpoints``).

    ``points``: ``{"checkpoint", "updates", "loss", task: {"last", "best", "layer"}}`` in order of updates; the best
    layer is chosen at each checkpoint. ``correlations``: task -> ``last`` and ``best`` -> measure -> value, low, high.

    Raises UserError for fewer than four checkpoints, one without validation loss, and from all inputs.
    """
    if len(checkpoints) < MIN_CHECKPOINTS:
        raise UserError(
            f"{checkpoints[0]}: {len(checkpoints)} checkpoint(s) of different updates; give at least "
            f"{MIN_CHECKPOINTS} of a run (checkpoint.save_interval_updates, keep_interval_updates=-1), or one to probe"
        )
    logged = {update: loss for update, loss in loss_curve(read_training_log(log, subset))} if log else {}
    if log and not logged:
        raise UserError(f"{log}: contains no loss of the subset {subset}; give its name with --valid-subset")
    losses = [validation_loss(path, logged) for path in checkpoints]
    points, head, notes = [], {}, []
    with workspace(out) as work:
        for path, loss in zip(checkpoints, losses):
            model = open_model(path, default_device())
            inputs = read_for(model, options)
            of_checkpoint = work / f"{updates_of(path)}"
            rows = measure_model(
                model, inputs, of_checkpoint, cache, max_bytes, baselines=False, tracks=work / "tracks"
            )
            points.append({"checkpoint": path.name, "updates": updates_of(path), "loss": loss, **scores(rows, options)})
            head, notes = about_run(model, inputs), list(inputs.notes)
        shutil.rmtree(work / "tracks", ignore_errors=True)
    if len(points) < FEW_CHECKPOINTS:
        notes.append(f"{len(points)} checkpoints: correlations of fewer than {FEW_CHECKPOINTS} are rough")
    found = {task: {which: correlations(points, task, which) for which in LAYERS} for task in options.tasks}
    return {"about": head, "points": points, "correlations": found, "notes": notes}


def about_run(model: FrameReader | EmbeddingReader, inputs: ProbeInputs) -> dict[str, Any]:
    return {**about(model, inputs), "checkpoint": "checkpoints of a run"}


def scores(rows: Sequence[Mapping], options: ProbeOptions) -> dict[str, dict[str, Any]]:
    """Task -> the scores of the last and of the best layer, and which layer is best."""
    found = {}
    for task in options.tasks:
        best = best_row(rows, task, rows[-1]["kind"])
        assert best is not None
        found[task] = {LAST: rows[-1][task], BEST: best[task], "layer": best["index"]}
    return found


# ---- correlations ----------------------------------------------------------------------------------------------------


def correlations(points: Sequence[Mapping], task: str, which: str) -> dict[str, dict[str, float | None]]:
    """Pearson's and Spearman's correlation of loss and score, with bootstrap intervals over checkpoints.

    Samples of checkpoints in which all losses or all scores are equal are left out. None: not defined.
    """
    pairs = np.array([(point["loss"], point[task][which]) for point in points])  # (n, 2)
    samples = pairs[np.random.default_rng(SEED).integers(0, len(pairs), (RESAMPLES, len(pairs)))]  # (RESAMPLES, n, 2)
    tail = 50 * (1 - CONFIDENCE)
    found: dict[str, dict[str, float | None]] = {}
    for name in MEASURES:
        (value,), drawn = correlation(pairs[None], name), correlation(samples, name)
        defined = drawn[np.isfinite(drawn)]
        low, high = np.percentile(defined, [tail, 100 - tail]).tolist() if len(defined) else (None, None)
        found[name] = {"value": float(value) if np.isfinite(value) else None, "low": low, "high": high}
    return found


def correlation(pairs: np.ndarray, name: str) -> np.ndarray:
    """Of the two columns of each sample (samples, n, 2): (samples,), NaN if one of them is constant."""
    from scipy.stats import rankdata

    if name == "spearman":
        pairs = rankdata(pairs, axis=1)
    constant = (pairs == pairs[:, :1]).all(axis=1).any(axis=1)
    x, y = np.moveaxis(pairs - pairs.mean(axis=1, keepdims=True), -1, 0)  # (samples, n) each
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (x * y).sum(axis=1) / np.sqrt(np.square(x).sum(axis=1) * np.square(y).sum(axis=1))
    return np.where(constant, np.nan, found.clip(-1, 1))


# ---- output ----------------------------------------------------------------------------------------------------------


def text_of_run(found: Mapping[str, Any]) -> str:
    tasks = found["about"]["tasks"]
    columns = [
        Column("checkpoint", "checkpoint"),
        Column("updates", "updates", "d"),
        Column("loss", "valid loss", ".4f"),
    ]
    lines = []
    for point in found["points"]:
        lines.append({**point, **{f"{task} {which}": point[task][which] for task in tasks for which in LAYERS}})
    columns += [Column(f"{task} {which}", f"{task} {which}", ".3f") for task in tasks for which in LAYERS]
    table = []
    for task in tasks:
        for which, layer in LAYERS.items():
            cells = {name: text_of_correlation(found["correlations"][task][which][name]) for name in MEASURES}
            table.append({"task": task, "unit": unit_of(task), "layer": layer, **cells})
    heads = [Column("task", "probe of"), Column("unit", "score"), Column("layer", "of"), Column("pearson", "Pearson r")]
    explanation = "correlation of validation loss and score; negative: a lower loss goes with a better probe"
    return "\n\n".join(
        [
            describe_speech(found["about"]),
            format_table(lines, columns),
            explanation + "\n" + format_table(table, [*heads, Column("spearman", "Spearman rho")]),
        ]
    )


def text_of_correlation(figures: Mapping[str, float | None]) -> str:
    value, low, high = figures["value"], figures["low"], figures["high"]
    if value is None:
        return "not defined"
    return f"{value:+.2f}" + ("" if low is None else f" ({low:+.2f} to {high:+.2f})")


def write_run(out: Path, found: Mapping[str, Any]) -> list[Path]:
    """``loss_probes.json`` and ``loss_probes.png`` in a folder."""
    write_files(out, {"loss_probes.json": [json.dumps(found, indent=1)]})
    tasks = found["about"]["tasks"]
    titles = {}
    for task in tasks:
        values = [found["correlations"][task][which]["pearson"]["value"] for which in LAYERS]
        shown = " and ".join("-" if value is None else f"{value:+.2f}" for value in values)
        titles[task] = f"{task}: Pearson r {shown}"
    units = {task: unit_of(task) for task in tasks}
    title = "Validation loss and probes over the checkpoints of a run"
    picture = plot_loss_probes(found["points"], units, titles, out / "loss_probes.png", title)
    return [out / "loss_probes.json", picture]
