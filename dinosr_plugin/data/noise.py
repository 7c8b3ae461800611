"""Noise: recordings that are added to speech at a random signal-to-noise ratio (R-Spin, arXiv 2311.09117, section 3).

R-Spin adds MUSAN and CHiME-4 backgrounds at -10 to 10 dB, to both views independently. A manifest of speech gives
babble of one voice.
"""

import logging
from array import array
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ..errors import UserError
from .audio import MONO_COPIES, AudioError, read_header, read_part, with_retries, wrong_format
from .dataset import NAMED, FileNames
from .manifest import NO_ROWS, read_root, read_rows

logger = logging.getLogger(__name__)

SILENCE = 1e-20  # power below which a signal is silent: far below the smallest step of 24 bits


class Noise:
    """Adds a random part of a random recording; ``Transform`` of a view.

    The ratio is that of the mean powers over the whole waveform, here the crop, in dB, drawn uniformly between ``low``
    and ``high``. A recording that is shorter than the waveform is repeated. The sum is not clipped. Silent speech, and
    speech whose noise is silent, stays as it is.

    Args:
        manifest: a ``.tsv`` file of recordings at 16 kHz.
        low, high: dB.
        skip_bad_audio: where the recording that was drawn cannot be used, take the next one of the manifest, and log
            it.
        max_bad_files: maximum number of different recordings to skip, over all loader workers as in ``SpeechDataset``;
            None: any number.

    Raises:
        UserError: the manifest cannot be read or is empty. Without ``skip_bad_audio``, the first recording cannot be
            used, or, when it is called, the one that was drawn; with it, more than ``max_bad_files`` or all.
    """

    def __init__(
        self,
        manifest: Path,
        low: float,
        high: float,
        skip_bad_audio: bool = False,
        max_bad_files: int | None = None,
    ):
        self.manifest, self.low, self.high = manifest, low, high
        self.skip_bad_audio, self.max_bad_files = skip_bad_audio, max_bad_files
        self.root = read_root(manifest)
        self.names, self.samples = FileNames(), array("q")
        for _, name, samples in read_rows(manifest):
            self.names.append(name.encode())
            self.samples.append(samples)
        self.logged = 0  # bad recordings that this process has seen first
        # in shared memory: the loader's workers count together
        self.bad = torch.zeros(len(self.samples), dtype=torch.bool).share_memory_()
        if not self.samples:
            raise UserError(f"{manifest}: {NO_ROWS}")
        if not skip_bad_audio:
            self.require_format(self.path(0))

    def __call__(self, wave: np.ndarray, rng: np.random.Generator, utterance: int = 0) -> np.ndarray:
        recording, place = int(rng.integers(len(self.samples))), rng.random()
        snr = self.low + (self.high - self.low) * rng.random()
        return add_noise(wave, self.usable_part(recording, place, len(wave)), snr)

    def usable_part(self, recording: int, place: float, length: int) -> np.ndarray:
        """``part`` of this recording; with ``skip_bad_audio``, of the first one from it on that can be used.

        A recording is tried again every time, because a part of it may be damaged only: what another process has read
        changes no view.
        """
        for number in [*range(recording, len(self.samples)), *range(recording)]:
            try:
                return self.part(number, place, length)
            except AudioError as error:
                self.refuse(number, error)
        raise UserError(f"task.noise={self.manifest}: none of its recordings can be used; {self.advice}")

    def refuse(self, recording: int, error: AudioError) -> None:
        """Skip a recording, or raise UserError: as ``SpeechDataset`` does for speech."""
        if not self.skip_bad_audio:
            raise UserError(f"{self.path(recording)}: {error}; {self.advice}") from error
        if self.bad[recording]:
            return
        self.bad[recording] = True
        self.logged += 1
        count = int(self.bad.sum())
        if self.logged <= NAMED or self.logged % 100 == 0:
            logger.warning(f"skipped noise {self.path(recording)}: {error} ({count} bad recording(s) so far)")
        if self.max_bad_files is not None and count > self.max_bad_files:
            raise UserError(
                f"task.max_bad_files={self.max_bad_files}: {count} recordings of task.noise={self.manifest} cannot be "
                f"used; {self.advice}; repair them, or raise task.max_bad_files"
            )

    @property
    def advice(self) -> str:
        return f"`dinosr check {self.manifest}` lists all such files"

    def path(self, recording: int) -> Path:
        return self.root / self.names[recording].decode()

    def part(self, recording: int, place: float, length: int) -> np.ndarray:
        """(length,) float32, from ``place`` on: 0 for the first possible sample, almost 1 for the last.

        Raises AudioError for a recording that cannot be used.
        """
        samples, path = self.samples[recording], self.path(recording)
        spare = samples - length
        start = int(place * (spare + 1 if spare >= 0 else samples))
        first, count = (start, length) if spare >= 0 else (0, samples)
        read = partial(read_part, path, samples, first, count)
        wave = read() if self.bad[recording] else with_retries(read)
        return wave if spare >= 0 else np.resize(np.roll(wave, -start), length)

    @staticmethod
    def require_format(path: Path) -> None:
        try:
            wrong = wrong_format(read_header(path))
        except AudioError as error:
            raise UserError(f"{path}: {error}") from error
        if wrong:
            raise UserError(f"{path}: {wrong}; {MONO_COPIES}")


def add_noise(wave: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """(T,) + scaled (T,) -> (T,) float32, whose signal-to-noise ratio is ``snr`` dB; ``wave`` if one is silent."""
    speech_power, noise_power = (float(np.square(x, dtype=np.float64).mean()) for x in (wave, noise))
    if min(speech_power, noise_power) < SILENCE:
        return wave
    scale = np.sqrt(speech_power / noise_power) * 10 ** (-snr / 20)
    return (wave + scale * noise).astype(np.float32)
