"""CTC decoders behind one interface, the generator that feeds them, and the reader of what ``fairseq-generate`` wrote."""

from fairseq.data import Dictionary

from .base import CTCDecoder, Hypothesis
from .beam import BeamDecoder
from .best_path import BestPathDecoder
from .generator import CTCGenerator
from .lexicon import LexiconDecoder
from .results import score_generate_output
from .scorer import IntervalScorer
from .search import SearchOptions

DECODERS = {"best_path": BestPathDecoder, "beam": BeamDecoder, "lexicon": LexiconDecoder}
"""Name that a user types (``task.decoder``) -> class."""


def build_decoder(name: str, dictionary: Dictionary, blank: int, options: SearchOptions) -> CTCDecoder:
    """The decoder that a user named; ``best_path`` has no options."""
    return BestPathDecoder(blank) if name == "best_path" else DECODERS[name](dictionary, blank, options)


__all__ = [
    "BeamDecoder",
    "BestPathDecoder",
    "CTCDecoder",
    "CTCGenerator",
    "DECODERS",
    "Hypothesis",
    "IntervalScorer",
    "LexiconDecoder",
    "SearchOptions",
    "build_decoder",
    "score_generate_output",
]
