"""Crops of one length: shorter utterances are repeated (SSRL, arXiv 2401.01473: student 2 s, teacher 6 s)."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Crop:
    """So many samples from a random place; ``Transform`` of a view. A shorter waveform is repeated from its start."""

    samples: int

    def __call__(self, wave: np.ndarray, rng: np.random.Generator, utterance: int = 0) -> np.ndarray:
        spare = len(wave) - self.samples
        if spare < 0:
            return np.resize(wave, self.samples)
        start = int(rng.integers(spare + 1))
        return wave[start : start + self.samples]
