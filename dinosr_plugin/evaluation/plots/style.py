"""What all pictures share: colours, a figure without a window, files that appear whole.

Colours are Okabe and Ito's for categories, viridis for an ordered set and magma for shares: all readable
with the common colour-vision deficiencies. matplotlib is imported late, since most commands draw nothing.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..phones import OTHER, PHONE_CLASSES, phone_class

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
GREY, BLACK, BROWN = (
    "#A0A0A0",
    "#000000",
    "#8C5109",
)  # brown and black in place of their yellow, which white paper swallows
CATEGORY_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE)
GROUP_COLOURS = (BLUE, SKY, GREEN, BLACK, VERMILION, ORANGE, PURPLE, GREY)  # as many as there are classes of phones
BASELINE_COLOURS = (BLACK, BROWN, "#6E6E6E", PURPLE)
BASELINE_DASHES = ((0, (6, 2)), (0, (6, 2, 1, 2)), (0, (1, 1.5)), (0, (3, 1)))


def figure(width: float, height: float):
    """A figure outside pyplot: Agg canvas, no window, no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure, path: str | Path) -> Path:
    """Write beside the target and rename: a reader never sees half a picture."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        figure.savefig(unfinished, dpi=120)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def label(axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.locator_params(axis="x", nbins=6)


def say_not_measured(axes, title: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.text(0.5, 0.5, "not measured", ha="center", va="center", color="0.5", transform=axes.transAxes)
    axes.set_axis_off()


def baseline_lines(axes, baselines: Mapping[str, Mapping], key: str) -> list:
    """Horizontal lines, each a shade and a dash of its own; returns them for a legend."""
    styles = zip(baselines.items(), BASELINE_COLOURS, BASELINE_DASHES)
    return [
        axes.axhline(quality[key], color=colour, linestyle=dashes, linewidth=1.3, label=f"{name} ({quality[key]:.2f})")
        for (name, quality), colour, dashes in styles
    ]


def ordered_colours(n: int) -> np.ndarray:
    """(n, 4), dark for the first (the lowest layer) to light for the last; the pale end of viridis is left out."""
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0.05, 0.88, n))


def phone_groups(names: Sequence[str], counts: np.ndarray) -> list[str]:
    """The group whose colour each phone gets: its class; where no phone is ARPABET the most frequent ones stand for themselves.

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
    """Colour of each group that occurs, in the order of a legend; "other" last and brown."""
    known = list(PHONE_CLASSES) if set(groups) & set(PHONE_CLASSES) else sorted(set(groups) - {OTHER})
    colours = dict(zip([*known, OTHER], [*GROUP_COLOURS[: len(known)], BROWN]))
    return {group: colour for group, colour in colours.items() if group in groups}


def small_panel():
    """(figure, axes) of a picture that fits beside another one on a page, and alone on a telephone."""
    one = figure(width=6, height=4.4)
    return one, one.subplots()


def legend_below(axes, columns: int = 2, gap: float = 0.16, **options) -> None:
    """Under the axes (``gap``: as a share of their height): it covers nothing, whatever the figures are."""
    options = {"columnspacing": 1.0, **options}
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -gap), ncols=columns, fontsize=9, frameon=False, **options)


def on(colour: str) -> str:
    """Black or white, whichever is easier to read on a colour."""
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(colour)
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "black"
