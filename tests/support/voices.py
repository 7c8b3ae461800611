"""Synthetic voices with a known F0 and known formants."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000


def voice(f0: float | np.ndarray, formants: Sequence[float] = (600, 1500, 2700), samples: int = RATE) -> np.ndarray:
    """Harmonics of F0 under an envelope with peaks 150 Hz wide at the formants, (samples,) float32.

    ``f0``: in Hz, constant or of each sample.
    """
    f0 = np.broadcast_to(np.float64(f0), samples)
    phase = 2 * np.pi * np.cumsum(f0) / RATE
    wave = np.zeros(samples)
    for number in range(1, int(8000 / f0.max())):
        amplitude = sum(1 / (1 + ((number * f0 - formant) / 75) ** 2) for formant in formants) + 0.02
        wave += amplitude * np.sin(number * phase)
    return (0.4 * wave / np.abs(wave).max()).astype(np.float32)


def spectrum(wave: np.ndarray) -> np.ndarray:
    """Mean power spectrum without the edges, (bins,), 1 Hz per bin."""
    middle = wave[RATE // 10 : -RATE // 10]
    return np.abs(np.fft.rfft(middle * np.hanning(len(middle)), RATE)) ** 2


def write_voices(folder: Path, f0: dict[str, float], split: str = "train", lengths: Sequence[int] = (RATE,)) -> Path:
    """A manifest of a synthetic voice for each speaker -> F0 in Hz, with a file of each length; returns ``folder``."""
    rows = [str(folder)]
    for speaker, frequency in f0.items():
        for number, samples in enumerate(lengths):
            path = folder / speaker / f"{split}-{speaker}-{number}.flac"
            path.parent.mkdir(parents=True, exist_ok=True)
            glide = frequency * (1 + 0.1 * np.sin(np.arange(samples) / 3000))
            soundfile.write(path, voice(glide, samples=samples), RATE)
            rows.append(f"{path.relative_to(folder)}\t{samples}")
    (folder / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    return folder
