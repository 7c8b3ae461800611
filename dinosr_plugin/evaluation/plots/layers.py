"""A measure over the layers of a model, with its own units at the layers they belong to, and baselines."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import style
from .style import BLACK, BLUE, BROWN, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION

# kind of row -> style of its line over the layers
LINES: dict[str, dict[str, Any]] = {
    "layer": dict(color=BLUE, marker="o", label="layers of the trained model"),
    "untrained": dict(
        color=GREY, marker="o", markerfacecolor="white", linestyle=(0, (5, 2)), label="layers of the untrained model"
    ),
}
# of the sets of codes, in their order; they are shifted sideways so that none covers another
CODES: tuple[dict[str, Any], ...] = (
    dict(shift=-0.12, color=ORANGE, marker="s"),
    dict(shift=0.12, color=VERMILION, marker="^"),
    dict(shift=-0.24, color=PURPLE, marker="v"),
)
# of the outputs, in their order
OUTPUTS: tuple[dict[str, Any], ...] = (
    dict(shift=0.24, color=GREEN, marker="D"),
    dict(shift=0.36, color=SKY, marker="P"),
)
# kind of row -> style of its horizontal line
LEVELS: dict[str, dict[str, Any]] = {
    "mfcc": dict(color=BLACK, linestyle=(0, (6, 2)), label="MFCC"),
    "fbank": dict(color=BROWN, linestyle=(0, (1, 1.5)), label="log-Mel"),
}


def plot_by_layer(
    rows: Sequence[Mapping],
    key: str,
    layers: int,
    code_sets: Mapping[str, Mapping[str, Any]],
    path: str | Path,
    title: str,
    unit: str,
) -> Path | None:
    """Plot one column of the rows of ``Comparison.rows`` over the model's ``layers``; None if no row has a value.

    ``code_sets``: name -> ``{"title": str, "layers": the layer of each codebook}``. Outputs are drawn at the last
    layer.
    """
    figure, axes = style.small_panel()
    rows_of = {
        kind: [row for row in rows if row["kind"] == kind and row.get(key) is not None]
        for kind in (*LINES, *code_sets, "output", *LEVELS)
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
    for (kind, codes), options in zip(code_sets.items(), CODES):
        if rows_of[kind]:
            at = [codes["layers"][row["index"]] for row in rows_of[kind]]
            draw_points(axes, at, [row[key] for row in rows_of[kind]], codes["title"], **options)
    for row, options in zip(rows_of["output"], OUTPUTS):
        draw_points(axes, [layers - 1], [row[key]], row["name"], **options)
    style.label(axes, title, "layer (0 = first after the front end)", unit)
    axes.set_xticks(range(layers))
    axes.set_xlim(-0.4, layers - 0.6)
    axes.margins(y=0.12)
    style.legend_below(axes)
    return style.save(figure, path)


def draw_points(axes, layers: Sequence[int], values: Sequence[float], label: str, shift: float, **options) -> None:
    axes.scatter([layer + shift for layer in layers], values, s=34, zorder=3, label=label, **options)
