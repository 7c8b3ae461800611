"""Converts a decoder's symbols to words with times and confidences."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fairseq.data.data_utils import post_process

from ..data.audio import SAMPLE_RATE
from .base import Hypothesis
from .recogniser import Recogniser
from .search import WORD_BOUNDARY

PIECE_START = "\u2581"
"""Prefix of the first sentencepiece of a word."""


@dataclass(frozen=True)
class Word:
    """A recognised word.

    start, end: seconds; from the frame of its first symbol to the frame of its last symbol, inclusive.
    confidence: geometric mean of the probabilities of its symbols, each at the frame where it begins; 0 to 1. The
        frames of a search are those of the best alignment of its text. The probabilities are the network's: a word that
        the network finds improbable has a low confidence even if the lexicon or language model allows no other.
        Uncertainty about how to split a sentence into words is not included.
    """

    word: str
    start: float
    end: float
    confidence: float


def words_of(hypothesis: Hypothesis, recogniser: Recogniser, start: int = 0) -> list[Word]:
    """The words of a segment that begins at frame ``start`` of the recording."""
    symbols = [recogniser.dictionary[token] for token in hypothesis["tokens"].tolist()]
    frames = [start + frame for frame, _ in hypothesis["alignment"]]
    scores = hypothesis["positional_scores"].tolist()
    seconds = recogniser.grid.hop / SAMPLE_RATE
    words = []
    for word, first, last in group_into_words(symbols, recogniser.dictionary.symbols):
        confidence = math.exp(sum(scores[first : last + 1]) / (last + 1 - first))
        words.append(
            Word(word, round(frames[first] * seconds, 3), round((frames[last] + 1) * seconds, 3), round(confidence, 4))
        )
    return words


def group_into_words(symbols: Sequence[str], alphabet: Sequence[str]) -> list[tuple[str, int, int]]:
    """Symbols -> (word, positions of its first and last symbol); spelled as by fairseq's ``post_process``."""
    kind = symbol_kind(alphabet)
    groups: list[list[int]] = [[]]
    for position, symbol in enumerate(symbols):
        if kind == "none" or symbol == WORD_BOUNDARY and kind == "letter" or symbol.startswith(PIECE_START):
            groups.append([])
        if not (symbol == WORD_BOUNDARY and kind == "letter"):
            groups[-1].append(position)
    words = [
        (post_process(" ".join(symbols[position] for position in group), kind), group) for group in groups if group
    ]
    return [(word, group[0], group[-1]) for word, group in words if word]


def symbol_kind(alphabet: Sequence[str]) -> str:
    """The kind of a dictionary's symbols, as ``post_process`` names it.

    "sentencepiece": words begin with "\u2581"; "letter": "|" separates words; "none": each symbol is a word (phones).
    """
    if any(symbol.startswith(PIECE_START) for symbol in alphabet):
        return "sentencepiece"
    return "letter" if WORD_BOUNDARY in alphabet else "none"


def text_of(symbols: Sequence[str], alphabet: Sequence[str]) -> str:
    """Symbols as words separated by spaces; symbols of the kind "none" are words."""
    return post_process(" ".join(symbols), symbol_kind(alphabet))


def rate_name(alphabet: Sequence[str]) -> str:
    """What an error rate of texts is called: WER, or UER (of units) where each symbol counts by itself."""
    return "UER" if symbol_kind(alphabet) == "none" else "WER"
