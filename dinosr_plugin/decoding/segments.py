"""Cuts the log-probabilities of a long recording at pauses: the searches need memory for frames times hypotheses.

A search begins each segment as it begins a recording: a language model treats a segment as a sentence.
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
from .words import PIECE_START, symbol_kind

# seconds: a segment ends at the longest pause between these durations; shorter recordings are not cut
MIN_SEGMENT, MAX_SEGMENT = 20.0, 30.0


@dataclass(frozen=True)
class Pause:
    """Frames ``start`` to ``stop`` of the best path, which contain no symbol of a word.

    between_words: whether the path ends a word in the pause, so that a cut cannot split a word.
    after_boundary: the frame after the last ``|`` in the pause; ``start`` if there is none.
    """

    start: int
    stop: int
    between_words: bool
    after_boundary: int

    def overlap(self, first: int, last: int) -> int:
        """Number of its frames between ``first`` and ``last``; negative if it lies outside."""
        return min(self.stop, last) - max(self.start, first)

    def cut(self, first: int, last: int) -> int:
        """The frame before which to cut, between ``first`` and ``last``.

        It is the middle of the overlap, or the frame after the last ``|`` if that is later.
        """
        middle = (max(self.start, first) + min(self.stop, last)) // 2
        return max(middle, min(self.after_boundary, last))


def cut_at_pauses(
    path: np.ndarray, dictionary: Dictionary, blank: int, shortest: int, longest: int
) -> list[tuple[int, int]]:
    """Cut a best path (F,) into segments of ``shortest`` to ``longest`` frames; the last may be shorter.

    The cut is made at the longest pause between two words; if there is none, at the longest silence within a word;
    otherwise at ``longest``. Returns (first frame, end) of each segment.
    """
    all_pauses = pauses(path, dictionary, blank)
    starts, stops = [pause.start for pause in all_pauses], [pause.stop for pause in all_pauses]
    cuts = [0]
    while len(path) - cuts[-1] > longest:
        first, last = cuts[-1] + shortest, cuts[-1] + longest
        near = all_pauses[bisect_left(stops, first) : bisect_right(starts, last)]
        best = max(near, key=lambda pause: (pause.between_words, pause.overlap(first, last)), default=None)
        cuts.append(best.cut(first, last) if best else last)
    return list(pairwise([*cuts, len(path)]))


def pauses(path: np.ndarray, dictionary: Dictionary, blank: int) -> list[Pause]:
    """All pauses of a best path (F,), in order."""
    kind = symbol_kind(dictionary.symbols)
    boundaries = path == dictionary.index(WORD_BOUNDARY) if kind == "letter" else np.zeros(len(path), dtype=bool)
    silent = boundaries | (path == blank)
    edges = np.flatnonzero(np.diff(silent, prepend=False, append=False))  # start, stop, start, stop, ...
    result = []
    for start, stop in edges.reshape(-1, 2).tolist():
        ends = np.flatnonzero(boundaries[start:stop])
        word_follows = kind == "sentencepiece" and (stop == len(path) or dictionary[path[stop]].startswith(PIECE_START))
        after_boundary = start + int(ends[-1]) + 1 if len(ends) else start
        result.append(Pause(start, stop, len(ends) > 0 or word_follows or kind == "none", after_boundary))
    return result


def decode_segments(
    decoder: CTCDecoder, table: torch.Tensor, pieces: Sequence[tuple[int, int]], dictionary: Dictionary, blank: int
) -> Iterator[tuple[int, Hypothesis]]:
    """Decode the segments of log-probabilities (F, V) float32; yields (first frame, best hypothesis) of each.

    A word ends where two segments meet: the search sees one more frame, where ``|`` and the blank have probability 1.
    """
    boundary = index_of(dictionary, WORD_BOUNDARY)
    join = torch.full((int(boundary is not None), table.size(1)), -math.inf)  # (1, V); (0, V) without |
    join[:, [blank, blank if boundary is None else boundary]] = 0.0
    for start, stop in pieces:
        segment = table[start:stop] if stop == len(table) else torch.cat([table[start:stop], join])
        ((best, *_),) = decoder.decode(segment.unsqueeze(0), torch.tensor([len(segment)]))
        yield start, best
