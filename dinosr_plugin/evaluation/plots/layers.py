"""A measure over the layers of a model, with codebooks and heads at the layers they belong to, and baselines."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import style
from .style import BLACK, BLUE, BROWN, GREY, ORANGE, VERMILION

# kind of row -> style of its line over the layers
LINES: dict[str, dict[str, Any]] = {
    "layer": dict(color=BLUE, marker="o", label="layers of the trained model"),
    "untrained": dict(
        color=GREY, marker="o", markerfacecolor="white", linestyle=(0, (5, 2)), label="layers of the untrained model"
    ),
}
# kind of row -> style of its points; they are shifted sideways so that none covers another
POINTS: dict[str, dict[str, Any]] = {
    "teacher": dict(shift=-0.12, color=ORANGE, marker="s", label="codebooks (at the teacher's layer)"),
    "head": dict(shift=0.12, color=VERMILION, marker="^", label="student's heads (one per codebook)"),
}
# kind of row -> style of its horizontal line
LEVELS: dict[str, dict[str, Any]] = {
    "mfcc": dict(color=BLACK, linestyle=(0, (6, 2)), label="MFCC"),
    "fbank": dict(color=BROWN, linestyle=(0, (1, 1.5)), label="log-Mel"),
}


def plot_by_layer(
    rows: Sequence[Mapping], key: str, layers: int, path: str | Path, title: str, unit: str
) -> Path | None:
    """Plot one column of the rows of ``Comparison.rows`` over the model's ``layers``; None if no row has a value.

    Codebook k of K is drawn at layer ``layers`` - K + k, whose teacher output it clusters.
    """
    figure, axes = style.small_panel()
    rows_of = {
        kind: [row for row in rows if row["kind"] == kind and row.get(key) is not None]
        for kind in (*LINES, *POINTS, *LEVELS)
    }
    if not any(rows_of.values()):
        return None
    for kind, options in LEVELS.items():
        for row in rows_of[kind]:
            axes.axhline(row[key], linewidth=1.3, **options)
    for kind, options in LINES.items():
        if rows_of[kind]:
            x, y = [row["index"] for row in rows_of[kind]], [row[key] for row in rows_of[kind]]
            axes.plot(x, y, linewidth=1.4, markersize=5, **options)
    for kind, options in POINTS.items():
        if rows_of[kind]:
            lowest = layers - sum(row["kind"] == kind for row in rows)
            marker = {name: value for name, value in options.items() if name != "shift"}
            x = [lowest + row["index"] + options["shift"] for row in rows_of[kind]]
            axes.scatter(x, [row[key] for row in rows_of[kind]], s=34, zorder=3, **marker)
    style.label(axes, title, "layer (0 = first after the front end)", unit)
    axes.set_xticks(range(layers))
    axes.set_xlim(-0.4, layers - 0.6)
    axes.margins(y=0.12)
    style.legend_below(axes)
    return style.save(figure, path)
