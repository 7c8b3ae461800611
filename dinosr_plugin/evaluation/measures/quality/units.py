"""Figures of one set of units: agreement with phones, information about the speaker, bit rates, durations.

Without a phone alignment the figures about phones are None; all others do not need one.

Conventions, the same for every set of units:

- Silence is a phone like any other and is kept, and so is every frame: one whose centre is in no segment, or past the
  last one, counts for the phone before it; one before the first segment for the first phone.
- The centre of frame i is at ``first_centre + i / rate`` seconds, both from the source of the units: 12.5 ms + 20 ms *
  i for the trunk, 5 ms + 10 ms * i for CPC. PNMI depends on it (``ALIGNMENTS``, ``pnmi_by_lag``).
- Ties: purity sums the maximum, whichever code or phone has it.
- ``n_codes`` is the size of the codebook; for units from a file that does not say it, the largest id + 1.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from ....errors import UserError
from ....units.counts import contingency
from ....units.unit_files import dedup
from ...phones import PhoneAlignment
from .agreement import Quality, entropy_bits, pnmi, shares

ALIGNMENTS = ("centres", "published")
"""``centres``: a frame counts for the phone at its centre. ``published``: as the code of HuBERT, DinoSR and SpidR does
it, units are repeated to 100 Hz, and unit i is compared with label i of a 10 ms alignment, the phone at 10 i + 5 ms."""
PUBLISHED_RATE = 100.0  # labels per second
LAGS = tuple(range(-40, 41, 10))  # ms


@dataclass(frozen=True)
class UnitQuality:
    """All figures of one set of units.

    quality: agreement with phones.
    speaker_pnmi: I(speaker; unit) / H(speaker), "SNMI" in Spin (Chang et al. 2023); None for one speaker or none known.
    bit_rate: rate * entropy of the units, bits per second (ZeroSpeech 2019: Dunbar et al. 2019).
    run_bit_rate: the same with each run of equal units counted once.
    unit_ms: mean length of a run of equal units; a run ends with its utterance.
    phone_ms: mean length of a phone in the same utterances; adjacent segments of one name count as one phone. None
        without phones.
    """

    quality: Quality
    speaker_pnmi: float | None
    bit_rate: float
    run_bit_rate: float
    unit_ms: float
    phone_ms: float | None

    def as_dict(self) -> dict:
        """Plain numbers or None, ready for JSON."""
        figures = asdict(self)
        return {**figures.pop("quality"), **figures}


@dataclass(frozen=True)
class UnitCounts:
    """What the figures are computed from.

    Attributes:
        frames: (n_codes,) int64, frames of each unit.
        by_phone: (n_phones, n_codes) int64 frames, rows in the order of ``PhoneAlignment.names``; None without phones.
        by_speaker: (n_speakers, n_codes) int64 frames; None if the speakers are not known.
        runs: (n_codes,) int64, runs of equal units.
        rate: units per second.
        seconds: duration of the units.
        phone_ms: as in ``UnitQuality``.
    """

    frames: np.ndarray
    by_phone: np.ndarray | None
    by_speaker: np.ndarray | None
    runs: np.ndarray
    rate: float
    seconds: float
    phone_ms: float | None

    def figures(self) -> UnitQuality:
        """Raises UserError for counts without a frame."""
        quality = Quality.of_use(self.frames) if self.by_phone is None else Quality.from_counts(self.by_phone)
        runs = int(self.runs.sum())
        several = self.by_speaker if self.by_speaker is not None and len(self.by_speaker) > 1 else None
        return UnitQuality(
            quality=quality,
            speaker_pnmi=None if several is None else pnmi(several / several.sum()),
            bit_rate=self.rate * entropy_bits(self.frames),
            run_bit_rate=runs / self.seconds * entropy_bits(self.runs),
            unit_ms=1000 * self.seconds / runs,
            phone_ms=self.phone_ms,
        )


def count_units(
    units: Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]],
    phones: PhoneAlignment | None,
    speakers: Mapping[str, str] | None,
    rate: float,
    first_centre: float,
    n_codes: int | None = None,
    alignment: str = "centres",
) -> UnitCounts:
    """Count units against phones and speakers.

    Args:
        units: utterance -> (n,) integers from 0; or pairs of these.
        phones: alignment of these utterances at least; None without one.
        speakers: utterance -> speaker, of these utterances at least; None if they are not known.
        rate, first_centre: units per second, and the centre of unit 0 in seconds.
        n_codes: size of the codebook; None: the largest unit + 1.
        alignment: one of ``ALIGNMENTS``. With ``published`` the frames counted are those of 10 ms.

    Raises:
        UserError: an utterance without alignment; ``published`` without phones, or for a rate that does not divide 100.
        ValueError: a unit outside [0, n_codes).
    """
    units = dict(units)
    if phones is not None:
        phones.require(units)
    unit_rate = rate
    if alignment == "published":
        if phones is None:
            raise UserError("--alignment published: compares units with phones; add --phones, or leave it out")
        units, rate, first_centre = repeated_to_labels(units, phones, rate)
    if n_codes is None:
        n_codes = 1 + max((int(ids.max()) for ids in units.values() if len(ids)), default=0)
    names = sorted({speakers[utt] for utt in units}) if speakers is not None else []
    row_of = {name: row for row, name in enumerate(names)}
    by_phone = np.zeros((len(phones.names) if phones else 1, n_codes), dtype=np.int64)  # without phones, one for all
    by_speaker = np.zeros((len(row_of), n_codes), dtype=np.int64)
    runs = np.zeros(n_codes, dtype=np.int64)
    for utt, ids in units.items():
        place = (len(ids), rate, first_centre)
        of_frames = phones.frame_phones(utt, *place) if phones else np.zeros(len(ids), dtype=np.int64)
        by_phone += contingency(of_frames, ids, *by_phone.shape)
        runs += np.bincount(dedup(ids), minlength=n_codes)
        if speakers is not None:
            by_speaker[row_of[speakers[utt]]] += np.bincount(ids, minlength=n_codes)
    frames = by_phone.sum(axis=0)
    return UnitCounts(
        frames=frames,
        by_phone=None if phones is None else by_phone,
        by_speaker=None if speakers is None else by_speaker,
        runs=runs,
        rate=unit_rate,
        seconds=frames.sum() / rate,
        phone_ms=None if phones is None else mean_phone_ms(phones, units),
    )


def repeated_to_labels(
    units: Mapping[str, np.ndarray], phones: PhoneAlignment, rate: float
) -> tuple[dict[str, np.ndarray], float, float]:
    """(units at 100 Hz, 100, 0.005): each unit repeated, as many as the utterance has labels of 10 ms at most."""
    times = PUBLISHED_RATE / rate
    if not times.is_integer():
        raise UserError(f"--alignment published: {rate:g} units per second do not divide 100; use --alignment centres")
    ends = {utt: round(int(phones.ends[utt][-1]) * PUBLISHED_RATE / 1e6) for utt in units}  # labels
    return {utt: np.repeat(ids, int(times))[: ends[utt]] for utt, ids in units.items()}, PUBLISHED_RATE, 0.005


def pnmi_by_lag(
    units: Mapping[str, np.ndarray],
    phones: PhoneAlignment,
    rate: float,
    first_centre: float,
    alignment: str = "centres",
) -> dict[int, float]:
    """Lag in ms -> PNMI if every frame counts for the phone that many ms after its centre.

    A model whose units follow the sound late has its peak at a negative lag, one that is early at a positive one.
    """
    if alignment == "published":
        units, rate, first_centre = repeated_to_labels(units, phones, rate)
    centre = lambda lag: first_centre + lag / 1000
    counts = {lag: count_units(units, phones, None, rate, centre(lag)).by_phone for lag in LAGS}
    return {lag: pnmi(shares(of_lag)) for lag, of_lag in counts.items() if of_lag is not None}


def mean_phone_ms(phones: PhoneAlignment, utts: Iterable[str]) -> float:
    """Mean of ``phone_lengths``; NaN without utterances."""
    lengths = phone_lengths(phones, utts)
    return float(lengths.mean()) if len(lengths) else float("nan")


def phone_lengths(phones: PhoneAlignment, utts: Iterable[str]) -> np.ndarray:
    """(N,) ms, of every phone in these utterances, silence included; adjacent segments of one name count as one."""
    lengths = [np.zeros(0)]
    for utt in utts:
        (starts, names), ends = phones.segments[utt], phones.ends[utt]  # microseconds
        new = np.ones(len(starts), dtype=bool)
        new[1:] = (names[1:] != names[:-1]) | (starts[1:] != ends[:-1])
        lengths.append(np.add.reduceat(ends - starts, np.flatnonzero(new)) / 1000)
    return np.concatenate(lengths)
