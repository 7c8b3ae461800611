"""From windows of speech to segments. Times are numbers of windows; a pair is (first window, end)."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

SHORTEST_SPEECH = 8  # windows, 0.26 s: what is shorter is a click or a breath
SHORTEST_PAUSE = 4  # windows, 0.13 s: what is shorter can be the closure of a plosive
MARGIN = 3  # windows, 0.1 s, of the pause that a segment keeps on either side, at most half of the pause
SMOOTHED = 5  # windows, 0.16 s, over which the level is averaged to find the quietest point

Span = tuple[int, int]


@dataclass(frozen=True)
class Rules:
    """All in windows. ``min_pause``: a pause that ends a segment, at least ``SHORTEST_PAUSE``; ``min_length``,
    ``max_length``: of a segment with its margins; the first is at most half of the second."""

    min_pause: int
    min_length: int
    max_length: int


class Cut(NamedTuple):
    """Segments, in order.

    segments: with their margins; they do not overlap.
    too_short: segments that were left out because they are shorter than ``min_length``.
    within_speech: number of cuts between two segments that are not at a pause.
    """

    segments: list[Span]
    too_short: list[Span]
    within_speech: int


def cut(speech: np.ndarray, levels: np.ndarray, rules: Rules) -> Cut:
    """Windows with speech (n,) bool and their levels (n,) in dB -> segments.

    A pause of ``min_pause`` ends a segment and is left out, except for the margins. Where speech continues for longer
    than ``max_length``, it is cut at its longest pause in the second half of that time; if there is none, at its
    quietest point.
    """
    parts: list[Span] = []
    within = 0
    for group in grouped(speech_runs(speech), rules.min_pause):
        cut_parts, cuts = shortened(group, levels, rules.min_length, rules.max_length - 2 * MARGIN)
        parts, within = parts + cut_parts, within + cuts
    segments = with_margins(parts, len(speech))
    return Cut(
        [one for one in segments if one[1] - one[0] >= rules.min_length],
        [one for one in segments if one[1] - one[0] < rules.min_length],
        within,
    )


def speech_runs(speech: np.ndarray) -> list[Span]:
    """Runs of speech, across pauses below ``SHORTEST_PAUSE``, of at least ``SHORTEST_SPEECH``."""
    edges = np.flatnonzero(np.diff(speech, prepend=False, append=False)).reshape(-1, 2)
    joined = [(int(group[0][0]), int(group[-1][1])) for group in grouped(edges.tolist(), SHORTEST_PAUSE)]
    return [run for run in joined if run[1] - run[0] >= SHORTEST_SPEECH]


def grouped(runs: list[Span], pause: int) -> list[list[Span]]:
    """Runs in groups, between which there are pauses of at least ``pause``."""
    groups: list[list[Span]] = []
    for run in runs:
        if groups and run[0] - groups[-1][-1][1] < pause:
            groups[-1].append(run)
        else:
            groups.append([run])
    return groups


def shortened(group: list[Span], levels: np.ndarray, shortest: int, longest: int) -> tuple[list[Span], int]:
    """The runs of a group, together or in parts of at most ``longest``; and the number of cuts within speech."""
    start, stop = group[0][0], group[-1][1]
    pauses = [(before[1], after[0]) for before, after in zip(group, group[1:])]
    parts, within = [], 0
    while stop - start > longest:
        first = start + longest // 2
        last = max(first, min(start + longest, stop - shortest))
        near = [
            (a, b) for a, b in pauses if b >= first and a <= last and a - start >= shortest and stop - b >= shortest
        ]
        if near:
            end, begin = max(near, key=lambda pause: pause[1] - pause[0])
        else:
            end = begin = first + quietest(levels[first : last + 1])
            within += 1
        parts.append((start, end))
        start = begin
    return [*parts, (start, stop)], within


def quietest(levels: np.ndarray) -> int:
    """The place with the lowest level, averaged over ``SMOOTHED`` windows."""
    size = min(SMOOTHED, len(levels))
    return int(np.convolve(levels, np.full(size, 1 / size), "valid").argmin()) + size // 2


def with_margins(parts: list[Span], windows: int) -> list[Span]:
    """Each part with the pause around it, at most ``MARGIN`` and at most half of the pause on either side."""
    ends = [-2 * MARGIN, *(stop for _, stop in parts)]  # a margin at the beginning and at the end of the recording
    starts = [*(start for start, _ in parts), windows + 2 * MARGIN]
    room = [min(MARGIN, (start - end) // 2) for start, end in zip(starts, ends)]  # before each part, after the last
    return [(max(0, start - room[i]), min(windows, stop + room[i + 1])) for i, (start, stop) in enumerate(parts)]
