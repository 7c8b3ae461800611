"""CTC decoders, the generator that calls them, and a reader for the output of ``fairseq-generate``."""

from .. import compat  # noqa: F401  # isort: skip  (before fairseq is imported)

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
"""Value of ``task.decoder`` -> class."""


def build_decoder(
    name: str, dictionary: Dictionary, blank: int, options: SearchOptions, lm: torch.nn.Module | None = None
) -> CTCDecoder:
    """Build the decoder called ``name``.

    ``lm``: fairseq's language model from ``options.lm_path``. ``best_path`` takes no options.
    """
    if options.lm_path is not None:
        if name != "beam":
            raise UserError(
                f"--lm-path {options.lm_path}: not used by --decoder {name}; choose --decoder beam, or omit the option"
            )
        return FusionDecoder(dictionary, blank, options, lm)
    if name != "best_path":
        return DECODERS[name](dictionary, blank, options)
    if options.nbest > 1:
        raise UserError(
            f"--nbest {options.nbest}: --decoder best_path finds only one text; "
            "choose --decoder beam or lexicon, or omit the option"
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
