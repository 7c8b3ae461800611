"""Scores of probes over the layers of a model, with intervals and baselines; and scores over the validation loss."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import style
from .layers import LEVELS, LINES
from .style import BLUE, GREEN, GREY, VERMILION

COLUMNS = 3  # of panels
CONTROL: dict[str, Any] = dict(
    color=VERMILION, linewidth=1.0, marker="x", markersize=4, label="trained model, probe of shuffled labels"
)
WEIGHTED: dict[str, Any] = dict(color=GREEN, linestyle=(0, (6, 2, 1, 2)), label="weighted sum of layers")
SERIES: dict[str, dict[str, Any]] = {  # key of a point -> style, in ``plot_loss_probes``
    "last": dict(color=BLUE, marker="o", label="last layer"),
    "best": dict(color=VERMILION, marker="^", markerfacecolor="white", label="best layer"),
}


def plot_probes(rows: Sequence[Mapping], units: Mapping[str, str], path: str | Path, title: str) -> Path:
    """A panel for each task: scores of the rows of ``probes.rows``.

    ``units``: task -> what its score is.
    """
    figure, panels = grid_of_panels(len(units), title)
    for axes, (task, unit) in zip(panels, units.items()):
        measured = [row for row in rows if row.get(task) is not None]
        draw_task(axes, measured, task)
        style.label(axes, task, "layer (0 = first after the front end)", unit)
        axes.set_ylim(*limits(measured, task))
    draw_legend(figure, panels)
    return style.save(figure, path)


def draw_task(axes, rows: Sequence[Mapping], task: str) -> None:
    of = {kind: [row for row in rows if row["kind"] == kind] for kind in (*LINES, *LEVELS, "weighted", "embedding")}
    for kind, options in {**LEVELS, "weighted": WEIGHTED}.items():
        for row in of[kind]:
            axes.axhline(row[task], linewidth=1.3, **options)
    for kind, options in LINES.items():
        if not of[kind]:
            continue
        x, y = [row["index"] for row in of[kind]], [row[task] for row in of[kind]]
        axes.plot(x, y, linewidth=1.4, markersize=4, **options)
        if all(row[f"{task}_low"] is not None for row in of[kind]):
            bounds = [[row[f"{task}_{side}"] for row in of[kind]] for side in ("low", "high")]
            axes.fill_between(x, *bounds, color=options["color"], alpha=0.15, linewidth=0)
    if of["layer"]:
        axes.plot([row["index"] for row in of["layer"]], [row[f"{task}_control"] for row in of["layer"]], **CONTROL)
        axes.set_xticks(range(len(of["layer"])))
    for row in of["embedding"]:
        ends = [(abs(row[task] - row[f"{task}_{side}"]),) for side in ("low", "high") if row[f"{task}_low"] is not None]
        axes.errorbar([0], [row[task]], ends or None, color=BLUE, marker="o", capsize=4, label="embedding")
        axes.axhline(row[f"{task}_control"], **CONTROL)
        axes.set_xticks([])


def plot_loss_probes(
    points: Sequence[Mapping], units: Mapping[str, str], titles: Mapping[str, str], path: str | Path, title: str
) -> Path:
    """A panel for each task: its score over the validation loss, a point for each checkpoint, joined in their order.

    Args:
        points: ``{"loss", "updates", task: {"last", "best"}}``, in order of updates.
        units: task -> what its score is; ``titles``: task -> title of its panel.
    """
    figure, panels = grid_of_panels(len(units), title)
    for axes, (task, unit) in zip(panels, units.items()):
        losses = [point["loss"] for point in points]
        for key, options in SERIES.items():
            values = [point[task][key] for point in points]
            axes.plot(losses, values, linewidth=0.8, markersize=5, **options)
        for point in (points[0], points[-1]):
            place = (point["loss"], point[task]["best"])
            axes.annotate(
                f"{point['updates']}", place, fontsize=8, color=GREY, xytext=(3, 4), textcoords="offset points"
            )
        style.label(axes, titles[task], "validation loss", unit)
        axes.margins(0.12)
    draw_legend(figure, panels)
    return style.save(figure, path)


def grid_of_panels(count: int, title: str):
    """(figure, ``count`` axes)."""
    columns = min(COLUMNS, count)
    lines = math.ceil(count / columns)
    figure = style.figure(width=max(6.5, 4.4 * columns), height=0.9 + 3.4 * lines)
    figure.suptitle(title, fontsize=14)
    every = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in every[count:]:
        axes.set_axis_off()
    return figure, every[:count]


def limits(rows: Sequence[Mapping], task: str) -> tuple[float, float]:
    """Of the vertical axis: all scores and controls, with room for an interval as long as their range.

    An interval of R² over few speakers can be so long that nothing else would be visible.
    """
    scores = [row[key] for row in rows for key in (task, f"{task}_control")]
    bounds = [row[f"{task}_{side}"] for row in rows for side in ("low", "high") if row[f"{task}_{side}"] is not None]
    room = max(max(scores) - min(scores), 0.05)
    low, high = max(min(scores + bounds), min(scores) - 0.5 * room), min(max(scores + bounds), max(scores) + 0.5 * room)
    return low - 0.08 * room, high + 0.08 * room


def draw_legend(figure, panels) -> None:
    """Each label of the panels once, below them."""
    handles: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    options = {
        "loc": "outside lower center",
        "ncols": min(3, 1 + len(panels)),
        "fontsize": 9,
        "frameon": False,
        "handlelength": 3.2,
    }
    figure.legend(list(handles.values()), list(handles), **options)
