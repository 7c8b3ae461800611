"""What the two beam searches share: their options, language models and the call of flashlight-text.

flashlight-text (https://github.com/flashlight/text) is wav2letter's decoder; its wheel brings KenLM. It is optional, so it is imported late.
Collobert et al., "Wav2Letter", 2016, section 2.3; Heafield, "KenLM", 2011.
"""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from fairseq.data import Dictionary

from ..errors import UserError
from .base import Hypothesis
from .best_path import hypothesis, starts_of_runs

logger = logging.getLogger(__name__)

WORD_BOUNDARY = "|"
"""Symbol that ends each word in letter transcripts (.ltr)."""

IMPOSSIBLE = -1e6
"""Stands for -inf inside flashlight, whose sums of logarithms turn two -inf into NaN; what passes through it is dropped afterwards."""

UNKNOWN = "\0"
"""A word that no language model knows: what it scores is what every unknown word scores."""

FAIRSEQ_BEAM = 5
"""fairseq-generate's default of --beam: right for translation, little for CTC, where a beam holds frames of the same text too."""


@dataclass(frozen=True)
class SearchOptions:
    """What a user may set, as ``--beam``, ``--nbest``, ``--lm`` and so on; errors name these options.

    beam: hypotheses kept after each frame.
    nbest: hypotheses returned for each utterance, at most ``beam``.
    lm: KenLM file (.arpa or .bin), of words for the lexicon search, of dictionary symbols for the other one.
    lm_path: fairseq's language model of dictionary symbols, in place of ``lm``.
    lm_weight: factor of the language model's log10 probabilities; those of ``lm_path`` are natural logarithms.
    lexicon: spelling of each word.
    word_score: added for each word.
    sil_weight: added for each frame of the word boundary ``|``.
    beam_threshold: hypotheses that lie this much (natural logarithm) behind the best one are dropped.
    beam_size_token: symbols tried in each frame, the likeliest ones.
    """

    beam: int = FAIRSEQ_BEAM
    nbest: int = 1
    lm: str | None = None
    lm_path: str | None = None
    lm_weight: float = 0.0
    lexicon: str | None = None
    word_score: float = 0.0
    sil_weight: float = 0.0
    beam_threshold: float = 50.0
    beam_size_token: int = 100

    def __post_init__(self):
        for name, field in (("beam", "--beam"), ("nbest", "--nbest"), ("beam_size_token", "--beam-size-token")):
            if getattr(self, name) < 1:
                raise UserError(f"{field}={getattr(self, name)}: must be at least 1")
        if self.nbest > self.beam:
            raise UserError(f"--nbest {self.nbest}: more than the search keeps; give --beam {self.nbest} or more")
        if not 0 < self.beam_threshold < -IMPOSSIBLE:
            raise UserError(f"--beam-threshold={self.beam_threshold}: must be above 0 and below {-IMPOSSIBLE:.0f}")
        if self.lm is not None and self.lm_path is not None:
            raise UserError(f"--lm {self.lm} and --lm-path {self.lm_path}: one language model at a time; leave one out")
        if self.lm is None and self.lm_path is None and self.lm_weight:
            raise UserError(
                f"--lm-weight {self.lm_weight:g}: no language model to weigh; give --lm FILE or --lm-path FILE"
            )

    def flashlight_options(self) -> dict:
        """The options that both of flashlight's searches have. Alignments of a text are summed, as CTC training does."""
        kind = import_flashlight().CriterionType.CTC
        sizes = {"beam_size": self.beam, "beam_size_token": self.beam_size_token, "beam_threshold": self.beam_threshold}
        return {**sizes, "lm_weight": self.lm_weight, "sil_score": 0.0, "log_add": True, "criterion_type": kind}

    def warn(self) -> None:
        """Say what will not do what it looks like."""
        for option, path in (("--lm", self.lm), ("--lm-path", self.lm_path)):
            if path is not None and not self.lm_weight:
                logger.warning(f"{option} {path} has no effect: --lm-weight is 0; 0.5 to 2 are usual")
        if self.beam <= FAIRSEQ_BEAM:
            logger.warning(f"--beam {self.beam} is little for CTC; 50 to 500 are usual")


ONLY_FOR = {
    "lm": ("beam", "lexicon"),
    "lm_weight": ("beam", "lexicon"),
    "sil_weight": ("beam", "lexicon"),
    "lexicon": ("lexicon",),
    "word_score": ("lexicon",),
    "beam": ("beam", "lexicon"),
}
"""Options that would be ignored unless ``--decoder`` is one of these."""


def check_decoder_options(options: Any) -> None:
    """Raise ``UserError`` for options that the chosen decoder would ignore.

    Args:
        options: has ``decoder``, and whatever of ``ONLY_FOR`` can be set in its place; None or 0 where the user set nothing.
    """
    for name, decoders in ONLY_FOR.items():
        value = getattr(options, name, None)
        if value and str(options.decoder) not in decoders:
            option = f"--{name.replace('_', '-')} {value}"
            raise UserError(
                f"{option}: --decoder {options.decoder} has no use for it; choose --decoder {' or '.join(decoders)}, or leave it out"
            )


def import_flashlight() -> ModuleType:
    """``flashlight.lib.text.decoder``, or one line on how to get it."""
    try:
        import flashlight.lib.text.decoder as decoder
    except ImportError as error:
        raise UserError(
            "--decoder: beam and lexicon require flashlight-text: pip install flashlight-text (no wheel for Python 3.13: "
            "use Python 3.11 or 3.12, or the decoder best_path)"
        ) from error
    return decoder


