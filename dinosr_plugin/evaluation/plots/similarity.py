"""A heat map of a similarity, with its values."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from . import style

CELL = 0.52  # inches
MOST_WITH_VALUES = 26  # rows or columns; in larger maps the values cannot be read


def plot_similarity(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    row_kinds: Sequence[str],
    column_kinds: Sequence[str],
    title: str,
    path: str | Path,
) -> Path:
    """Draw values (rows, columns) from 0 to 1, with lines between kinds of models; values below 0 are drawn as 0.

    Colours are those of cividis, which people with colour-vision deficiencies see as others do.
    """
    labels = 0.09 * max(map(len, [*rows, *columns]))  # inches
    figure = style.figure(2.2 + CELL * len(columns) + labels, 1.2 + CELL * len(rows) + labels)
    axes = figure.subplots()
    image = axes.imshow(values, cmap="cividis", vmin=0, vmax=1)
    if max(values.shape) <= MOST_WITH_VALUES:
        for (i, j), value in np.ndenumerate(values):
            if not np.isnan(value):
                colour = "white" if value < 0.55 else "black"
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.set_yticks(range(len(rows)), rows)
    for j in borders(column_kinds):
        axes.axvline(j, color="white", linewidth=2.5)
    for i in borders(row_kinds):
        axes.axhline(i, color="white", linewidth=2.5)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(title, fontsize=11)
    figure.colorbar(image, ax=axes, shrink=0.8)
    return style.save(figure, path)


def borders(kinds: Sequence[str]) -> list[float]:
    """Between which rows or columns the kind changes."""
    return [i + 0.5 for i, (before, after) in enumerate(pairwise(kinds)) if before != after]
