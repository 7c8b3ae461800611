"""Noise: recordings that are added to speech at a random signal-to-noise ratio (R-Spin, arXiv 2311.09117, section 3).

R-Spin adds MUSAN and CHiME-4 backgrounds at -10 to 10 dB, to both views independently. A manifest of speech gives
babble of one voice.
"""

from array import array
from pathlib import Path

import numpy as np

from ..errors import UserError
from .audio import MONO_COPIES, AudioError, read_header, read_part, with_retries, wrong_format
from .dataset import FileNames
from .manifest import NO_ROWS, read_root, read_rows

SILENCE = 1e-20  # power below which a signal is silent: far below the smallest step of 24 bits


class Noise:
    """Adds a random part of a random recording; ``Transform`` of a view.

    The ratio is that of the mean powers over the whole waveform, here the crop, in dB, drawn uniformly between ``low``
    and ``high``. A recording that is shorter than the waveform is repeated. The sum is not clipped. Silent speech, and
    speech whose noise is silent, stays as it is.

    Args:
        manifest: a ``.tsv`` file of recordings at 16 kHz.
        low, high: dB.

    Raises:
        UserError: the manifest cannot be read or is empty, its first recording cannot be used, or, when it is called,
            the recording that was drawn cannot be used.
    """

    def __init__(self, manifest: Path, low: float, high: float):
        self.manifest, self.low, self.high = manifest, low, high
        self.root = read_root(manifest)
        self.names, self.samples = FileNames(), array("q")
        for _, name, samples in read_rows(manifest):
            self.names.append(name.encode())
            self.samples.append(samples)
        if not self.samples:
            raise UserError(f"{manifest}: {NO_ROWS}")
        self.require_format(self.path(0))

    def __call__(self, wave: np.ndarray, rng: np.random.Generator, utterance: int = 0) -> np.ndarray:
        recording, place = int(rng.integers(len(self.samples))), rng.random()
        snr = self.low + (self.high - self.low) * rng.random()
        return add_noise(wave, self.part(recording, place, len(wave)), snr)

    def path(self, recording: int) -> Path:
        return self.root / self.names[recording].decode()

    def part(self, recording: int, place: float, length: int) -> np.ndarray:
        """(length,) float32, from ``place`` on: 0 for the first possible sample, almost 1 for the last."""
        samples, path = self.samples[recording], self.path(recording)
        spare = samples - length
        start = int(place * (spare + 1 if spare >= 0 else samples))
        try:
            if spare >= 0:
                return with_retries(lambda: read_part(path, samples, start, length))
            whole = with_retries(lambda: read_part(path, samples, 0, samples))
        except AudioError as error:
            raise UserError(f"{path}: {error}; `dinosr check {self.manifest}` lists all such files") from error
        return np.resize(np.roll(whole, -start), length)

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