def load_lm(path: str | None, words: Sequence[str], specials: int = 0, share: float = 0.0):
    """A KenLM n-gram in which word number i is ``words[i]``; without a path, a model that gives every text the same score.

    Args:
        path: .arpa or .bin, or None.
        words: words of a lexicon, or symbols of a dictionary.
        specials: so many at the start of ``words`` (``<s>``, ...) say nothing about whether the model is one of these words.
        share: of the others it must know more than this part.

    Raises:
        UserError: no such file, no n-gram in it, or one of other words.
    """
    if path is None:
        return import_flashlight().ZeroLM()
    if not Path(path).is_file():
        raise UserError(f"--lm {path}: no such file; give an n-gram model that KenLM reads (.arpa or .bin)")
    import_flashlight()
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary as Words

    try:
        lm = KenLM(str(path), Words([*words, UNKNOWN]))
    except RuntimeError as error:  # whatever KenLM throws; the last line holds the reason
        raise UserError(
            f"--lm {path}: not an n-gram model that KenLM reads (.arpa or .bin): {str(error).splitlines()[-1]}"
        ) from error
    unknown = unigram_score(lm, len(words))
    asked = range(specials, len(words))
    strangers = [words[word] for word in asked if unigram_score(lm, word) == unknown]
    if len(asked) - len(strangers) <= share * len(asked):
        raise UserError(
            f"--lm {path}: does not know {len(strangers)} of {len(asked)} words or symbols ({strangers[0]!r}, ...); with --lexicon it must be an "
            "n-gram model of the lexicon's words, else one of the dictionary's symbols, written the same way (case)"
        )
    if strangers:
        logger.warning(
            f"--lm {path} does not know {len(strangers)} of {len(asked)} words or symbols ({strangers[0]!r}, ...)"
        )
    return lm


def unigram_score(lm, word: int) -> float:
    """Score (log10) of a word at the start of a sentence."""
    return lm.score(lm.start(False), word)[1]


class BeamSearch(ABC):
    """A ``CTCDecoder`` around one of flashlight's searches, which a subclass makes.

    Args:
        blank: dictionary index of the CTC blank.
        boundary: that of ``|``, or None where the dictionary has none.
        options: what the user chose.
    """

    def __init__(self, blank: int, boundary: int | None, options: SearchOptions):
        self.blank, self.boundary = blank, boundary
        self.set_options(options)
        options.warn()

    def set_options(self, options: SearchOptions) -> None:
        """Search otherwise from now on; language model and lexicon stay those that were loaded."""
        self.options, self.decoder = options, self.make_decoder(options)

    @abstractmethod
    def make_decoder(self, options: SearchOptions):
        """flashlight's ``LexiconFreeDecoder`` or ``LexiconDecoder``."""

    def decode(self, emissions: torch.Tensor, lengths: torch.Tensor) -> list[list[Hypothesis]]:
        """Up to ``options.nbest`` hypotheses for each utterance; see ``CTCDecoder.decode``.

        ``score`` sums over all alignments of a text, and holds the language model and the word and silence scores. Token scores and
        frames are those of the likeliest alignment. Where no text is possible there is one empty hypothesis with score ``-inf``.
        """
        return [self.decode_one(one[:length]) for one, length in zip(emissions.float().cpu(), lengths.tolist())]

    def decode_one(self, emissions: torch.Tensor) -> list[Hypothesis]:
        """(F, V) log-probabilities on the CPU -> hypotheses, best first; F may be 0."""
        if emissions.size(0) == 0:
            return [empty(0.0)]
        if not emissions.max(dim=-1).values.isfinite().all():  # a frame in which nothing may be emitted (or NaN)
            return [empty(-math.inf)]
        scores = emissions.clamp(min=IMPOSSIBLE)
        if self.options.sil_weight and self.boundary is not None:
            scores[:, self.boundary] += self.options.sil_weight
        scores = scores.contiguous()  # flashlight gets a bare address
        found: dict[tuple[int, ...], Hypothesis] = {}
        for result in self.decoder.decode(scores.data_ptr(), *scores.shape):
            path, words = (
                torch.tensor(result.tokens[1:-1]),
                torch.tensor(result.words[1:-1]),
            )  # F + 2 -> (F,): silence at both ends
            log_probs = emissions.gather(1, path[:, None])[:, 0]  # (F,)
            if not log_probs.isfinite().all():
                continue
            emitted = self.emitted(path, words)
            one = hypothesis(path[emitted], result.score, log_probs[emitted], emitted.nonzero()[:, 0])
            found.setdefault(tuple(one["tokens"].tolist()), one)
            if len(found) == self.options.nbest:
                break
        return list(found.values()) or [empty(-math.inf)]

    def emitted(self, path: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """(F,) bool: the frames of a (F,) path at which a token of the text begins; ``words`` is the word that ends at a frame, else -1."""
        return starts_of_runs(path[None])[0] & (path != self.blank)


def empty(score: float) -> Hypothesis:
    """No text."""
    return hypothesis(torch.zeros(0, dtype=torch.long), score, torch.zeros(0), torch.zeros(0, dtype=torch.long))


def index_of(dictionary: Dictionary, symbol: str) -> int | None:
    """Index of a symbol, None where the dictionary lacks it."""
    return dictionary.index(symbol) if symbol in dictionary else None
