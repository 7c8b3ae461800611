"""CTC decoders behind one interface, the generator that feeds them, and the reader of what ``fairseq-generate`` wrote."""

from .. import compat  # noqa: F401  # isort: skip  (before fairseq is imported)
from typing import Optional

import torch
from fairseq.data import Dictionary

from ..errors import UserError
from .base import CTCDecoder, Hypothesis
from .beam import BeamDecoder
from .best_path import BestPathDecoder
from .fusion import FusionDecoder
from .generator import CTCGenerator
from .lexicon import LexiconDecoder
from .results import score_generate_output
from .scorer import IntervalScorer
from .search import SearchOptions

DECODERS = {"best_path": BestPathDecoder, "beam": BeamDecoder, "lexicon": LexiconDecoder}
"""Name that a user types (``task.decoder``) -> class."""


def build_decoder(
    name: str, dictionary: Dictionary, blank: int, options: SearchOptions, lm: torch.nn.Module | None = None
) -> CTCDecoder:
    """The decoder that a user named; ``best_path`` has no options. ``lm``: fairseq's language model, from ``options.lm_path``."""
    if options.lm_path is not None:
        if name != "beam":
            raise UserError(
                f"--lm-path {options.lm_path}: --decoder {name} has no use for it; choose --decoder beam, or leave it out"
            )
        return FusionDecoder(dictionary, blank, options, lm)
    if name != "best_path":
        return DECODERS[name](dictionary, blank, options)
    if options.nbest > 1:
        raise UserError(
            f"--nbest {options.nbest}: --decoder best_path finds one text; choose --decoder beam or lexicon, or leave it out"
        )
    return BestPathDecoder(blank)


__all__ = [
    "BeamDecoder",
    "BestPathDecoder",
    "CTCDecoder",
    "CTCGenerator",
    "DECODERS",
    "FusionDecoder",
    "Hypothesis",
    "IntervalScorer",
    "LexiconDecoder",
    "SearchOptions",
    "build_decoder",
    "score_generate_output",
]
