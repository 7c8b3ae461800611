"""Manifests of short recordings of given samples."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile


def write_recordings(folder: Path, waves: Sequence[np.ndarray], rate: int = 16000, name: str = "noise") -> Path:
    """Write each waveform as ``NUMBER.wav`` in 32-bit floats, and ``NAME.tsv``, whose path is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [str(folder)]
    for number, wave in enumerate(waves):
        soundfile.write(folder / f"{number}.wav", wave, rate, subtype="FLOAT")
        rows.append(f"{number}.wav\t{len(wave)}")
    (folder / f"{name}.tsv").write_text("\n".join(rows) + "\n")
    return folder / f"{name}.tsv"


def white_noise(length: int = 5000, seed: int = 7) -> np.ndarray:
    """(length,) float32, read-only as the waveforms that transforms get."""
    wave = np.random.default_rng(seed).normal(0, 0.1, length).astype(np.float32)
    wave.flags.writeable = False
    return wave
