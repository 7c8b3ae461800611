"""The result of an ABX test: errors within and across speakers, and those of each pair of phones and each speaker."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PAIR_COLUMNS = [
    ("a", "A, X", ""),
    ("b", "B", ""),
    ("error", "error %", ".2f"),
    ("speakers", "speakers", "d"),
    ("triples", "triples", "d"),
]
SPEAKER_COLUMNS = [
    ("speaker", "speaker", ""),
    ("error", "error %", ".2f"),
    ("pairs", "phone pairs", "d"),
    ("triples", "triples", "d"),
]


@dataclass(frozen=True)
class AbxScore:
    """Errors within or across speakers.

    Attributes:
        speakers, phones: names, sorted.
        errors: (speakers of A and B, phones of A and X, phones of B) float64, %, mean over contexts; NaN where nothing
            was compared.
        triples: same shape, int64: number of group triples in each mean.
    """

    speakers: tuple[str, ...]
    phones: tuple[str, ...]
    errors: np.ndarray
    triples: np.ndarray

    @property
    def pair_errors(self) -> np.ndarray:
        """(phones of A and X, phones of B) float64, %: mean over speakers; NaN where nothing was compared."""
        return _mean(self.errors, axis=0)

    @property
    def error(self) -> float:
        """The ABX error in %: mean over ordered phone pairs."""
        return float(_mean(self.pair_errors))

    def pair_rows(self) -> list[dict]:
        """A row for each phone pair, for ``format_table`` with ``PAIR_COLUMNS``; highest error first."""
        errors, triples, speakers = self.pair_errors, self.triples.sum(axis=0), (self.triples > 0).sum(axis=0)
        rows = [
            {
                "a": self.phones[a],
                "b": self.phones[b],
                "error": float(errors[a, b]),
                "speakers": int(speakers[a, b]),
                "triples": int(triples[a, b]),
            }
            for a, b in np.argwhere(triples > 0)
        ]
        return sorted(rows, key=lambda row: -row["error"])

    def speaker_rows(self) -> list[dict]:
        """A row for each speaker of A and B, for ``format_table`` with ``SPEAKER_COLUMNS``: means over phone pairs."""
        with_triples = [s for s in range(len(self.speakers)) if self.triples[s].any()]
        return [
            {
                "speaker": self.speakers[s],
                "error": float(_mean(self.errors[s])),
                "pairs": int((self.triples[s] > 0).sum()),
                "triples": int(self.triples[s].sum()),
            }
            for s in with_triples
        ]


@dataclass(frozen=True)
class AbxResult:
    """Scores, and numbers of items.

    within, across: scores within and across speakers; None if the items allow no comparison of that kind.
    items: items with frames.
    too_short: items left out because they contain no frame.
    missing: items left out because their utterance has no features.
    """

    within: AbxScore | None
    across: AbxScore | None
    items: int
    too_short: int
    missing: int

    @property
    def scores(self) -> dict[str, AbxScore]:
        """The scores that are not None, by the keys ``"within"`` and ``"across"``."""
        return {name: score for name, score in (("within", self.within), ("across", self.across)) if score is not None}

    def as_dict(self) -> dict:
        """Plain numbers for JSON; errors in %."""
        errors = {name: score.error for name, score in self.scores.items()}
        return {
            "within": None,
            "across": None,
            **errors,
            "items": self.items,
            "too_short": self.too_short,
            "missing": self.missing,
        }


def _mean(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Mean of the values that are not NaN; NaN if there are none."""
    valid = ~np.isnan(values)
    count = valid.sum(axis=axis)
    return np.where(count > 0, np.where(valid, values, 0).sum(axis=axis) / np.maximum(count, 1), np.nan)


class Tally:
    """Accumulates the errors of group triples by speaker and phones."""

    def __init__(self, speakers: Sequence[str], phones: Sequence[str]):
        self.speakers, self.phones = tuple(speakers), tuple(phones)
        self.sums = np.zeros((len(speakers), len(phones), len(phones)))
        self.triples = np.zeros(self.sums.shape, dtype=np.int64)

    def add(self, speaker: int, a: int, b: np.ndarray, errors: np.ndarray) -> None:
        self.sums[speaker, a, b] += errors
        self.triples[speaker, a, b] += 1

    def score(self) -> AbxScore | None:
        if not self.triples.any():
            return None
        errors = np.full(self.sums.shape, np.nan)
        np.divide(100 * self.sums, self.triples, out=errors, where=self.triples > 0)
        return AbxScore(self.speakers, self.phones, errors, self.triples)
