"""Noise: recordings that are added to speech at a random signal-to-noise ratio (R-Spin, arXiv 2311.09117, section 3).

R-Spin adds MUSAN and CHiME-4 backgrounds at -10 to 10 dB, to both views independently. A manifest of speech gives
babble of one voice.
"""

from dataclasses import dataclass

import numpy as np

from .recordings import Recordings

SILENCE = 1e-20  # power below which a signal is silent: far below the smallest step of 24 bits


@dataclass(frozen=True)
class Noise:
    """Adds a random part of a random recording; ``Transform`` of a view.

    The ratio is that of the mean powers over the whole waveform, here the crop, in dB, drawn uniformly between ``low``
    and ``high``. A recording that is shorter than the waveform is repeated. The sum is not clipped. Silent speech, and
    speech whose noise is silent, stays as it is.
    """

    recordings: Recordings
    low: float  # dB
    high: float  # dB

    def __call__(self, wave: np.ndarray, rng: np.random.Generator, utterance: int = 0) -> np.ndarray:
        noise = self.recordings(rng, len(wave))
        return add_noise(wave, noise, self.low + (self.high - self.low) * rng.random())


def add_noise(wave: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """(T,) + scaled (T,) -> (T,) float32, whose signal-to-noise ratio is ``snr`` dB; ``wave`` if one is silent."""
    speech_power, noise_power = mean_power(wave), mean_power(noise)
    if min(speech_power, noise_power) < SILENCE:
        return wave
    scale = np.sqrt(speech_power / noise_power) * 10 ** (-snr / 20)
    return (wave + scale * noise).astype(np.float32)


def mean_power(wave: np.ndarray) -> float:
    """Mean square of the samples, in double precision."""
    return float(np.square(wave, dtype=np.float64).mean())
