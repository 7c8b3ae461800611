"""A 2-D map of frames, coloured by phone class and by speaker."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import style
from .style import BLACK, CATEGORY_COLOURS, GREY, SKY

MIN_NAME_DISTANCE = np.array([0.055, 0.03])  # shares of the map's width and height; closer names would overlap
MIN_RELATIVE_DENSITY = 0.6  # a name is placed only where the density is at least this share of the phone's maximum
MIN_FRAMES = 5  # phones with fewer frames get no name on the map
NEIGHBOURS = "axes have no units: only neighbourhoods are meaningful"
SPEAKER_MARKERS = tuple(zip((*CATEGORY_COLOURS, SKY, BLACK), "os^Dv<P"))  # colour and marker of each speaker


def plot_map_of_phones(
    points: np.ndarray, phones: np.ndarray, names: Sequence[str], groups: Sequence[str], path: str | Path, title: str
) -> Path:
    """Frames coloured by phone class, with the name of each phone where its frames are densest.

    Args:
        points: (N, 2); phones: (N,) indices into ``names``.
        groups: (n_phones,) group of each phone; see ``style.phone_groups``.
    """
    figure, axes = _map(title)
    group_of_frame = np.array(groups)[phones]  # (N,)
    for group, colour in style.group_colours(groups).items():
        axes.scatter(*points[group_of_frame == group].T, s=7, color=colour, linewidth=0, label=group)
    _name_phones(axes, points, phones, names)
    style.legend_below(axes, **LEGEND)
    return style.save(figure, path)


def plot_map_of_speakers(
    points: np.ndarray, speakers: np.ndarray, path: str | Path, title: str, axes_text: str = NEIGHBOURS
) -> Path:
    """Points coloured by speaker; at most as many speakers as ``SPEAKER_MARKERS``, those with the most points.

    Args:
        points: (N, 2); speakers: (N,) names. All "": they are not known, and all points have one colour.
        axes_text: what the axes mean.
    """
    figure, axes = _map(title, axes_text)
    coloured = most_frequent(speakers, len(SPEAKER_MARKERS))
    for name, (colour, marker) in zip(coloured, SPEAKER_MARKERS):
        label = f"speaker {name}" if name else "recordings"
        axes.scatter(*points[speakers == name].T, s=8, color=colour, marker=marker, linewidth=0, label=label, zorder=2)
    others = ~np.isin(speakers, coloured)
    if others.any():
        label = f"others ({len(set(speakers[others]))})"
        axes.scatter(*points[others].T, s=4, color=GREY, linewidth=0, label=label, zorder=1)
    style.legend_below(axes, **LEGEND)
    return style.save(figure, path)


def most_frequent(names: np.ndarray, count: int) -> np.ndarray:
    """The names that occur most often, in alphabetical order; of equally frequent ones the first."""
    unique, counts = np.unique(names, return_counts=True)
    return np.sort(unique[np.argsort(-counts, kind="stable")[:count]])


LEGEND: dict[str, Any] = dict(gap=0.06, columns=4, markerscale=2.5, handletextpad=0.1)


def _map(title: str, axes_text: str = NEIGHBOURS):
    figure = style.figure(width=6, height=6.3)
    axes = figure.subplots()
    axes.set_box_aspect(0.88)  # two maps side by side have the same size, whatever their legends
    axes.set_anchor("N")
    axes.set_title(title, fontsize=11)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(axes_text)
    return figure, axes


def _name_phones(axes, points: np.ndarray, phones: np.ndarray, names: Sequence[str]) -> None:
    """Write each phone's name where its frames are densest, or nearly so if that place is taken, or not at all."""
    from matplotlib.patheffects import withStroke

    points_of = {phone: points[phones == phone] for phone in np.unique(phones)}
    width, height = np.ptp(points, axis=0)
    densities = {
        phone: density(of_phone, 0.05 * float(width))
        for phone, of_phone in points_of.items()
        if len(of_phone) >= MIN_FRAMES
    }
    written: list[np.ndarray] = []
    for phone in sorted(densities, key=lambda phone: -densities[phone].max()):
        order = np.argsort(-densities[phone], kind="stable")
        dense = points_of[phone][order][densities[phone][order] >= MIN_RELATIVE_DENSITY * densities[phone].max()]
        free = [
            place
            for place in dense
            if all((np.abs(place - other) > MIN_NAME_DISTANCE * np.array([width, height])).any() for other in written)
        ]
        if free:
            written.append(free[0])
            axes.text(
                *free[0],
                names[phone],
                ha="center",
                va="center",
                fontsize=8.5,
                weight="bold",
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )


def density(points: np.ndarray, width: float) -> np.ndarray:
    """(N, 2) -> (N,): number of points around each point, as a sum of Gaussians of this width."""
    squares = ((points[:, None] - points[None]) ** 2).sum(axis=2)  # (N, N)
    return np.exp(-squares / (2 * width**2)).sum(axis=1)
