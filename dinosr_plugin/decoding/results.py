"""Word and character error rates from the output of ``fairseq-generate``."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import editdistance
import numpy as np
from fairseq.data.data_utils import post_process

from ..errors import UserError
from ..files import read_lines
from .search import WORD_BOUNDARY

LINE = re.compile(r"([TD])-([0-9]{1,18})\t(.*)")

RESAMPLES = 1000
"""Bootstrap samples; 25 of them lie outside each bound of the 95 % interval."""


def score_generate_output(path: str | Path) -> dict[str, Any]:
    """Score the output of ``fairseq-generate`` (its stdout or its ``--results-path`` file).

    Letters and word boundaries, which ``--post-process none`` prints, are merged to words.

    Args:
        path: the file; lines other than references (``T-``) and hypotheses (``D-``) are ignored.

    Returns:
        See ``error_rates``.

    Raises:
        UserError: the file is missing or contains no results, a hypothesis has no reference (or the reverse), or all
            references are empty.
    """
    references, hypotheses = read_generate_output(path)
    if not any(reference.split() for reference in references.values()):
        raise UserError(f"{path}: all references are empty; decode a --gen-subset that has transcripts")
    return error_rates([(references[utterance], hypotheses[utterance]) for utterance in references])


def error_rates(texts: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Word and character error rates of (reference, hypothesis) pairs, one for each utterance.

    Error rates are those of the whole set: edit operations over all utterances, divided by the total length of the
    references, times 100. ``wer`` counts words; ``cer`` counts characters, with each space between words as one
    character. The texts are not normalised (case and punctuation count). Intervals: see ``bootstrap_interval``.

    Returns:
        ``{"wer": float, "cer": float, "wer_interval": (low, high), "cer_interval": (low, high), "utterances": int,
        "words": int, "empty": int}``; ``words`` is the number of words in the references, ``empty`` that of hypotheses
        without words.

    Raises:
        ZeroDivisionError: no reference contains a word.
    """
    words = [(reference.split(), hypothesis.split()) for reference, hypothesis in texts]
    characters = [(" ".join(reference), " ".join(hypothesis)) for reference, hypothesis in words]
    return {
        "wer": error_rate(words),
        "cer": error_rate(characters),
        "wer_interval": bootstrap_interval(words),
        "cer_interval": bootstrap_interval(characters),
        "utterances": len(texts),
        "words": sum(len(reference) for reference, _ in words),
        "empty": sum(not hypothesis for _, hypothesis in words),
    }


def read_generate_output(path: str | Path) -> tuple[dict[int, str], dict[int, str]]:
    """Read (references, best hypotheses) by sample id; raises as ``score_generate_output``."""
    texts: dict[str, dict[int, str]] = {"T": {}, "D": {}}
    for kind, utterance, text in _result_lines(Path(path)):
        if kind == "D":
            text = text.partition("\t")[2]  # "score<TAB>text"
        texts[kind].setdefault(int(utterance), text)  # the first hypothesis is the best one
    references, hypotheses = texts["T"], texts["D"]
    if any(WORD_BOUNDARY in reference.split() for reference in references.values()):
        references, hypotheses = (
            {utterance: post_process(text, "letter") for utterance, text in some.items()}
            for some in (references, hypotheses)
        )
    if not references and not hypotheses:
        raise UserError(
            f"{path}: contains no T- and D- lines; give the output of fairseq-generate, run without --quiet"
        )
    unpaired = sorted(references.keys() ^ hypotheses.keys())
    if unpaired:
        raise UserError(
            f"{path}: the T- or D- line of utterance {unpaired[0]} is missing; "
            "give the complete output of fairseq-generate"
        )
    return references, hypotheses


def error_rate(pairs: Sequence[tuple[Sequence, Sequence]]) -> float:
    """Edit operations in percent of the total reference length. Raises ZeroDivisionError if that is 0."""
    errors = sum(editdistance.eval(reference, hypothesis) for reference, hypothesis in pairs)
    return 100.0 * errors / sum(len(reference) for reference, _ in pairs)


def bootstrap_interval(pairs: Sequence[tuple[Sequence, Sequence]], seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of ``error_rate``, from utterances resampled with replacement.

    The interval describes other utterances of these speakers, not other speakers: utterances of one speaker are alike.
    Bisani and Ney, "Bootstrap Estimates for Confidence Intervals in ASR Performance Evaluation", ICASSP 2004.
    """
    errors = np.array([editdistance.eval(reference, hypothesis) for reference, hypothesis in pairs])  # (N,)
    lengths = np.array([len(reference) for reference, _ in pairs])  # (N,)
    rng = np.random.default_rng(seed)
    draws = [rng.integers(len(pairs), size=len(pairs)) for _ in range(RESAMPLES)]
    # a sample may contain only empty references
    rates = [100.0 * errors[draw].sum() / lengths[draw].sum() for draw in draws if lengths[draw].any()]
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)


def _result_lines(path: Path):
    for line in read_lines(path, "give the file that fairseq-generate wrote (RESULTS_PATH/generate-SUBSET.txt)"):
        if match := LINE.fullmatch(line):
            yield match.groups()
