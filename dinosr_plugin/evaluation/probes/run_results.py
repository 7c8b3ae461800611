"""Validation loss against probes (``checkpoints``): what is printed and written."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...files import write_files
from ..plots.probes import plot_loss_probes
from ..table import Column, csv_lines, format_table
from .checkpoints import AGAINST, LAYERS, MEASURES, WITH
from .results import describe_speech, unit_of

CORRELATIONS = (
    Column("task", "probe of"),
    Column("unit", "score"),
    Column("layer", "of"),
    Column("pearson", "Pearson r"),
    Column("spearman", "Spearman rho"),
)
MEANING = "correlation of validation loss and score; negative: a lower loss goes with a better probe"
NOT_POOLED = (
    "A lower loss goes with a better probe: with, the 95 % interval of Pearson's r over the checkpoints of the run is "
    "below 0;\nagainst, it is above 0; unclear, neither. Losses of different runs are not compared, and never pooled."
)

# ---- text ------------------------------------------------------------------------------------------------------------


def text_of_runs(found: Mapping[str, Any]) -> str:
    """What the command prints: of every run its checkpoints and correlations; of several also how they agree."""
    tasks, runs = found["about"]["tasks"], found["runs"]
    parts = [describe_speech(found["about"])]
    for run in runs:
        title = f"== {run['name']}\n" if len(runs) > 1 else ""
        parts += [title + table_of_points(run["points"], tasks), MEANING + "\n" + table_of_correlations(run, tasks)]
    if len(runs) > 1:
        parts += ["== all runs\n" + NOT_POOLED, *(table_of_runs(found, task) for task in tasks)]
        parts.append("\n".join(answer(task, found["directions"][task]) for task in tasks))
    return "\n\n".join(parts)


def table_of_points(points: Sequence[Mapping], tasks: Sequence[str]) -> str:
    scores = [(task, which) for task in tasks for which in LAYERS]
    rows = [{**point, **{f"{task} {which}": point[task][which] for task, which in scores}} for point in points]
    columns = [
        Column("checkpoint", "checkpoint"),
        Column("updates", "updates", "d"),
        Column("loss", "valid loss", ".4f"),
        *(Column(f"{task} {which}", f"{task} {which}", ".3f") for task, which in scores),
    ]
    return format_table(rows, columns)


def table_of_correlations(run: Mapping[str, Any], tasks: Sequence[str]) -> str:
    rows = []
    for task in tasks:
        for which, layer in LAYERS.items():
            cells = {name: text_of_correlation(run["correlations"][task][which][name]) for name in MEASURES}
            rows.append({"task": task, "unit": unit_of(task), "layer": layer, **cells})
    return format_table(rows, CORRELATIONS)


def text_of_correlation(figures: Mapping[str, float | None]) -> str:
    value, low, high = figures["value"], figures["low"], figures["high"]
    if value is None:
        return "not defined"
    return f"{value:+.2f}" + ("" if low is None else f" ({low:+.2f} to {high:+.2f})")


def table_of_runs(found: Mapping[str, Any], task: str) -> str:
    """A row for each run: Pearson's correlation and its direction, of the last and of the best layer."""
    rows = []
    for run in found["runs"]:
        row = {"run": run["name"], "checkpoints": len(run["points"])}
        for which in LAYERS:
            row[which] = text_of_correlation(run["correlations"][task][which]["pearson"])
            row[f"{which} direction"] = found["directions"][task][which][run["name"]]
        rows.append(row)
    columns = [Column("run", task), Column("checkpoints", "checkpoints", "d")]
    for which, layer in LAYERS.items():
        columns += [Column(which, f"r, {layer}"), Column(f"{which} direction", "lower loss")]
    return format_table(rows, columns)


def answer(task: str, of_layers: Mapping[str, Mapping[str, str]]) -> str:
    """In how many runs the loss goes with the probe. ``of_layers``: last and best layer -> run -> direction."""
    parts: list[str] = []
    for which, layer in LAYERS.items():
        counts = Counter(of_layers[which].values())
        total = f" of {counts.total()} runs" if not parts else ""
        parts.append(f"in {counts[WITH]}{total}, against it in {counts[AGAINST]} ({layer})")
    return f"{task}: the loss goes with the probe {'; '.join(parts)}"


# ---- files -----------------------------------------------------------------------------------------------------------


def write_runs(out: Path, found: Mapping[str, Any]) -> list[Path]:
    """``loss_probes.json``, ``loss_probes.csv`` and ``loss_probes.png`` in a folder."""
    tasks = found["about"]["tasks"]
    rows = [flat(run["name"], point, tasks) for run in found["runs"] for point in run["points"]]
    texts = {"loss_probes.json": [json.dumps(found, indent=1)], "loss_probes.csv": csv_lines(rows, list(rows[0]))}
    write_files(out, texts)
    title = "Validation loss and probes; r: Pearson's correlation over checkpoints"
    picture = plot_loss_probes(found["runs"], {task: unit_of(task) for task in tasks}, out / "loss_probes.png", title)
    return [*(out / name for name in texts), picture]


def flat(run: str, point: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Any]:
    """A row of the CSV file; of each task the scores of the last and of the best layer, and which is the best."""
    head = {"run": run, **{key: point[key] for key in ("checkpoint", "updates", "loss")}}
    return head | {f"{task}_{key}": value for task in tasks for key, value in point[task].items()}
