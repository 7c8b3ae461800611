"""CTC decoders behind one interface, the generator that feeds them, and the reader of what ``fairseq-generate`` wrote."""

from .base import CTCDecoder, Hypothesis
from .best_path import BestPathDecoder
from .generator import CTCGenerator
from .results import score_generate_output

DECODERS = {"best_path": BestPathDecoder}
"""Name that a user types (``task.decoder``) -> class; a decoder is built as ``DECODERS[name](blank=index)``."""

__all__ = ["BestPathDecoder", "CTCDecoder", "CTCGenerator", "DECODERS", "Hypothesis", "score_generate_output"]
