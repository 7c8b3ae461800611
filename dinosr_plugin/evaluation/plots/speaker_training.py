"""Curves of a training of speaker embeddings over its epochs: its pseudo-labels, and speaker verification."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from . import style
from .style import BLUE, GREEN, GREY, VERMILION

Rows = Sequence[Mapping]


def plot_clusters(rows: Rows, path: str | Path) -> Path:
    """Clusters in use. rows: of ``label_history.measure_labels``, as those of the next three pictures."""
    figure, axes = style.small_panel()
    draw(axes, rows, "clusters", BLUE, "clusters in use")
    speakers = rows[0]["speakers"]
    axes.axhline(speakers, color=GREY, linewidth=1.3, linestyle=(0, (6, 2)), label=f"speakers ({speakers})")
    finish(axes, "Clusters in use", "number of clusters")
    axes.set_ylim(0, 1.08 * max(speakers, *(row["clusters"] for row in rows)))
    return style.save(figure, path)


def plot_agreement(rows: Rows, path: str | Path) -> Path:
    """NMI, accuracy and purity."""
    figure, axes = style.small_panel()
    draw(axes, rows, "nmi", BLUE, "NMI")
    draw(axes, rows, "accuracy", VERMILION, "accuracy", "s", (0, (5, 2)))
    draw(axes, rows, "purity", GREEN, "purity", "^", (0, (1, 1.5)))
    finish(axes, "Agreement of the labels with the speakers", "share; 1 is best", columns=3)
    return style.save(figure, path)


def plot_changes(rows: Rows, path: str | Path) -> Path | None:
    """Share of changed labels; None if no two epochs follow each other."""
    return plot_one(rows, "labels_changed", path, "Changed labels", "share of the recordings (%)", scale=100)


def plot_weights(rows: Rows, path: str | Path) -> Path | None:
    """Mean weight of the recordings; None if it is not known of any epoch."""
    return plot_one(rows, "mean_weight", path, "Weight of the recordings in the loss", "mean weight")


def plot_one(rows: Rows, key: str, path: str | Path, title: str, unit: str, scale: float = 1) -> Path | None:
    if all(row[key] is None for row in rows):
        return None
    figure, axes = style.small_panel()
    draw(axes, rows, key, BLUE, "", scale=scale)
    finish(axes, title, unit, columns=0)
    axes.set_ylim(bottom=0)
    return style.save(figure, path)


def plot_eer(rows: Rows, path: str | Path) -> Path:
    """EER with its intervals. rows: of ``epochs.measure_epochs``, as those of the next picture."""
    figure, axes = style.small_panel()
    draw(axes, rows, "eer", BLUE, "EER", scale=100)
    draw_band(axes, rows, "eer", BLUE, scale=100)
    finish(axes, "Equal error rate", "EER (%)")
    axes.set_ylim(bottom=0)
    return style.save(figure, path)


def plot_min_dcf(rows: Rows, path: str | Path) -> Path:
    figure, axes = style.small_panel()
    draw(axes, rows, "min_dcf_0.01", BLUE, "minDCF(0.01)")
    draw_band(axes, rows, "min_dcf_0.01", BLUE)
    draw(axes, rows, "min_dcf_0.05", VERMILION, "minDCF(0.05)", "s", (0, (5, 2)))
    draw_band(axes, rows, "min_dcf_0.05", VERMILION)
    finish(axes, "Minimum detection cost", "minDCF")
    axes.set_ylim(bottom=0)
    return style.save(figure, path)


def draw(axes, rows: Rows, key: str, colour: str, label: str, marker: str = "o", dashes="-", scale: float = 1) -> None:
    """A curve of the rows that have a value; nothing if none has."""
    points = [(row["epoch"], scale * row[key]) for row in rows if row.get(key) is not None]
    if points:
        line = dict(color=colour, linestyle=dashes, linewidth=1.5, marker=marker, markersize=3.5)
        axes.plot(*zip(*points), label=label, **line)


def draw_band(axes, rows: Rows, key: str, colour: str, scale: float = 1) -> None:
    """From the lower to the upper bound of the intervals."""
    bounds = [(row["epoch"], *row["intervals"][key]) for row in rows if key in row["intervals"]]
    if bounds:
        epochs, low, high = np.array(bounds).T
        axes.fill_between(epochs, scale * low, scale * high, color=colour, alpha=0.2, linewidth=0)


def finish(axes, title: str, unit: str, columns: int = 2) -> None:
    """``columns``: of the legend; 0: without one."""
    style.label(axes, title, "epoch", unit)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if columns:
        style.legend_below(axes, columns)
