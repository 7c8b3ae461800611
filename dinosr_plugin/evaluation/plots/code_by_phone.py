"""How codes relate to phones: P(phone | code) as a heat map."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..phones import class_order, phone_class
from . import style


def plot_code_by_phone(counts: np.ndarray, phone_names: Sequence[str], path: str | Path, title: str) -> Path:
    """Heat map of P(phone | code): a column for each code that occurs, by most frequent phone; a row for each phone.

    Args:
        counts: (n_phones, n_codes) frame counts, as from ``units.counts.contingency``.
        phone_names: (n_phones,) names of the rows.
        path: file to write (png, pdf or svg, by suffix); returned.
    """
    figure = style.figure(width=11, height=7.5)
    draw_code_by_phone(figure.subplots(), counts, phone_names, title)
    return style.save(figure, path)


def code_order(counts: np.ndarray, row_order: np.ndarray) -> np.ndarray:
    """Codes that occur, sorted by their majority phone's position in ``row_order``, then by purity, the purest first.

    If two phones are equally frequent, the one that comes first in ``row_order`` is the majority phone.
    """
    ordered = counts[row_order]  # (n_phones, n_codes)
    used = np.flatnonzero(ordered.sum(axis=0))
    majority = ordered[:, used].argmax(axis=0)  # (n_used,)
    purity = ordered[:, used].max(axis=0) / ordered[:, used].sum(axis=0)
    return used[np.lexsort((-purity, majority))]


def draw_code_by_phone(axes, counts: np.ndarray, phone_names: Sequence[str], title: str) -> None:
    from matplotlib.colors import PowerNorm

    counts = np.asarray(counts)
    rows = class_order(phone_names)
    columns = code_order(counts, rows)
    table = counts[np.ix_(rows, columns)]  # (n_phones, n_used), rows and columns sorted
    share = table / np.maximum(table.sum(axis=0), 1)  # P(phone | code); if no code occurs, the table is empty
    # the exponent makes small shares, such as confusions within a class, easier to see
    image = axes.imshow(share, aspect="auto", interpolation="nearest", cmap="magma_r", norm=PowerNorm(0.7, 0, 1))
    bar = axes.figure.colorbar(image, ax=axes, pad=0.01, ticks=(0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0))
    bar.set_label("P(phone | code): share of the code's frames")
    style.label(
        axes,
        f"{title}\n{len(columns)} of {counts.shape[1]} codes are used; columns sorted by their most frequent phone",
        "codes (one per column), grouped by the class of their most frequent phone",
        "phones, grouped by class",
    )
    axes.set_yticks(range(len(rows)), [phone_names[i] for i in rows], fontsize=8)
    axes.set_xticks([])
    classes = [phone_class(phone_names[i]) for i in rows]
    _draw_class_grid(axes, classes, [classes[row] for row in table.argmax(axis=0)] if len(columns) else [])


def _draw_class_grid(axes, row_classes: list[str], column_classes: list[str]) -> None:
    """Draw lines between classes and the names of the column groups below the axis; long names go on extra lines."""
    for start, _, _ in _runs(row_classes)[1:]:
        axes.axhline(start - 0.5, color="0.45", linewidth=0.8)
    line = 0
    for start, end, name in _runs(column_classes):
        axes.axvline(start - 0.5, color="0.45", linewidth=0.8)
        narrow = end - start < 0.008 * len(name) * len(column_classes)  # a letter takes about 0.8 % of the width
        line = (2 if line == 1 else 1) if narrow else 0  # adjacent narrow groups alternate between two lines
        place = dict(xy=((start + end - 1) / 2, 0), xycoords=("data", "axes fraction"), textcoords="offset points")
        arrow = dict(arrowstyle="-", color="0.45", linewidth=0.8) if narrow else None
        axes.annotate(name, xytext=(0, -4 - 11 * line), ha="center", va="top", fontsize=8, arrowprops=arrow, **place)
    axes.xaxis.labelpad = 36


def _runs(labels: list[str]) -> list[tuple[int, int, str]]:
    """Runs of equal neighbours as (start, end, label)."""
    edges = [i for i in range(len(labels)) if i == 0 or labels[i] != labels[i - 1]] + [len(labels)]
    return [(start, end, labels[start]) for start, end in zip(edges, edges[1:])]
