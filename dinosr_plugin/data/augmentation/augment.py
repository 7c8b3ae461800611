"""Corruption at random for speaker embeddings: reverberation, or noise, music and voices (SSRL, arXiv 2401.01473).

The types and numbers are those of the authors' public code, with MUSAN and RIRS_NOISES as sources. There, a room
response is also scaled to the range from 0 to 1 first, which adds a constant to it; this is left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..audio import SAMPLE_RATE
from ..noise import SILENCE, add_noise
from .rooms import reverberate

Source = Callable[[np.random.Generator, int, int], np.ndarray]
"""(rng, length, utterance) -> (length,): a random part of a random recording, to be mixed with this utterance."""
Rooms = Callable[[np.random.Generator], np.ndarray]
"""rng -> (R,): a random room response."""
LEAST_BABBLE, MOST_BABBLE = 3, 8  # voices
LOWEST = 20.0  # Hz


@dataclass(frozen=True)
class Augment:
    """Reverberates a waveform, or adds something to it, or neither; ``Transform`` of a view.

    What is added is one of: noise; music; one other voice and music; three to eight other voices. Each of them is
    scaled to a peak of 1, and their sum to the ratio. The waveform is scaled to a peak of 1 before and after.

    Args:
        noise, music, babble, rooms: where the recordings come from.
        shares: probabilities of reverberation, of addition and of neither.
        low, high: bounds of the signal-to-noise ratio in dB, over the whole waveform, which is uniform between them.
    """

    noise: Source
    music: Source
    babble: Source
    rooms: Rooms
    shares: Sequence[float]
    low: float
    high: float

    def __call__(self, wave: np.ndarray, rng: np.random.Generator, utterance: int = 0) -> np.ndarray:
        return peak(self.corrupted(peak(wave), rng, utterance))

    def corrupted(self, wave: np.ndarray, rng: np.random.Generator, utterance: int) -> np.ndarray:
        bounds = np.cumsum(self.shares)
        number = rng.random() * bounds[-1]
        if number < bounds[0]:
            return reverberate(wave, self.rooms(rng))
        if number < bounds[1]:
            mixture = self.mixture(rng, len(wave), utterance)
            return add_noise(wave, mixture, self.low + (self.high - self.low) * rng.random())
        return wave

    def mixture(self, rng: np.random.Generator, length: int, utterance: int) -> np.ndarray:
        """(length,): what is added, before it is scaled."""
        voices = [self.babble] * int(rng.integers(LEAST_BABBLE, MOST_BABBLE, endpoint=True))
        choices = [self.noise], [self.music], [self.babble, self.music], voices
        sources = choices[rng.integers(len(choices))]
        return np.sum([peak(source(rng, length, utterance)) for source in sources], axis=0)


def peak(wave: np.ndarray, rng: np.random.Generator | None = None, utterance: int = 0) -> np.ndarray:
    """Scaled so that the largest magnitude is 1, (T,) -> (T,) float32; silence stays as it is. ``Transform``."""
    highest = np.abs(wave).max()
    return wave if highest < np.sqrt(SILENCE) else (wave / highest).astype(np.float32)


def coloured_noise(rng: np.random.Generator, length: int, utterance: int = 0) -> np.ndarray:
    """Gaussian noise (length,) float32 whose power is proportional to 1/f^a, a uniform between 0 and 2. ``Source``.

    It has no power below 20 Hz, which nobody hears and which would be most of it for a near 2.
    """
    from scipy.fft import irfft, next_fast_len, rfftfreq

    exponent = 2 * rng.random()
    period = next_fast_len(max(length, SAMPLE_RATE // 10), real=True)
    frequencies = rfftfreq(period, 1 / SAMPLE_RATE)  # (F,)
    heard = frequencies >= LOWEST
    spectrum = np.zeros(len(frequencies), np.complex64)
    spectrum[heard] = rng.standard_normal((heard.sum(), 2), np.float32).view(np.complex64)[:, 0]
    spectrum[heard] *= (frequencies[heard] / LOWEST) ** (-exponent / 2)
    return irfft(spectrum, period)[:length]
