"""Tracks, numbers measured from the sound every 10 ms: log energy, and log-F0 of voiced frames.

They are kept in feature folders of width 1 on the grid ``ENERGY``, so that an interrupted command resumes.

- Energy: natural logarithm of the mean square of 25 ms.
- F0: Praat's autocorrelation, in the range of the speaker, which is measured first (``perturbation.f0``); the value is
  that of Praat's nearest frame.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ....data.acoustic import ENERGY, log_energy
from ....data.audio import SAMPLE_RATE
from ....data.perturbation import praat
from ....data.perturbation.f0 import EVERYONE, SECONDS, Range, range_of
from ....units.batches import Utterance, load_checked_wave, require_files
from ....units.features import FeatureSpec, write_rows
from ....units.store import FeatureFolder
from .labels import MISSING


class Tracks:
    """A track of each utterance, measured when the first one is read.

    Args:
        kind: ``energy`` or ``f0``.
        utterances, speakers: the speech, and utterance -> speaker.
        folder: where the tracks are kept.

    ``tracks[utt]``: (m, 1) float32; ``MISSING`` in unvoiced frames of F0.

    Raises:
        UserError: on access: from the audio; parselmouth is not installed.
    """

    def __init__(self, kind: str, utterances: Sequence[Utterance], speakers: Mapping[str, str], folder: Path):
        self.kind, self.utterances, self.speakers, self.path = kind, utterances, speakers, folder
        self.folder: FeatureFolder | None = None

    def __contains__(self, utt: str) -> bool:
        return any(utterance.name == utt for utterance in self.utterances)

    def __getitem__(self, utt: str) -> np.ndarray:
        if self.folder is None:
            self.folder = self.measured()
        return self.folder[utt]

    def measured(self) -> FeatureFolder:
        require_files(self.utterances, "the manifest")
        spec = FeatureSpec(ENERGY, 1, "float32", {"kind": self.kind})
        rows = self.energy_rows if self.kind == "energy" else self.f0_rows
        title = {"energy": "energy", "f0": "F0"}[self.kind]
        write_rows([spec.writer(self.path, self.utterances)], self.utterances, title, rows)
        return FeatureFolder(self.path)

    def energy_rows(self, rows: Iterable[int]) -> Iterator[tuple[int, list[np.ndarray]]]:
        for row in rows:
            yield row, [log_energy(load_checked_wave(self.utterances[row]))[:, None]]

    def f0_rows(self, rows: Iterable[int]) -> Iterator[tuple[int, list[np.ndarray]]]:
        praat.require_parselmouth()
        ranges: dict[str, Range] = {}
        try:
            for row in rows:
                utterance = self.utterances[row]
                speaker = self.speakers[utterance.name]
                if speaker not in ranges:
                    ranges[speaker] = range_of(self.first_seconds(speaker))
                yield row, [log_f0(load_checked_wave(utterance), ranges[speaker])[:, None]]
        finally:
            praat.close()

    def first_seconds(self, speaker: str) -> Iterator[np.ndarray]:
        """The first 30 s of the speaker's utterances, (T,) float32 each."""
        left = int(SECONDS * SAMPLE_RATE)
        for utterance in self.utterances:
            if self.speakers[utterance.name] == speaker and left > 0:
                wave = load_checked_wave(utterance)[:left]
                left -= len(wave)
                yield wave


def log_f0(wave: np.ndarray, f0: Range = EVERYONE) -> np.ndarray:
    """Natural logarithm of F0 in Hz, ``MISSING`` in unvoiced frames: (T,) float32 -> (m,) float32 on ``ENERGY``."""
    m = ENERGY.count(len(wave))
    try:
        times, hertz = praat.track_f0(wave, f0)
    except praat.PraatFailed:  # too short, or Praat took too long
        times, hertz = np.zeros(1), np.zeros(1)
    centres = ENERGY.first_centre + np.arange(m) / ENERGY.rate
    between = (times[1:] + times[:-1]) / 2
    nearest = hertz[np.searchsorted(between, centres)]  # (m,)
    return np.where(nearest > 0, np.log(np.maximum(nearest, 1.0)), MISSING).astype(np.float32)
