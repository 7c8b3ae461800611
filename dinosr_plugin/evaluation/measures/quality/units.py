"""Figures of one set of units: agreement with phones, what they tell about the speaker, bits a second, lengths.

Conventions, the same for every figure and every set of units:

- Silence is a phone like any other and is kept, and so is every frame: one whose centre lies in no segment, or past the last one, gets the
  phone before it, one before the first segment the first phone (``PhoneAlignment.frame_phones``).
- The centre of frame i lies at 12.5 ms + i / rate, whatever the rate: units that `dinosr units --rate` thins out stay where they were, and of those
  that it repeats the first does.
- Ties: purity sums the maximum, whoever holds it; none is broken.
- ``n_codes`` is the size of the codebook; of units from a file, which do not tell it, the largest id + 1.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from ....units.codes import dedup
from ...phones import PhoneAlignment
from .agreement import Quality, contingency, entropy_bits, pnmi


@dataclass(frozen=True)
class UnitQuality:
    """All figures of one set of units. ``quality``: its agreement with phones."""

    quality: Quality
    speaker_pnmi: (
        float | None
    )  # I(speaker; unit) / H(speaker), "SNMI" in Spin (Chang et al. 2023); 0 with one speaker, None where nobody knows them
    bit_rate: float  # bits a second of the units as they come: rate * entropy (ZeroSpeech 2019: Dunbar et al. 2019)
    run_bit_rate: float  # the same with each run of equal units once: runs a second * entropy of their distribution
    unit_ms: float  # mean length of a run of equal units; a run ends with its utterance
    phone_ms: float  # mean length of a phone in the same utterances; two neighbours of one name that touch are one phone, as a run of units is

    def as_dict(self) -> dict:
        """All in one, plain numbers or None, ready for JSON."""
        figures = asdict(self)
        return {**figures.pop("quality"), **figures}


@dataclass(frozen=True)
class UnitCounts:
    """What the figures are computed from.

    Attributes:
        by_phone: (n_phones, n_codes) int64 frames, rows in the order of ``PhoneAlignment.names``.
        by_speaker: (n_speakers, n_codes) int64 frames; None where nobody knows the speakers.
        runs: (n_codes,) int64, runs of equal units.
        rate: units a second.
        phone_ms: as in ``UnitQuality``.
    """

    by_phone: np.ndarray
    by_speaker: np.ndarray | None
    runs: np.ndarray
    rate: float
    phone_ms: float

    def figures(self) -> UnitQuality:
        """Raises UserError where there is no frame."""
        quality = Quality.from_counts(self.by_phone)
        seconds, runs = quality.frames / self.rate, int(self.runs.sum())
        return UnitQuality(
            quality=quality,
            speaker_pnmi=None if self.by_speaker is None else pnmi(self.by_speaker / quality.frames),
            bit_rate=self.rate * entropy_bits(self.by_phone.sum(axis=0)),
            run_bit_rate=runs / seconds * entropy_bits(self.runs),
            unit_ms=1000 * seconds / runs,
            phone_ms=self.phone_ms,
        )


def count_units(
    units: Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]],
    phones: PhoneAlignment,
    speakers: Mapping[str, str] | None,
    rate: float,
    n_codes: int | None = None,
) -> UnitCounts:
    """Count units against phones and speakers.

    Args:
        units: utterance -> (n,) integers from 0, ``rate`` a second; or pairs of these.
        speakers: utterance -> speaker, of these utterances at least; None where nobody knows them.
        n_codes: size of the codebook; None: the largest unit + 1.

    Raises:
        UserError: an utterance without alignment.
        ValueError: a unit outside [0, n_codes).
    """
    units = dict(units)
    phones.require(units)
    if n_codes is None:
        n_codes = 1 + max((int(ids.max()) for ids in units.values() if len(ids)), default=0)
    row_of = (
        {name: row for row, name in enumerate(sorted({speakers[utt] for utt in units}))} if speakers is not None else {}
    )
    by_phone = np.zeros((len(phones.names), n_codes), dtype=np.int64)
    by_speaker = np.zeros((len(row_of), n_codes), dtype=np.int64)
    runs = np.zeros(n_codes, dtype=np.int64)
    for utt, ids in units.items():
        by_phone += contingency(phones.frame_phones(utt, len(ids), rate), ids, *by_phone.shape)
        runs += np.bincount(dedup(ids), minlength=n_codes)
        if speakers is not None:
            by_speaker[row_of[speakers[utt]]] += np.bincount(ids, minlength=n_codes)
    return UnitCounts(by_phone, by_speaker if speakers is not None else None, runs, rate, mean_phone_ms(phones, units))


def mean_phone_ms(phones: PhoneAlignment, utts: Iterable[str]) -> float:
    """Mean of ``phone_lengths``; NaN without utterances."""
    lengths = phone_lengths(phones, utts)
    return float(lengths.mean()) if len(lengths) else float("nan")


def phone_lengths(phones: PhoneAlignment, utts: Iterable[str]) -> np.ndarray:
    """(N,) ms, of every phone in these utterances, silence included; neighbours of one name that touch are one."""
    lengths = [np.zeros(0)]
    for utt in utts:
        (starts, names), ends = phones.segments[utt], phones.ends[utt]  # microseconds
        new = np.ones(len(starts), dtype=bool)
        new[1:] = (names[1:] != names[:-1]) | (starts[1:] != ends[:-1])
        lengths.append(np.add.reduceat(ends - starts, np.flatnonzero(new)) / 1000)
    return np.concatenate(lengths)
