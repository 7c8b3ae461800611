"""Curves of one training run from its log: loss, accuracy, learning rate and codebook usage."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..training_log import curve, loss_curve
from . import style
from .style import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION

Records = Sequence[Mapping[str, float]]


def plot_loss(
    records: Records, path: str | Path, validation: Mapping[str, Sequence[tuple[int, float]]] | None = None
) -> Path:
    """The loss; with codes also their entropy, which is the loss of a prediction from code frequencies alone.

    ``validation``: name of each validation subset -> (update, loss), drawn beside it.
    """
    figure, axes = style.small_panel()
    unit = loss_unit(records)
    axes.plot(*zip(*loss_curve(records)), color=BLUE, label=f"training loss per {unit}")
    for (name, points), colour in zip((validation or {}).items(), (GREEN, ORANGE, PURPLE, SKY)):
        axes.plot(*zip(*points), color=colour, marker="o", markersize=2.5, label=f"validation loss: {name}")
    if entropy := curve(records, "target_entropy"):
        axes.plot(
            *zip(*entropy),
            color=VERMILION,
            linestyle=(0, (5, 2)),
            label="entropy of the codes (loss of a frequency-only prediction)",
        )
    style.label(axes, "Training loss", "updates", f"nats per {unit}")
    style.legend_below(axes, columns=1)
    return style.save(figure, path)


def loss_unit(records: Records) -> str:
    """What the log's loss is a mean over; see ``Output.unit``."""
    units = {"masked_frames": "masked frame", "anchors": "anchor"}
    return next((name for key, name in units.items() if curve(records, key)), "frame")


def plot_by_codebook(
    records: Records, key: str, path: str | Path, title: str, unit: str, size: int | None = None
) -> Path:
    """Values logged for each codebook (``key_0``, ``key_1`` ...), and their mean (``key``), over updates.

    Args:
        size: codes in a codebook, drawn as a line: the upper bound of the values. None: there is no such bound.
    """
    figure, axes = style.small_panel()
    curves = codebook_curves(records, key)
    for k, (one, colour) in enumerate(zip(curves, style.ordered_colours(len(curves)))):
        ends = {0: " (lowest layer)", len(curves) - 1: " (highest layer)"} if len(curves) > 1 else {}
        axes.plot(*zip(*one), color=colour, linewidth=1.2, label=f"codebook {k}{ends.get(k, '')}")
    if mean := curve(records, key):
        axes.plot(*zip(*mean), color=BLACK, linewidth=1.6, linestyle=(0, (1, 1)), label="mean")
    if size is not None:
        axes.axhline(size, color="0.5", linewidth=1, linestyle=(0, (6, 2)), label=f"all {size} codes")
    style.label(axes, title, "updates", unit)
    axes.set_ylim(0, None if size is None else 1.08 * size)
    style.legend_below(axes, columns=3)
    return style.save(figure, path)


def plot_learning_rate(records: Records, path: str | Path) -> Path:
    figure, axes = style.small_panel()
    axes.plot(*zip(*curve(records, "lr")), color=BLUE)
    style.label(axes, "Learning rate", "updates", "learning rate")
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    return style.save(figure, path)


def codebook_curves(records: Records, key: str) -> list[list[tuple[int, float]]]:
    """Curves of ``key_0``, ``key_1`` ... that the log contains."""
    curves: list[list[tuple[int, float]]] = []
    while points := curve(records, f"{key}_{len(curves)}"):
        curves.append(points)
    return curves
