"""Grid search for the language model weight and word score with the lowest WER on saved emissions of a dev set."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from tqdm import tqdm

from ..errors import UserError
from .base import Hypothesis
from .emissions import EmissionReader
from .empty import note_on_texts
from .pool import DecoderPool, Pending
from .results import error_rates
from .search import BeamSearch, SearchOptions
from .words import rate_name, text_of


@dataclass(frozen=True)
class Trial:
    """A point of the grid and its error rates.

    ``rates``: see ``error_rates``. ``rate_name``: WER, or UER for symbols. ``note``: that texts are empty, or None.
    """

    lm_weight: float
    word_score: float
    rates: dict[str, Any]
    rate_name: str = "WER"
    note: str | None = None


def tune(
    emissions: EmissionReader, decoder: BeamSearch, weights: Sequence[float], scores: Sequence[float], processes: int
) -> list[Trial]:
    """Decode all utterances with each pair of a language model weight and a word score.

    Args:
        emissions: emissions of a development set, with references.
        decoder: a decoder with language model and lexicon; its other options do not change.
        weights, scores: the grid.
        processes: see ``DecoderPool``.

    Raises:
        UserError: all references are empty.
    """
    rate = rate_name(emissions.meta.symbols)
    references = [text_of(label.split(), emissions.meta.symbols) for label in emissions.meta.labels]
    if not any(reference.split() for reference in references):
        raise UserError(f"{emissions.path}: all references are empty; decode a --gen-subset that has transcripts")
    trials: list[Trial] = []
    bar = tqdm(total=len(weights) * len(scores) * len(emissions), unit="utt", desc="decoding", disable=None)
    with DecoderPool(decoder, processes) as pool, bar:
        for weight, score, pending in submit_trials(pool, list(emissions), decoder.options, weights, scores):
            texts = []
            for one in pending:
                ((best, *_),) = one.wait()
                texts.append(text_of(symbols_of(best, emissions), emissions.meta.symbols))
                bar.update()
            trials.append(Trial(weight, score, error_rates(list(zip(references, texts))), rate, note_on_texts(texts)))
            bar.set_postfix_str(f"{rate} {best_of(trials).rates['wer']:.2f} so far")
    return trials


def submit_trials(
    pool: DecoderPool,
    tables: list[torch.Tensor],
    options: SearchOptions,
    weights: Sequence[float],
    scores: Sequence[float],
) -> Iterator[tuple[float, float, list[Pending]]]:
    """All trials in order.

    Each is yielded after the next one is submitted, so that no process waits for the slowest utterance.
    """
    waiting: deque[tuple[float, float, list[Pending]]] = deque()
    for weight, score in product(weights, scores):
        trial_options = replace(options, lm_weight=weight, word_score=score)
        pending = [pool.submit(table[None], torch.tensor([len(table)]), trial_options) for table in tables]
        waiting.append((weight, score, pending))
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting


def symbols_of(hypothesis: Hypothesis, emissions: EmissionReader) -> list[str]:
    return [emissions.meta.symbols[token] for token in hypothesis["tokens"].tolist()]


def best_of(trials: Sequence[Trial]) -> Trial:
    """The trial with the lowest WER, then the lowest CER, then the smallest absolute weight and score."""
    return min(
        trials, key=lambda trial: (trial.rates["wer"], trial.rates["cer"], abs(trial.lm_weight), abs(trial.word_score))
    )


def summary(trials: Sequence[Trial], beam: int) -> str:
    """The best trial as command-line options, and notes: a larger grid may contain a better one, texts are empty."""
    best = best_of(trials)
    low, high = best.rates["wer_interval"]
    word_score = f" --word-score {best.word_score:g}" if best.word_score else ""
    lines = [
        f"best: --lm-weight {best.lm_weight:g}{word_score} --beam {beam}: "
        f"{best.rate_name} {best.rates['wer']:.2f} [{low:.2f}, {high:.2f}]"
    ]
    for name, option in (("lm_weight", "--lm-weights"), ("word_score", "--word-scores")):
        values = sorted({getattr(trial, name) for trial in trials})
        if len(values) > 1 and getattr(best, name) in (values[0], values[-1]) and getattr(best, name) != 0:
            lines.append(f"note: {getattr(best, name):g} is at the edge of the grid; give {option} a wider range")
    if best.note:
        lines.append(f"note: {best.note}")
    return "\n".join(lines)
