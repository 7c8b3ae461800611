"""From a decoder's symbols to words with times and confidences."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fairseq.data.data_utils import post_process

from .recogniser import Recogniser
from ..data.audio import SAMPLE_RATE
from .base import Hypothesis
from .search import WORD_BOUNDARY

PIECE_START = "\u2581"
"""What sentencepiece puts before the first piece of a word."""


@dataclass(frozen=True)
class Word:
    """start, end: s, from the frame where its first symbol begins to the one where its last symbol begins, included.

    confidence: geometric mean of the probabilities of its symbols, each at the frame where it begins; 0 to 1. The searches' frames are those
    of the likeliest alignment of the text they found. The probabilities are the network's: a word that it doubts has a low one though
    lexicon or language model leave no other, and a doubt between two splits of a sentence into words does not show.
    """

    word: str
    start: float
    end: float
    confidence: float


def words_of(hypothesis: Hypothesis, recogniser: Recogniser, start: int = 0) -> list[Word]:
    """The words of a piece of a recording that begins at its frame ``start``."""
    symbols = [recogniser.dictionary[token] for token in hypothesis["tokens"].tolist()]
    frames = [start + frame for frame, _ in hypothesis["alignment"]]
    scores = hypothesis["positional_scores"].tolist()
    seconds = recogniser.grid.hop / SAMPLE_RATE
    words = []
    for word, first, last in spell(symbols, recogniser.dictionary.symbols):
        confidence = math.exp(sum(scores[first : last + 1]) / (last + 1 - first))
        words.append(
            Word(word, round(frames[first] * seconds, 3), round((frames[last] + 1) * seconds, 3), round(confidence, 4))
        )
    return words


def spell(symbols: Sequence[str], alphabet: Sequence[str]) -> list[tuple[str, int, int]]:
    """Symbols -> words, each with the positions of its first and last symbol, as fairseq's ``post_process`` spells them."""
    kind = kind_of(alphabet)
    groups: list[list[int]] = [[]]
    for position, symbol in enumerate(symbols):
        if kind == "none" or symbol == WORD_BOUNDARY and kind == "letter" or symbol.startswith(PIECE_START):
            groups.append([])
        if not (symbol == WORD_BOUNDARY and kind == "letter"):
            groups[-1].append(position)
    spelt = [
        (post_process(" ".join(symbols[position] for position in group), kind), group) for group in groups if group
    ]
    return [(word, group[0], group[-1]) for word, group in spelt if word]


def kind_of(alphabet: Sequence[str]) -> str:
    """What a dictionary's symbols are, as ``post_process`` calls it.

    "sentencepiece": words begin with "\u2581"; "letter": words are kept apart by "|"; "none": each symbol is a word (phones).
    """
    if any(symbol.startswith(PIECE_START) for symbol in alphabet):
        return "sentencepiece"
    return "letter" if WORD_BOUNDARY in alphabet else "none"
