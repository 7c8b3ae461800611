"""A random equaliser: the channel part of speaker perturbation (NANSY, Choi et al., NeurIPS 2021; Spin, section 3.1).

Ten second-order filters in a row, with centres that are equally far apart on a logarithmic scale: a low shelf, eight
peaks and a high shelf, with the coefficients of R. Bristow-Johnson's Audio EQ Cookbook.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..audio import SAMPLE_RATE

CENTRES = 60 * (7600 / 60) ** (np.arange(10) / 9)  # Hz: 60, 102.7, 176, ..., 7600
MAX_GAIN = 12.0  # dB
LOW_Q, HIGH_Q = 2.0, 5.0


@dataclass(frozen=True)
class Equalizer:
    """The transform of views, with the bands that ``draw_bands`` draws."""

    def __call__(self, wave: np.ndarray, rng: np.random.Generator, utterance: int = 0) -> np.ndarray:
        return equalize(wave, *draw_bands(rng))


def draw_bands(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Gains in dB, uniform between -12 and 12, and quality factors Q = 2 (5/2)^u, u from 0 to 1: (10,) each."""
    gains = rng.uniform(-MAX_GAIN, MAX_GAIN, len(CENTRES))
    return gains, LOW_Q * (HIGH_Q / LOW_Q) ** rng.random(len(CENTRES))


def equalize(wave: np.ndarray, gains: Sequence[float], qualities: Sequence[float]) -> np.ndarray:
    """Filter a waveform at 16 kHz, (T,) -> (T,) float32.

    Args:
        gains: dB at each of ``CENTRES``; of the first and the last, of all frequencies beyond.
        qualities: Q of each band.
    """
    from scipy.signal import sosfilt

    kinds = ["low shelf", *["peak"] * (len(CENTRES) - 2), "high shelf"]
    sections = [section(*band) for band in zip(kinds, CENTRES, gains, qualities)]
    return sosfilt(np.array(sections), wave.astype(np.float64)).astype(np.float32)


def section(kind: str, centre: float, gain: float, quality: float) -> np.ndarray:
    """Coefficients (6,) b0, b1, b2, a0, a1, a2 of one filter, divided by a0.

    ``kind``: peak, low shelf or high shelf; ``centre`` in Hz; ``gain`` in dB.
    """
    amplitude = 10 ** (gain / 40)  # the square root of the gain as a factor
    omega = 2 * np.pi * centre / SAMPLE_RATE
    cos, alpha = np.cos(omega), np.sin(omega) / (2 * quality)
    if kind == "peak":
        b = [1 + alpha * amplitude, -2 * cos, 1 - alpha * amplitude]
        a = [1 + alpha / amplitude, -2 * cos, 1 - alpha / amplitude]
    else:
        cos = cos if kind == "low shelf" else -cos  # a high shelf is a low shelf with the spectrum turned round
        beta = np.sin(omega) * np.sqrt(amplitude) / quality
        more, less = amplitude + 1, amplitude - 1
        b = [amplitude * (more - less * cos + beta), 2 * amplitude * (less - more * cos)]
        b += [amplitude * (more - less * cos - beta)]
        a = [more + less * cos + beta, -2 * (less + more * cos), more + less * cos - beta]
        if kind == "high shelf":
            b[1], a[1] = -b[1], -a[1]
    return np.array([*b, *a]) / a[0]
