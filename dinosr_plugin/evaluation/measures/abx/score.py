"""What an ABX test found: the error within and across speakers, and of every pair of phones and every speaker."""

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
    """Within or across speakers.

    Attributes:
        speakers, phones: names, sorted.
        errors: (speakers of A and B, phones of A and X, phones of B) float64, %, mean over contexts; NaN where nothing was compared.
        triples: same shape, int64: the group triples behind it.
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
        """One row a phone pair for ``tables.format_table`` with ``PAIR_COLUMNS``, highest error first."""
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
        """One row a speaker of A and B for ``format_table`` with ``SPEAKER_COLUMNS``: mean over the phone pairs of that speaker."""
        heard = [s for s in range(len(self.speakers)) if self.triples[s].any()]
        return [
            {
                "speaker": self.speakers[s],
                "error": float(_mean(self.errors[s])),
                "pairs": int((self.triples[s] > 0).sum()),
                "triples": int(self.triples[s].sum()),
            }
            for s in heard
        ]


@dataclass(frozen=True)
class AbxResult:
    """``within`` and ``across`` speakers; None where the items allow no comparison of that kind."""

    within: AbxScore | None
    across: AbxScore | None
    items: int  # that had frames
    too_short: int  # items left out because they hold no frame
    missing: int  # items left out because their utterance has no features

    @property
    def scores(self) -> dict[str, AbxScore]:
        """``"within"`` and ``"across"``, where something was compared."""
        return {name: score for name, score in (("within", self.within), ("across", self.across)) if score is not None}

    def as_dict(self) -> dict:
        """Plain numbers, ready for JSON; errors in %."""
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
    """Mean of what is not NaN; NaN where there is nothing."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    return np.where(count > 0, np.where(known, values, 0).sum(axis=axis) / np.maximum(count, 1), np.nan)


class Tally:
    """Errors of group triples as they come, by speaker and phones."""

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
