"""A 2-D map of frames, coloured by phone class and by speaker."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from . import style
from .style import BLACK, CATEGORY_COLOURS, SKY

NEAR = np.array([0.055, 0.03])  # names nearer than these shares of the map's width and height would overlap
DENSE = 0.6  # how dense, beside the densest place, another one must be for a name
LEAST = 5  # frames without which a phone gets no name on the map
LOOKS = tuple(zip((*CATEGORY_COLOURS, SKY, BLACK), "os^Dv<P"))  # colour and marker of each speaker


def plot_map_of_phones(
    points: np.ndarray, phones: np.ndarray, names: Sequence[str], groups: Sequence[str], path: str | Path, title: str
) -> Path:
    """Frames by the class of their phone, and each phone's name where its frames are densest.

    Args:
        points: (N, 2); phones: (N,) indices into ``names``.
        groups: (n_phones,) group of each phone, ``style.phone_groups``.
    """
    figure, axes = _map(title)
    own = np.array(groups)[phones]  # (N,)
    for group, colour in style.group_colours(groups).items():
        axes.scatter(*points[own == group].T, s=7, color=colour, linewidth=0, label=group)
    _name_phones(axes, points, phones, names)
    style.legend_below(axes, **LEGEND)
    return style.save(figure, path)


def plot_map_of_speakers(points: np.ndarray, speakers: Sequence[str], path: str | Path, title: str) -> Path:
    """The same frames by who spoke; speakers: (N,) names, as many as there are ``LOOKS`` at most."""
    figure, axes = _map(title)
    for name, (colour, marker) in zip(np.unique(speakers), LOOKS):
        axes.scatter(
            *points[np.asarray(speakers) == name].T,
            s=8,
            color=colour,
            marker=marker,
            linewidth=0,
            label=f"speaker {name}",
        )
    style.legend_below(axes, **LEGEND)
    return style.save(figure, path)


LEGEND: Mapping[str, float] = dict(gap=0.06, columns=4, markerscale=2.5, handletextpad=0.1)


def _map(title: str):
    figure = style.figure(width=6, height=6.3)
    axes = figure.subplots()
    axes.set_box_aspect(0.88)  # two maps side by side are of one size, whatever their legends
    axes.set_anchor("N")
    axes.set_title(title, fontsize=11)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("no units: only who is near whom means something")
    return figure, axes


def _name_phones(axes, points: np.ndarray, phones: np.ndarray, names: Sequence[str]) -> None:
    """Where a phone's frames are densest, or nearly so if another name stands there; left out where there is no such place."""
    from matplotlib.patheffects import withStroke

    found = {phone: points[phones == phone] for phone in np.unique(phones)}
    width, height = np.ptp(points, axis=0)
    densities = {phone: density(own, 0.05 * float(width)) for phone, own in found.items() if len(own) >= LEAST}
    written: list[np.ndarray] = []
    for phone in sorted(densities, key=lambda phone: -densities[phone].max()):
        order = np.argsort(-densities[phone], kind="stable")
        dense = found[phone][order][densities[phone][order] >= DENSE * densities[phone].max()]
        free = [
            place
            for place in dense
            if all((np.abs(place - other) > NEAR * np.array([width, height])).any() for other in written)
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
    """(N, 2) -> (N,): how many others are around each point, as a sum of Gaussians of this width."""
    squares = ((points[:, None] - points[None]) ** 2).sum(axis=2)  # (N, N)
    return np.exp(-squares / (2 * width**2)).sum(axis=1)
