"""What the beam searches share: options, n-gram language models, and the interface to flashlight-text.

flashlight-text (https://github.com/flashlight/text) is the decoder of wav2letter; its wheel includes KenLM. It is
optional and therefore imported late. Collobert et al., "Wav2Letter", 2016, section 2.3; Heafield, "KenLM", 2011.
"""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from fairseq.data import Dictionary

from ..errors import UserError
from ..files import is_file
from .arpa import REMEDY, read_vocabulary
from .base import Hypothesis
from .best_path import make_hypothesis, run_starts

logger = logging.getLogger(__name__)

WORD_BOUNDARY = "|"
"""Symbol that ends each word in letter transcripts (.ltr)."""

IMPOSSIBLE = -1e6
"""Replaces -inf in flashlight, which would turn the sum of two -inf into NaN. Paths through it are dropped."""

UNKNOWN = "\0"
"""A word that no language model contains: its score is that of every unknown word."""

FAIRSEQ_BEAM = 5
"""fairseq-generate's default of --beam: small for CTC, where a beam holds many alignments of the same text."""


@dataclass(frozen=True)
class SearchOptions:
    """Search options, set by users as ``--beam``, ``--nbest``, ``--lm`` and so on; messages use these names.

    beam: hypotheses kept after each frame.
    nbest: hypotheses returned for each utterance, at most ``beam``.
    lm: KenLM file (.arpa or .bin): of words for the lexicon search, of dictionary symbols for the beam search.
    lm_path: fairseq's language model of dictionary symbols, instead of ``lm``.
    lm_weight: factor of the language model's log10 probabilities (of natural logarithms for ``lm_path``).
    lexicon: file with the spelling of each word.
    word_score: added for each word.
    sil_weight: added for each frame of the word boundary ``|``.
    beam_threshold: hypotheses whose score is this much (natural logarithm) below the best one are dropped.
    beam_size_token: number of most probable symbols that are tried in each frame.
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
                raise UserError(f"{field}={getattr(self, name)}: must be at least 1; give a positive number")
        for name in ("lm_weight", "word_score", "sil_weight"):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: give a finite number")
        if self.nbest > self.beam:
            raise UserError(
                f"--nbest {self.nbest}: exceeds the number of hypotheses kept; give --beam {self.nbest} or more"
            )
        if not 0 < self.beam_threshold < -IMPOSSIBLE:
            raise UserError(
                f"--beam-threshold={self.beam_threshold}: out of range; "
                f"give a number above 0 and below {-IMPOSSIBLE:.0f}"
            )
        if self.lm is not None and self.lm_path is not None:
            raise UserError(
                f"--lm {self.lm} and --lm-path {self.lm_path}: only one language model is possible; omit one"
            )
        if self.lm is None and self.lm_path is None and self.lm_weight:
            raise UserError(
                f"--lm-weight {self.lm_weight:g}: requires a language model; give --lm FILE or --lm-path FILE"
            )

    def flashlight_options(self) -> dict:
        """Options of both flashlight searches. Alignments of a text are summed (``log_add``), as in CTC training."""
        kind = import_flashlight().CriterionType.CTC
        sizes = {"beam_size": self.beam, "beam_size_token": self.beam_size_token, "beam_threshold": self.beam_threshold}
        return {**sizes, "lm_weight": self.lm_weight, "sil_score": 0.0, "log_add": True, "criterion_type": kind}

    def warn(self) -> None:
        """Log a warning for options that have no effect or are unusual."""
        for option, path in (("--lm", self.lm), ("--lm-path", self.lm_path)):
            if path is not None and not self.lm_weight:
                logger.warning(f"{option} {path} has no effect because --lm-weight is 0; usual values are 0.5 to 2")
        if self.beam <= FAIRSEQ_BEAM:
            logger.warning(f"--beam {self.beam} is small for CTC; usual values are 50 to 500")


OPTION_DECODERS = {
    "lm": ("beam", "lexicon"),
    "lm_weight": ("beam", "lexicon"),
    "sil_weight": ("beam", "lexicon"),
    "lexicon": ("lexicon",),
    "word_score": ("lexicon",),
    "beam": ("beam", "lexicon"),
}
"""Option -> values of ``--decoder`` that use it; the others would ignore it."""


def check_decoder_options(options: Any) -> None:
    """Raise ``UserError`` for options that the chosen decoder would ignore.

    Args:
        options: has ``decoder`` and the attributes of ``OPTION_DECODERS`` that can be set; None or 0 if unset.
    """
    for name, decoders in OPTION_DECODERS.items():
        value = getattr(options, name, None)
        if value and str(options.decoder) not in decoders:
            option = f"--{name.replace('_', '-')} {value}"
            raise UserError(
                f"{option}: not used by --decoder {options.decoder}; "
                f"choose --decoder {' or '.join(decoders)}, or omit the option"
            )


def import_flashlight() -> ModuleType:
    """Return ``flashlight.lib.text.decoder``. Raises UserError if it is not installed."""
    try:
        import flashlight.lib.text.decoder as decoder
    except ImportError as error:
        raise UserError(
            "--decoder: beam and lexicon require flashlight-text: pip install flashlight-text (no wheel for Python "
            "3.13: use Python 3.11 or 3.12, or the decoder best_path)"
        ) from error
    return decoder


def load_lm(path: str | None, words: Sequence[str], n_special: int = 0, min_known_share: float = 0.0):
    """A KenLM n-gram model in which word number i is ``words[i]``; without a path, one that scores all texts alike.

    Args:
        path: .arpa or .bin, or None.
        words: words of a lexicon, or symbols of a dictionary.
        n_special: number of special symbols (``<s>``, ...) at the start of ``words``, which are not checked.
        min_known_share: the model must know more than this share of the other words.

    Raises:
        UserError: the file is missing, is not an n-gram model, or knows too few of the words.
    """
    if path is None:
        return import_flashlight().ZeroLM()
    if not is_file(path):
        raise UserError(f"--lm {path}: no such file; give an n-gram model in a format that KenLM reads (.arpa or .bin)")
    vocabulary = read_vocabulary(path)
    import_flashlight()
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary as Words

    try:
        lm = KenLM(str(path), Words([*words, UNKNOWN]))
    except (RuntimeError, UnicodeDecodeError) as error:  # the last line of KenLM's message contains the reason, if any
        reason = (str(error).splitlines() or ["unknown reason"])[-1]
        raise UserError(f"--lm {path}: KenLM cannot read it ({reason}); {REMEDY}") from error
    checked = range(n_special, len(words))
    if vocabulary is None:  # the file does not have its words: known ones are those with other scores than unknown ones
        unknown_score = unigram_score(lm, len(words))
        vocabulary = {words[word] for word in checked if unigram_score(lm, word) != unknown_score}
    unknown = [words[word] for word in checked if words[word] not in vocabulary]
    if not unknown:
        return lm
    what = f"{len(unknown)} of {len(checked)} words or symbols ({unknown[0]!r}, ...)"
    if len(checked) - len(unknown) <= min_known_share * len(checked):
        raise UserError(
            f"--lm {path}: does not know {what}; with --lexicon give an n-gram model of the lexicon's words, "
            "otherwise one of the dictionary's symbols, in the same upper or lower case"
        )
    logger.warning(f"--lm {path} does not know {what}")
    return lm


def unigram_score(lm, word: int) -> float:
    """Score (log10) of a word at the start of a sentence."""
    return lm.score(lm.start(False), word)[1]


class BeamSearch(ABC):
    """A ``CTCDecoder`` that uses one of flashlight's searches; the subclass creates it.

    Args:
        blank: dictionary index of the CTC blank.
        boundary: dictionary index of ``|``, or None if the dictionary does not contain it.
        options: the search options.
    """

    def __init__(self, blank: int, boundary: int | None, options: SearchOptions):
        self.blank, self.boundary = blank, boundary
        self.set_options(options)
        options.warn()

    def set_options(self, options: SearchOptions) -> None:
        """Use other search options from now on, with the same language model and lexicon."""
        self.options, self.decoder = options, self.make_decoder(options)

    @abstractmethod
    def make_decoder(self, options: SearchOptions):
        """Create flashlight's ``LexiconFreeDecoder`` or ``LexiconDecoder``."""

    def decode(self, emissions: torch.Tensor, lengths: torch.Tensor) -> list[list[Hypothesis]]:
        """Up to ``options.nbest`` hypotheses for each utterance; see ``CTCDecoder.decode``.

        ``score`` sums over all alignments of a text and includes the language model, word and silence scores. Token
        scores and frames are those of the most probable alignment. If no text is possible, there is one empty
        hypothesis with score ``-inf``.
        """
        return [self.decode_one(one[:length]) for one, length in zip(emissions.float().cpu(), lengths.tolist())]

    def decode_one(self, emissions: torch.Tensor) -> list[Hypothesis]:
        """(F, V) log-probabilities on the CPU -> hypotheses, best first; F may be 0."""
        if emissions.size(0) == 0:
            return [empty_hypothesis(0.0)]
        if not emissions.max(dim=-1).values.isfinite().all():  # a frame in which no symbol is possible, or NaN
            return [empty_hypothesis(-math.inf)]
        scores = emissions.clamp(min=IMPOSSIBLE)
        if self.options.sil_weight and self.boundary is not None:
            scores[:, self.boundary] += self.options.sil_weight
        scores = scores.contiguous()  # flashlight receives only the address
        hypotheses: dict[tuple[int, ...], Hypothesis] = {}
        for result in self.decoder.decode(scores.data_ptr(), *scores.shape):
            # F + 2 -> (F,): without the silence at both ends
            path, words = torch.tensor(result.tokens[1:-1]), torch.tensor(result.words[1:-1])
            log_probs = emissions.gather(1, path[:, None])[:, 0]  # (F,)
            if not log_probs.isfinite().all():
                continue
            starts = self.token_starts(path, words)
            one = make_hypothesis(path[starts], result.score, log_probs[starts], starts.nonzero()[:, 0])
            hypotheses.setdefault(tuple(one["tokens"].tolist()), one)
            if len(hypotheses) == self.options.nbest:
                break
        return list(hypotheses.values()) or [empty_hypothesis(-math.inf)]

    def token_starts(self, path: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """(F,) bool: the frames of a (F,) path at which a token of the text begins.

        ``words``, (F,), is the number of the word that ends at a frame, or -1.
        """
        return run_starts(path[None])[0] & (path != self.blank)


def empty_hypothesis(score: float) -> Hypothesis:
    """A hypothesis without tokens."""
    return make_hypothesis(torch.zeros(0, dtype=torch.long), score, torch.zeros(0), torch.zeros(0, dtype=torch.long))


def index_of(dictionary: Dictionary, symbol: str) -> int | None:
    """Index of a symbol, or None if the dictionary does not contain it."""
    return dictionary.index(symbol) if symbol in dictionary else None
