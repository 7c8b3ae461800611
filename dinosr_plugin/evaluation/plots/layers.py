"""A figure over the layers of a model, with the codebooks and heads at the layers they belong to, and the baselines."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from . import style
from .style import BLACK, BLUE, BROWN, GREY, ORANGE, VERMILION

LINES = {  # kind of row -> how its line over the layers looks
    "layer": dict(color=BLUE, marker="o", label="layers of the trained model"),
    "untrained": dict(
        color=GREY, marker="o", markerfacecolor="white", linestyle=(0, (5, 2)), label="layers of the untrained model"
    ),
}
POINTS = {  # kind -> how its points look; beside the layer, so that none covers another
    "teacher": dict(shift=-0.12, color=ORANGE, marker="s", label="codebooks (at the teacher's layer)"),
    "head": dict(shift=0.12, color=VERMILION, marker="^", label="student's head for that codebook"),
}
LEVELS = {  # kind -> a horizontal line
    "mfcc": dict(color=BLACK, linestyle=(0, (6, 2)), label="MFCC"),
    "fbank": dict(color=BROWN, linestyle=(0, (1, 1.5)), label="log-Mel"),
}


def plot_by_layer(
    rows: Sequence[Mapping], key: str, layers: int, path: str | Path, title: str, unit: str
) -> Path | None:
    """One figure of all rows of ``comparison.compare`` over the model's ``layers``; None where no row has it.

    Codebook k of K stands at layer ``layers`` - K + k, whose teacher's output it clusters.
    """
    figure, axes = style.small_panel()
    of = {
        kind: [row for row in rows if row["kind"] == kind and row.get(key) is not None]
        for kind in (*LINES, *POINTS, *LEVELS)
    }
    if not any(of.values()):
        return None
    for kind, look in LEVELS.items():
        for row in of[kind]:
            axes.axhline(row[key], linewidth=1.3, **look)
    for kind, look in LINES.items():
        if of[kind]:
            axes.plot(
                [row["index"] for row in of[kind]], [row[key] for row in of[kind]], linewidth=1.4, markersize=5, **look
            )
    for kind, look in POINTS.items():
        if of[kind]:
            lowest = layers - sum(row["kind"] == kind for row in rows)
            where = [lowest + row["index"] + look["shift"] for row in of[kind]]
            axes.scatter(
                where,
                [row[key] for row in of[kind]],
                s=34,
                zorder=3,
                **{name: value for name, value in look.items() if name != "shift"},
            )
    style.label(axes, title, "layer (0: the first after the front end)", unit)
    axes.set_xticks(range(layers))
    axes.set_xlim(-0.4, layers - 0.6)
    axes.margins(y=0.12)
    style.legend_below(axes)
    return style.save(figure, path)
