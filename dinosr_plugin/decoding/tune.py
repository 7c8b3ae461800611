"""Which weight of a language model, and which word score, decode a development set best: each pair of a grid is tried on the same emissions."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from fairseq.data.data_utils import post_process
from tqdm import tqdm

from ..errors import UserError
from ..evaluation.table import format_table
from .base import Hypothesis
from .emissions import EmissionReader
from .pool import DecoderPool, Pending
from .results import error_rates
from .search import BeamSearch, SearchOptions
from .words import kind_of


@dataclass(frozen=True)
class Trial:
    """rates: see ``error_rates``."""

    lm_weight: float
    word_score: float
    rates: dict[str, Any]


def tune(
    emissions: EmissionReader, decoder: BeamSearch, weights: Sequence[float], scores: Sequence[float], processes: int
) -> list[Trial]:
    """Decode everything once for each pair of a weight and a word score.

    Args:
        emissions: those of a development set, with its references.
        decoder: has language model and lexicon loaded; its other options stay.
        weights, scores: the grid.
        processes: as ``DecoderPool`` has them.

    Raises:
        UserError: no reference has a word.
    """
    references = [words(label.split(), emissions.meta.symbols) for label in emissions.meta.labels]
    if not any(reference.split() for reference in references):
        raise UserError(f"{emissions.path}: all references are empty; use a --gen-subset with transcripts")
    trials: list[Trial] = []
    bar = tqdm(total=len(weights) * len(scores) * len(emissions), unit="utt", desc="decoding", disable=None)
    with DecoderPool(decoder, processes) as pool, bar:
        for weight, score, pending in begun(pool, list(emissions), decoder.options, weights, scores):
            texts = []
            for one in pending:
                ((best, *_),) = one.wait()
                texts.append(words(symbols_of(best, emissions), emissions.meta.symbols))
                bar.update()
            trials.append(Trial(weight, score, error_rates(list(zip(references, texts)))))
            bar.set_postfix_str(f"WER {best_of(trials).rates['wer']:.2f} so far")
    return trials


def begun(
    pool: DecoderPool,
    tables: list[torch.Tensor],
    options: SearchOptions,
    weights: Sequence[float],
    scores: Sequence[float],
) -> Iterator[tuple[float, float, list[Pending]]]:
    """All trials in order; each is handed out when the next one lies ready, so that no process has to wait for the slowest utterance."""
    waiting: deque[tuple[float, float, list[Pending]]] = deque()
    for weight, score in product(weights, scores):
        tried = replace(options, lm_weight=weight, word_score=score)
        waiting.append(
            (weight, score, [pool.submit(table[None], torch.tensor([len(table)]), tried) for table in tables])
        )
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting


def symbols_of(hypothesis: Hypothesis, emissions: EmissionReader) -> list[str]:
    return [emissions.meta.symbols[token] for token in hypothesis["tokens"].tolist()]


def words(symbols: Sequence[str], alphabet: Sequence[str]) -> str:
    return post_process(" ".join(symbols), kind_of(alphabet))


def best_of(trials: Sequence[Trial]) -> Trial:
    """Fewest word errors, then fewest character errors, then the smallest weights."""
    return min(
        trials, key=lambda trial: (trial.rates["wer"], trial.rates["cer"], abs(trial.lm_weight), abs(trial.word_score))
    )


def tuning_table(trials: Sequence[Trial]) -> str:
    """WER: a row for each weight, a column for each word score."""
    scores = list(dict.fromkeys(trial.word_score for trial in trials))
    rows: dict[float, dict[Any, Any]] = {}
    for trial in trials:
        rows.setdefault(trial.lm_weight, {"weight": f"{trial.lm_weight:g}"})[trial.word_score] = trial.rates["wer"]
    return format_table(
        list(rows.values()),
        [("weight", "WER at LM weight", ""), *((score, f"word score {score:g}", ".2f") for score in scores)],
    )


def summary(trials: Sequence[Trial], beam: int) -> str:
    """The best trial, what to type for it, and a warning where a larger grid may hold a better one."""
    best = best_of(trials)
    low, high = best.rates["wer_interval"]
    word_score = f" --word-score {best.word_score:g}" if best.word_score else ""
    lines = [
        f"best: --lm-weight {best.lm_weight:g}{word_score} --beam {beam}: WER {best.rates['wer']:.2f} [{low:.2f}, {high:.2f}]"
    ]
    for name, option in (("lm_weight", "--lm-weights"), ("word_score", "--word-scores")):
        values = sorted({getattr(trial, name) for trial in trials})
        if len(values) > 1 and getattr(best, name) in (values[0], values[-1]) and getattr(best, name) != 0:
            lines.append(f"note: {getattr(best, name):g} is at the edge of what was tried; give {option} a wider range")
    return "\n".join(lines)
