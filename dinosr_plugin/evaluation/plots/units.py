"""Pictures of units: how often each occurs, how long they last, and how they align with speech."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import style
from .style import BLACK, BLUE, ORANGE

MAX_DURATION = 300  # ms; longer units share the last bar
FRAME = 20  # ms
LETTER = 0.0075  # width of a letter in a box, as a share of the picture's width


def plot_code_use(counts: np.ndarray, path: str | Path) -> Path:
    """Share of the frames of each code, most frequent first. counts: (K, V) frames of each code."""
    figure, axes = style.small_panel()
    for k, (of_codebook, colour) in enumerate(zip(counts, style.ordered_colours(len(counts)))):
        share = 100 * np.sort(of_codebook[of_codebook > 0])[::-1] / of_codebook.sum()
        axes.plot(np.arange(1, len(share) + 1), share, color=colour, linewidth=1.3, label=f"codebook {k}")
    axes.axhline(
        100 / counts.shape[1],
        color=BLACK,
        linewidth=1,
        linestyle=(0, (6, 2)),
        label=f"uniform, {counts.shape[1]} codes",
    )
    style.label(axes, "How often each code is used", "rank of the code (1 = most frequent)", "share of the frames (%)")
    axes.set_ylim(bottom=0)
    style.legend_below(axes, columns=3)
    return style.save(figure, path)


def plot_durations(unit_ms: np.ndarray, phone_ms: np.ndarray | None, path: str | Path, title: str) -> Path:
    """Histograms of durations in ms: runs of equal units (N,), phone segments (M,), None if they are not known."""
    figure, axes = style.small_panel()
    edges = np.arange(FRAME / 2, MAX_DURATION + 1.5 * FRAME, FRAME)  # the bar of n frames is centred on their duration
    for durations, colour, name in (
        (unit_ms, ORANGE, "units (runs of one code)"),
        (phone_ms, BLUE, "phones (segments)"),
    ):
        if durations is None:
            continue
        share = 100 * np.histogram(np.clip(durations, edges[0], edges[-1] - 1), edges)[0] / len(durations)
        mean, median = np.mean(durations), np.median(durations)
        label = f"{name}: {len(durations):,}, mean {mean:.0f} ms, median {median:.0f} ms"
        axes.stairs(share, edges, color=colour, fill=True, alpha=0.25)
        axes.stairs(
            share, edges, color=colour, linewidth=1.6, label=label, linestyle="-" if colour == ORANGE else (0, (4, 1.5))
        )
    style.label(axes, title, "duration (ms)", "share (%)")
    axes.set_xlim(0, edges[-1] + FRAME / 2)
    ticks = np.arange(0, MAX_DURATION + 1, 60)
    axes.set_xticks(ticks, [*map(str, ticks[:-1]), f"{MAX_DURATION}+"])
    style.legend_below(axes, columns=1)
    return style.save(figure, path)


@dataclass(frozen=True)
class Stretch:
    """A few seconds of an utterance. Times are in seconds from the start of the utterance.

    Attributes:
        utt, speaker: names of the utterance and its speaker.
        start, end: the part that is shown.
        wave: (T,) float32, samples of that part at 16 kHz.
        mel: (80, n) float32, log-Mel frames of that part.
        phones: (start, end, name) of each segment that overlaps with it; None if they are not known.
        units: for each codebook (start, end, unit) of each run that overlaps with it.
    """

    utt: str
    speaker: str
    start: float
    end: float
    wave: np.ndarray
    mel: np.ndarray
    phones: Sequence[tuple[float, float, str]] | None
    units: Sequence[Sequence[tuple[float, float, int]]]


def plot_stretch(
    stretch: Stretch, group_of_phone: Mapping[str, str] | None, group_of_unit: Sequence[Sequence[str]], path: str | Path
) -> Path:
    """Waveform, log-Mel spectrogram, phones and the units of every codebook over time.

    Args:
        group_of_phone: phone -> its group; see ``style.phone_groups``. None without phones: the colour of a unit
            follows from its number.
        group_of_unit: (K, V) group of the most frequent phone of each unit; empty without phones.
    """
    known = group_of_phone or {}
    colours = style.group_colours(
        sorted({*known.values(), *(group for of_codebook in group_of_unit for group in of_codebook)})
    )
    rows: list[tuple[str, Sequence[tuple], list[str]]] = []  # name, segments, their colours
    if stretch.phones is not None:
        rows.append(("phones", stretch.phones, [colours[known[name]] for *_, name in stretch.phones]))
    for k, runs in enumerate(stretch.units):
        of_units = [colours[group_of_unit[k][unit]] if known else colour_of_unit(unit) for *_, unit in runs]
        rows.append((f"codebook {k}", runs, of_units))
    heights = [1.0, 1.5, *[0.42] * len(rows)]
    figure = style.figure(width=12, height=1.6 + 1.15 * sum(heights))
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    figure.get_layout_engine().set(h_pad=0.03, hspace=0)
    figure.suptitle(
        f"{stretch.end - stretch.start:.1f} s of utterance {stretch.utt} (speaker {stretch.speaker}): "
        f"waveform, {'phones and units' if known else 'spectrogram and units'}",
        fontsize=12,
    )
    _draw_sound(panels[0], panels[1], stretch)
    for panel, (name, segments, of_segments) in zip(panels[2:], rows):
        _draw_segments(panel, segments, of_segments, name, stretch)
    panels[-1].set_xlim(stretch.start, stretch.end)
    panels[-1].set_xlabel("time in the utterance (s)")
    if known:
        _legend(figure, colours)
    return style.save(figure, path)


def colour_of_unit(unit: int) -> str:
    """Neighbouring numbers have different colours; several units share each of them."""
    return style.GROUP_COLOURS[unit % len(style.GROUP_COLOURS)]


def _draw_sound(above, below, stretch: Stretch) -> None:
    above.plot(np.linspace(stretch.start, stretch.end, len(stretch.wave)), stretch.wave, color="0.25", linewidth=0.4)
    above.set_ylabel("amplitude")
    top, bottom = mel_scale(8000), mel_scale(20)  # the range of the filters in ``data.acoustic``
    below.imshow(
        stretch.mel,
        aspect="auto",
        origin="lower",
        cmap="magma",
        extent=(stretch.start, stretch.end, bottom, top),
        interpolation="nearest",
    )
    kilohertz = (0.5, 1, 2, 4, 8)
    below.set_yticks([mel_scale(1000 * value) for value in kilohertz], [f"{value:g}" for value in kilohertz])
    below.set_ylabel("kHz\n(Mel scale)")
    for axes in (above, below):
        axes.tick_params(bottom=False, labelsize=8)


def mel_scale(hertz: float) -> float:
    return 1127 * float(np.log1p(hertz / 700))


def _draw_segments(axes, segments: Sequence[tuple], colours: Sequence[str], name: str, stretch: Stretch) -> None:
    """Draw boxes over time, with the names that fit into them."""
    axes.broken_barh(
        [(start, end - start) for start, end, _ in segments],
        (0, 1),
        facecolors=colours,
        edgecolor="white",
        linewidth=0.6,
    )
    for (start, end, text), colour in zip(segments, colours):
        start, end = max(start, stretch.start), min(end, stretch.end)
        if (end - start) / (stretch.end - stretch.start) > LETTER * len(str(text)):
            place = dict(ha="center", va="center", fontsize=7.5)
            axes.text((start + end) / 2, 0.47, text, color=style.text_colour(colour), **place)
    axes.set_ylim(0, 1)
    axes.set_yticks([0.5], [name], fontsize=9)
    axes.tick_params(left=False, bottom=False)
    axes.spines[:].set_visible(False)


def _legend(figure, colours: Mapping[str, str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=group) for group, colour in colours.items()]
    title = "colour: phone class; for a unit, the class of its most frequent phone"
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        fontsize=9,
        frameon=False,
        title=title,
        title_fontsize=9,
    )
