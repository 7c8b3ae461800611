"""What all pictures share: colours, figures without a window, and files that appear only when complete.

Colours are those of Okabe and Ito for categories, viridis for ordered sets and magma for shares; all can be
distinguished with the common colour-vision deficiencies. matplotlib is imported late, because most commands draw
nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ...errors import escaped, printable
from ...files import output
from ..phones import OTHER, PHONE_CLASSES, phone_class

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
# brown and black instead of Okabe and Ito's yellow, which is hard to see on white
GREY, BLACK, BROWN = "#A0A0A0", "#000000", "#8C5109"
CATEGORY_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE)
GROUP_COLOURS = (BLUE, SKY, GREEN, BLACK, VERMILION, ORANGE, PURPLE, GREY)  # one for each phone class
BASELINE_COLOURS = (BLACK, BROWN, "#6E6E6E", PURPLE)
BASELINE_DASHES = ((0, (6, 2)), (0, (6, 2, 1, 2)), (0, (1, 1.5)), (0, (3, 1)))


def figure(width: float, height: float):
    """A figure outside pyplot: Agg canvas, no window, no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure, path: str | Path) -> Path:
    """Write a picture, in which all text is literal: no TeX between dollar signs, control characters as escapes.

    It is PDF or SVG if the name ends in ``.pdf`` or ``.svg``, otherwise PNG.

    Raises UserError if it cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.axis import Axis
    from matplotlib.text import Text

    path = Path(path)
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_text(escaped(text.get_text()))
    for axis in figure.findobj(Axis):
        formatter = axis.get_major_formatter()
        formatter.format_ticks = partial(printable_ticks, formatter.format_ticks)
    with rc_context({"text.parse_math": False}), output(path) as unfinished:  # ticks are made while it is drawn
        figure.savefig(unfinished, dpi=120, format=path.suffix[1:] if path.suffix in (".pdf", ".svg") else "png")
    return path


def printable_ticks(format_ticks: Callable[[Sequence[float]], list[str]], values: Sequence[float]) -> list[str]:
    return [printable(text) for text in format_ticks(values)]


def label(axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.locator_params(axis="x", nbins=6)


def mark_not_measured(axes, title: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.text(0.5, 0.5, "not measured", ha="center", va="center", color="0.5", transform=axes.transAxes)
    axes.set_axis_off()


def baseline_lines(axes, baselines: Mapping[str, Mapping], key: str) -> list:
    """Draw horizontal lines that differ in colour and dashes; returns them for a legend."""
    styles = zip(baselines.items(), BASELINE_COLOURS, BASELINE_DASHES)
    return [
        axes.axhline(quality[key], color=colour, linestyle=dashes, linewidth=1.3, label=f"{name} ({quality[key]:.2f})")
        for (name, quality), colour, dashes in styles
    ]


def ordered_colours(n: int) -> np.ndarray:
    """(n, 4) colours from dark, for the first (lowest) layer, to light; the palest part of viridis is not used."""
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0.05, 0.88, n))


def phone_groups(names: Sequence[str], counts: np.ndarray) -> list[str]:
    """Colour group of each phone: its class. If no phone is ARPABET, each of the most frequent phones is a group.

    Args:
        names: (n_phones,)
        counts: (n_phones,) frames of each.
    """
    classes = [phone_class(name) for name in names]
    if set(classes) != {OTHER}:
        return classes
    frequent = {names[i] for i in np.argsort(-np.asarray(counts), kind="stable")[: len(GROUP_COLOURS)]}
    return [name if name in frequent else OTHER for name in names]


def group_colours(groups: Sequence[str]) -> dict[str, str]:
    """Colour of each group that occurs, in the order of the legend; "other" comes last and is brown."""
    known = list(PHONE_CLASSES) if set(groups) & set(PHONE_CLASSES) else sorted(set(groups) - {OTHER})
    colours = dict(zip([*known, OTHER], [*GROUP_COLOURS[: len(known)], BROWN]))
    return {group: colour for group, colour in colours.items() if group in groups}


def small_panel():
    """(figure, axes) of a picture that fits next to another one on a page, and alone on a phone's screen."""
    one = figure(width=6, height=4.4)
    return one, one.subplots()


def legend_below(axes, columns: int = 2, gap: float = 0.16, **options) -> None:
    """Draw the legend below the axes, where it covers nothing; ``gap``: distance as a share of the axes' height."""
    options = {"columnspacing": 1.0, **options}
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -gap), ncols=columns, fontsize=9, frameon=False, **options)


def text_colour(background: str) -> str:
    """Black or white, whichever is easier to read on the background."""
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(background)
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "black"
