"""Validation loss against probes: over the checkpoints of a run, does a lower loss go with better probes?

Chung, Belinkov and Glass (ICASSP 2021) ask it of several objectives, and find that it does for some. Losses of
different objectives, or with other targets, cannot be compared: each run has a correlation of its own, and losses of
several runs are never pooled.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...checkpoints.file import read_fairseq_checkpoint
from ...checkpoints.load import updates_of
from ...checkpoints.opening import open_model
from ...errors import UserError
from ...files import require_folder, scan
from ...units.features import default_device
from ..layers import MAX_BYTES
from ..measures.verification import CONFIDENCE
from ..model_rows import SEED
from ..similarity.opening import model_names
from ..table import best_row
from ..training_log import loss_curve, read_training_log
from .inputs import ProbeOptions
from .results import about, measure_model, read_for, require_tasks, workspace

MIN_CHECKPOINTS, FEW_CHECKPOINTS = 4, 8
RESAMPLES = 1000
MEASURES = ("pearson", "spearman")
LAST, BEST = "last", "best"
LAYERS = {LAST: "last layer", BEST: "best layer"}
WITH, AGAINST, UNCLEAR = "with", "against", "unclear"  # directions: which probes go with a lower loss


class Checkpoint(NamedTuple):
    """A file, its number of updates, and the validation loss there."""

    path: Path
    updates: int
    loss: float


class Run(NamedTuple):
    """A training: ``name`` in tables, its ``folder``, and at least ``MIN_CHECKPOINTS``, in order of updates."""

    name: str
    folder: Path
    checkpoints: Sequence[Checkpoint]

    @property
    def key(self) -> str:
        """Identifies the folder; unlike the name it does not depend on the other runs."""
        return hashlib.sha256(os.fsencode(self.folder.resolve())).hexdigest()[:16]


# ---- runs ------------------------------------------------------------------------------------------------------------


def open_runs(folders: Sequence[Path], log: Path | None = None, subset: str = "valid") -> list[Run]:
    """The runs in these folders, with the validation losses in their checkpoints, or of a single run in its ``log``.

    Raises UserError for a log of several runs, one without losses, a folder that is given twice, and as ``open_run``.
    """
    if log and len(folders) > 1:
        raise UserError(f"--log {log}: only used with one folder of --checkpoints, not {len(folders)}; remove it")
    for folder in folders:
        require_folder(folder, "give the checkpoint.save_dir of a training; a single checkpoint is given as CHECKPOINT")
    names = model_names([os.path.abspath(folder) for folder in folders])
    logged = {update: loss for update, loss in loss_curve(read_training_log(log, subset))} if log else {}
    if log and not logged:
        raise UserError(f"{log}: contains no loss of the subset {subset}; give its name with --valid-subset")
    return [open_run(name, folder, logged) for name, folder in zip(names, folders)]


def open_run(name: str, folder: Path, logged: Mapping[int, float]) -> Run:
    """Raises UserError for fewer than four checkpoints, one without validation loss, and as ``expand_checkpoints``."""
    files = expand_checkpoints(folder)
    if len(files) < MIN_CHECKPOINTS:
        raise UserError(
            f"{folder}: {len(files)} checkpoint(s) of different updates; at least {MIN_CHECKPOINTS} of a run are "
            "required (checkpoint.save_interval_updates, keep_interval_updates=-1); a single one is given as CHECKPOINT"
        )
    found = [Checkpoint(file, updates, validation_loss(file, updates, logged)) for updates, file in files.items()]
    return Run(name, folder, found)


def expand_checkpoints(folder: Path) -> dict[int, Path]:
    """Number of updates -> the first of its checkpoints ``*.pt`` in a folder, by name; in order of updates.

    Raises UserError for a folder without any, and as ``updates_of``.
    """
    files = sorted(Path(entry.path) for entry in scan(folder) if entry.name.endswith(".pt"))
    if not files:
        raise UserError(f"{folder}: contains no checkpoint (*.pt); give the checkpoint.save_dir of a training")
    by_updates: dict[int, Path] = {}
    for file in files:
        by_updates.setdefault(updates_of(file), file)
    return {updates: by_updates[updates] for updates in sorted(by_updates)}


def validation_loss(path: Path, updates: int, losses: Mapping[int, float]) -> float:
    """Of a checkpoint: that of the log at its update, or without a log (no ``losses``) what fairseq saved with it.

    Raises UserError if there is none, or if the run kept another figure than the loss.
    """
    if losses:
        if updates not in losses:
            raise UserError(f"{path}: the log has no validation loss at {updates} updates; omit it")
        return losses[updates]
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


# ---- measuring -------------------------------------------------------------------------------------------------------


def probe_runs(
    runs: Sequence[Run],
    options: ProbeOptions,
    out: Path | None = None,
    cache: str | Path | None = None,
    max_bytes: float = MAX_BYTES,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """``{"about", "runs", "directions", "notes"}`` of runs (``open_runs``).

    A run: ``{"name", "folder", "points", "correlations"}``. ``points``: ``{"checkpoint", "updates", "loss", task:
    {"last", "best", "layer"}}`` in order of updates; the best layer is chosen at each checkpoint. ``correlations``:
    task -> ``last`` and ``best`` -> measure -> value, low, high. ``directions``: task -> ``last`` and ``best`` -> name
    of the run -> ``direction`` of Pearson's correlation.

    ``say`` receives a line before each checkpoint.

    Raises UserError from all inputs, before anything is measured.
    """
    inputs = [read_for(open_model(run.checkpoints[0].path), options) for run in runs]
    found = []
    with workspace(out) as work:
        measure = partial(measure_model, cache=cache, max_bytes=max_bytes, baselines=False, tracks=work / "tracks")
        for i, (run, of_run) in enumerate(zip(runs, inputs), start=1):
            points = []
            for j, one in enumerate(run.checkpoints, start=1):
                say(f"run {i} of {len(runs)}, {run.name}: checkpoint {j} of {len(run.checkpoints)}, {one.path.name}")
                model = open_model(one.path, default_device())
                require_tasks(model, options.tasks)
                rows = measure(model, of_run, work / run.key / f"{one.updates}")
                head = {"checkpoint": one.path.name, "updates": one.updates, "loss": one.loss}
                points.append({**head, **scores(rows, options.tasks)})
            figures = {task: {which: correlations(points, task, which) for which in LAYERS} for task in options.tasks}
            found.append({"name": run.name, "folder": str(run.folder), "points": points, "correlations": figures})
        shutil.rmtree(work / "tracks", ignore_errors=True)
    return {
        "about": about("checkpoints of a run" if len(runs) == 1 else f"checkpoints of {len(runs)} runs", inputs[0]),
        "runs": found,
        "directions": directions(found, options.tasks),
        "notes": [*dict.fromkeys(note for of_run in inputs for note in of_run.notes), *notes_on(runs)],
    }


def notes_on(runs: Sequence[Run]) -> list[str]:
    return [
        f"{run.folder}: {len(run.checkpoints)} checkpoints: correlations of fewer than {FEW_CHECKPOINTS} are rough"
        for run in runs
        if len(run.checkpoints) < FEW_CHECKPOINTS
    ]


def scores(rows: Sequence[Mapping], tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Task -> the scores of the last and of the best layer, and which layer is best."""
    found = {}
    for task in tasks:
        best = best_row(rows, [rows[-1]["kind"]], task)
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


def direction(figures: Mapping[str, float | None]) -> str:
    """``with``: the interval of a correlation of loss and score is below 0, a lower loss goes with a better probe;
    ``against``: it is above 0; ``unclear``: neither, or not defined."""
    low, high = figures["low"], figures["high"]
    if low is None or high is None:
        return UNCLEAR
    return WITH if high < 0 else AGAINST if low > 0 else UNCLEAR


def directions(runs: Sequence[Mapping], tasks: Sequence[str]) -> dict[str, dict[str, dict[str, str]]]:
    """Task -> last and best layer -> name of the run -> direction of Pearson's correlation."""
    return {
        task: {
            which: {run["name"]: direction(run["correlations"][task][which]["pearson"]) for run in runs}
            for which in LAYERS
        }
        for task in tasks
    }
