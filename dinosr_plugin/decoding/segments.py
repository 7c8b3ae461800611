"""Where the log-probabilities of a long recording are cut for the searches, which keep frames times beam hypotheses in memory: in pauses.

A search begins each segment as it begins a recording: a language model takes it for a sentence.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from fairseq.data import Dictionary

from .base import CTCDecoder, Hypothesis
from .search import WORD_BOUNDARY, index_of
from .words import PIECE_START, kind_of

SHORTEST, LONGEST = (
    20.0,
    30.0,
)  # s: a segment ends at the longest pause between these; recordings up to the latter are not cut


@dataclass(frozen=True)
class Pause:
    """Frames ``start`` to ``stop`` of the likeliest path, without a symbol of a word.

    apart: whether the path ends a word there, so that no word can be cut.
    behind: the frame behind the last ``|`` in it, or ``start``.
    """

    start: int
    stop: int
    apart: bool
    behind: int

    def shared(self, first: int, last: int) -> int:
        """How many of its frames lie between two others; negative where it is elsewhere."""
        return min(self.stop, last) - max(self.start, first)

    def cut(self, first: int, last: int) -> int:
        """The frame between two others before which to cut: in the middle of what they share, but not before a ``|``."""
        middle = (max(self.start, first) + min(self.stop, last)) // 2
        return max(middle, min(self.behind, last))


def segments(
    path: np.ndarray, dictionary: Dictionary, blank: int, shortest: int, longest: int
) -> list[tuple[int, int]]:
    """Cut a likeliest path (F,) into pieces of ``shortest`` to ``longest`` frames, the last one perhaps shorter: (first frame, end) of each.

    Where the path is silent between two words, at the longest such pause; else at the longest silence within a word; else at the limit.
    """
    found = pauses(path, dictionary, blank)
    starts, stops = [pause.start for pause in found], [pause.stop for pause in found]
    cuts = [0]
    while len(path) - cuts[-1] > longest:
        first, last = cuts[-1] + shortest, cuts[-1] + longest
        near = found[bisect_left(stops, first) : bisect_right(starts, last)]
        best = max(near, key=lambda pause: (pause.apart, pause.shared(first, last)), default=None)
        cuts.append(best.cut(first, last) if best else last)
    return list(pairwise([*cuts, len(path)]))


def pauses(path: np.ndarray, dictionary: Dictionary, blank: int) -> list[Pause]:
    """All pauses of a likeliest path (F,), in order."""
    kind = kind_of(dictionary.symbols)
    boundaries = path == dictionary.index(WORD_BOUNDARY) if kind == "letter" else np.zeros(len(path), dtype=bool)
    silent = boundaries | (path == blank)
    edges = np.flatnonzero(np.diff(silent, prepend=False, append=False))  # start, stop, start, stop, ...
    found = []
    for start, stop in edges.reshape(-1, 2).tolist():
        ends = np.flatnonzero(boundaries[start:stop])
        begins = kind == "sentencepiece" and (stop == len(path) or dictionary[path[stop]].startswith(PIECE_START))
        behind = start + int(ends[-1]) + 1 if len(ends) else start
        found.append(Pause(start, stop, len(ends) > 0 or begins or kind == "none", behind))
    return found


def decode_segments(
    decoder: CTCDecoder, table: torch.Tensor, pieces: Sequence[tuple[int, int]], dictionary: Dictionary, blank: int
) -> Iterator[tuple[int, Hypothesis]]:
    """Decode ``segments`` of log-probabilities (F, V) float32: (first frame, best hypothesis) of each.

    A word ends where a segment is joined to the next one: behind it comes a frame in which ``|`` costs nothing, and staying silent neither.
    """
    boundary = index_of(dictionary, WORD_BOUNDARY)
    join = torch.full((int(boundary is not None), table.size(1)), -math.inf)  # no such frame without |
    join[:, [blank, blank if boundary is None else boundary]] = 0.0
    for start, stop in pieces:
        segment = table[start:stop] if stop == len(table) else torch.cat([table[start:stop], join])
        ((best, *_),) = decoder.decode(segment.unsqueeze(0), torch.tensor([len(segment)]))
        yield start, best
