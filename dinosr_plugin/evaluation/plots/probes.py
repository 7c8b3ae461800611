"""Scores of probes over the layers of a model, with intervals and baselines; and scores over the validation loss."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from . import style
from .layers import LEVELS, LINES
from .style import BLUE, GREEN, GREY, VERMILION

COLUMNS = 3  # of panels
CONTROL: dict[str, Any] = dict(
    color=VERMILION, linewidth=1.0, marker="x", markersize=4, label="trained model, probe of shuffled labels"
)
WEIGHTED: dict[str, Any] = dict(color=GREEN, linestyle=(0, (6, 2, 1, 2)), label="weighted sum of layers")
RUN_WIDTH, RUN_HEIGHT, LEAST_WIDTH = 2.4, 2.1, 6.0  # inches, of a panel of ``plot_loss_probes``, and of all columns
NAME_WIDTH = 26  # characters of the name of a run in a line


class Series(NamedTuple):
    """How ``plot_loss_probes`` draws the scores of the last or of the best layer."""

    label: str
    marker: str
    size: float
    filled: bool
    line: str


SERIES = {  # key of a point -> style
    "last": Series("last layer", "o", 18, True, "-"),
    "best": Series("best layer", "^", 46, False, ":"),
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


def plot_loss_probes(runs: Sequence[Mapping], units: Mapping[str, str], path: str | Path, title: str) -> Path:
    """A row for each task and a column for each run: scores over the validation loss, a point for each checkpoint.

    The axes of each panel are its own: losses of runs cannot be compared, and a common scale of the scores would hide
    how small ones change.

    Args:
        runs: ``{"name", "points", "correlations"}`` of ``probes.checkpoints.probe_runs``.
        units: task -> what its score is.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    width = max(RUN_WIDTH * len(runs), LEAST_WIDTH)
    figure = style.figure(width + 1.4, 1.2 + RUN_HEIGHT * len(units))
    figure.suptitle(title, fontsize=12)
    grid = figure.subplots(len(units), len(runs), squeeze=False)
    updates = [point["updates"] for run in runs for point in run["points"]]
    colours = ScalarMappable(Normalize(min(updates), max(updates)), ListedColormap(style.ordered_colours(256)))
    for row, (task, unit) in zip(grid, units.items()):
        for axes, run in zip(row, runs):
            draw_run(axes, run["points"], task, colours)
            axes.set_title(title_of_panel(run["correlations"][task]), fontsize=9)
        row[0].set_ylabel(f"{task}: {unit}")
    for axes, run in zip(grid[0], runs):
        if len(runs) > 1:
            axes.set_title(f"{textwrap.fill(run['name'], NAME_WIDTH)}\n{axes.get_title()}", fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("validation loss", fontsize=9)
    figure.colorbar(colours, ax=grid, label="updates", fraction=0.4 / width, pad=0.1 / width, aspect=40)
    draw_legend(figure, grid.flat[:1])
    return style.save(figure, path)


def draw_run(axes, points: Sequence[Mapping], task: str, colours) -> None:
    """Draw the points of a panel, joined in the order of updates, which give their colours."""
    losses = [point["loss"] for point in points]
    rgba = colours.to_rgba([point["updates"] for point in points])  # (n, 4)
    for key, series in SERIES.items():
        scores = [point[task][key] for point in points]
        axes.plot(losses, scores, color=GREY, linewidth=0.8, linestyle=series.line, zorder=1)
        faces = rgba if series.filled else "none"
        options = {"marker": series.marker, "facecolors": faces, "edgecolors": rgba, "label": series.label}
        axes.scatter(losses, scores, series.size, **options)
    axes.tick_params(labelsize=8)
    axes.locator_params(nbins=4)
    axes.ticklabel_format(useOffset=False)
    axes.margins(0.12)
    axes.spines[["top", "right"]].set_visible(False)


def title_of_panel(of_task: Mapping[str, Mapping]) -> str:
    """Pearson's correlations of the last and of the best layer; a dash for one that is not defined."""
    values = [of_task[key]["pearson"]["value"] for key in SERIES]
    last, best = ("-" if value is None else f"{value:+.2f}" for value in values)
    return f"r {last} (last), {best} (best)"


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
