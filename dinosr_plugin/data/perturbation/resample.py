"""Another voice without Praat: resampling and a phase vocoder (Flanagan and Golden, 1966), with SciPy alone.

Resampling by a ratio moves formants and F0 together; the phase vocoder restores the duration. Unlike Praat's "Change
gender", it does not move them separately, the range of F0 keeps its size in semitones, and transients are smeared over
a window of 32 ms. It needs no F0, so it also changes noise and unvoiced sounds, and it cannot fail.
"""

from fractions import Fraction

import numpy as np

WINDOW, HOP = 512, 128  # samples: 32 ms and 8 ms at 16 kHz
PRECISION = 100  # largest denominator of the ratio that is applied: within 1e-4 of the one given


def shift_all(wave: np.ndarray, ratio: float) -> np.ndarray:
    """Multiply all frequencies of a waveform by a ratio, (T,) -> (T,) float32. Above 8 kHz they are lost."""
    from scipy.signal import resample_poly

    exact = Fraction(ratio).limit_denominator(PRECISION)
    stretched = stretch(wave, float(exact))
    return fit_length(resample_poly(stretched, exact.denominator, exact.numerator), len(wave))


def stretch(wave: np.ndarray, factor: float) -> np.ndarray:
    """A waveform ``factor`` times as long with the same frequencies, (T,) -> (about T * factor,) float64.

    Magnitudes are interpolated between the frames of a short-time Fourier transform; phases advance as they do between
    the two frames.
    """
    from scipy.signal import istft, stft

    spans = {"nperseg": WINDOW, "noverlap": WINDOW - HOP}
    padded = np.pad(wave.astype(np.float64), (0, max(0, WINDOW - len(wave))))
    _, _, spectrum = stft(padded, window="hann", **spans)  # (bins, frames) complex
    frames = spectrum.shape[1]
    spectrum = np.concatenate([spectrum, np.zeros_like(spectrum[:, :1])], axis=1)
    places = np.arange(round(frames * factor)) / factor  # frames of the result, on the scale of the input
    before = np.minimum(places.astype(int), frames - 1)
    between = places - before
    magnitudes, phases = np.abs(spectrum), np.angle(spectrum)
    magnitude = (1 - between) * magnitudes[:, before] + between * magnitudes[:, before + 1]
    centre = 2 * np.pi * HOP * np.arange(len(spectrum))[:, None] / WINDOW  # radians from frame to frame
    deviation = phases[:, before + 1] - phases[:, before] - centre
    advance = centre + deviation - 2 * np.pi * np.round(deviation / (2 * np.pi))
    phase = np.cumsum(np.concatenate([phases[:, :1], advance[:, :-1]], axis=1), axis=1)
    _, result = istft(magnitude * np.exp(1j * phase), window="hann", **spans)
    return result


def fit_length(wave: np.ndarray, samples: int) -> np.ndarray:
    """(T,) -> (samples,) float32: cut, or continued with zeros."""
    fitted = np.zeros(samples, dtype=np.float32)
    fitted[: len(wave)] = wave[:samples]
    return fitted
