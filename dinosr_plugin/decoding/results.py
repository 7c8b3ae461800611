"""Word and character error rates from what ``fairseq-generate`` wrote."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import editdistance
import numpy as np

from ..errors import UserError

LINE = re.compile(r"([TD])-(\d+)\t(.*)")

RESAMPLES = 1000
"""Draws of the bootstrap: the bounds of its 95 % interval rest on 25 draws each."""


def score_generate_output(path: str | Path) -> dict[str, Any]:
    """Score the output of ``fairseq-generate ... --post-process letter`` (what it printed, or its ``--results-path`` file).

    Args:
        path: the file; lines that are neither a reference (``T-``) nor a hypothesis (``D-``) are passed over.

    Returns:
        See ``error_rates``.

    Raises:
        UserError: no file, no results in it, a hypothesis without its reference (or the reverse), or empty references.
    """
    references, hypotheses = read_generate_output(path)
    if not any(reference.split() for reference in references.values()):
        raise UserError(f"{path}: all references are empty; was the right --gen-subset decoded?")
    return error_rates([(references[utterance], hypotheses[utterance]) for utterance in references])


def error_rates(texts: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Word and character error rates of (reference, hypothesis) pairs, one an utterance.

    Error rates are those of the whole set: edit operations over all utterances, divided by the length of all references,
    times 100. ``wer`` counts words; ``cer`` counts characters, with each space between words as one character.
    Nothing is normalised (no change of case, punctuation stays). Intervals: see ``bootstrap_interval``.

    Returns:
        ``{"wer": float, "cer": float, "wer_interval": (low, high), "cer_interval": (low, high), "utterances": int, "words": int}``
        (words of the references). References without any word -> ZeroDivisionError.
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
    }


def read_generate_output(path: str | Path) -> tuple[dict[int, str], dict[int, str]]:
    """References and best hypotheses of a ``fairseq-generate`` output, by sample id; raises as ``score_generate_output``."""
    texts: dict[str, dict[int, str]] = {"T": {}, "D": {}}
    for kind, utterance, text in _result_lines(Path(path)):
        if kind == "D":
            text = text.partition("\t")[2]  # "score<TAB>text"
        texts[kind].setdefault(int(utterance), text)  # the first hypothesis is the best one
    references, hypotheses = texts["T"], texts["D"]
    if not references and not hypotheses:
        raise UserError(f"{path}: no T- and D- lines; is it the output of fairseq-generate, run without --quiet?")
    unpaired = sorted(references.keys() ^ hypotheses.keys())
    if unpaired:
        raise UserError(f"{path}: utterance {unpaired[0]} lacks its T- or D- line; is the file complete?")
    return references, hypotheses


def error_rate(pairs: Sequence[tuple[Sequence, Sequence]]) -> float:
    """Edit operations in percent of the references' length, over all (reference, hypothesis) pairs; 0 references -> ZeroDivisionError."""
    errors = sum(editdistance.eval(reference, hypothesis) for reference, hypothesis in pairs)
    return 100.0 * errors / sum(len(reference) for reference, _ in pairs)


def bootstrap_interval(pairs: Sequence[tuple[Sequence, Sequence]], seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of ``error_rate``, by drawing utterances with replacement; the same seed gives the same interval.

    It says what other utterances of these speakers would change, not other speakers: utterances of one speaker are alike.
    Bisani and Ney, "Bootstrap Estimates for Confidence Intervals in ASR Performance Evaluation", ICASSP 2004.
    """
    errors = np.array([editdistance.eval(reference, hypothesis) for reference, hypothesis in pairs])  # (N,)
    lengths = np.array([len(reference) for reference, _ in pairs])  # (N,)
    rng = np.random.default_rng(seed)
    draws = [rng.integers(len(pairs), size=len(pairs)) for _ in range(RESAMPLES)]
    rates = [
        100.0 * errors[draw].sum() / lengths[draw].sum() for draw in draws if lengths[draw].any()
    ]  # a draw may hold empty references only
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)


def _result_lines(path: Path):
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; give the file that fairseq-generate wrote (RESULTS_PATH/generate-SUBSET.txt)"
        )
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            match = LINE.fullmatch(line.rstrip("\n"))
            if match:
                yield match.groups()
