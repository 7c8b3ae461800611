"""Another voice: formants, median and range of F0 at random (NANSY, Choi et al., NeurIPS 2021; Spin, section 3.1).

The numbers are those of the public code of Spin. Each ratio is drawn uniformly, and inverted with probability 1/2. On
splits that are not trained the change is fixed: a low voice becomes a high one, a high one a low one.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from . import praat, resample
from .f0 import EVERYONE, is_low

logger = logging.getLogger(__name__)

FORMANT, PITCH, SPREAD = 1.4, 2.0, 1.5
"""The largest ratio of the formants and of the median F0, and the largest factor of the range of F0; the least is 1."""
PRAAT, RESAMPLE = "praat", "resample"


class Shift(NamedTuple):
    """Ratio of the formants, ratio of the median F0, factor of the range of F0."""

    formant: float
    pitch: float
    spread: float


class Fixed(NamedTuple):
    """Ratio of the formants, median F0 in Hz (0: unchanged), factor of the range of F0."""

    formant: float
    median: float
    spread: float


UPWARDS, DOWNWARDS = Fixed(1.2, 300.0, 1.2), Fixed(0.8, 100.0, 0.8)


def draw(rng: np.random.Generator) -> Shift:
    """Formants by 1 to 1.4, median F0 by 1 to 2, range of F0 by 1 to 1.5, each inverted with probability 1/2."""
    ratios = [rng.uniform(1, highest) for highest in (FORMANT, PITCH, SPREAD)]
    inverted = rng.random(len(ratios)) < 0.5
    return Shift(*(1 / ratio if turn else ratio for ratio, turn in zip(ratios, inverted)))


def draw_seed(rng: np.random.Generator) -> int:
    """A seed for Praat."""
    return int(rng.integers(1, 2**31))


def change(wave: np.ndarray, voice: Shift | Fixed, f0: tuple[float, float], by: str, seed: int = 0) -> np.ndarray:
    """A waveform at 16 kHz with another voice, (T,) -> (T,) float32.

    Args:
        f0: floor and ceiling of the speaker's F0, in Hz.
        by: ``praat``; or ``resample``, which multiplies all frequencies by the ratio of the formants.
        seed: of Praat's own random numbers.

    Raises:
        praat.PraatFailed: Praat cannot change this sound.
        UserError: parselmouth is not installed.
    """
    if by == RESAMPLE:
        return resample.shift_all(wave, voice.formant)
    change_by_praat = praat.shift_voice if isinstance(voice, Shift) else praat.fix_voice
    return resample.fit_length(change_by_praat(wave, f0, *voice, seed), len(wave))


@dataclass
class Voice:
    """The transform of views. A sound that Praat cannot change stays as it is; it is counted and logged.

    An utterance counts as unchanged if that has happened to one of its crops at least. All loader workers of a rank
    count together. A worker logs its first utterance, then the second, fourth, eighth and so on, each time with the
    numbers of all workers: so the last line is right within a factor of two.

    Args:
        ranges: of each utterance, floor and ceiling of the speaker's F0 in Hz, (utterances, 2).
        by: as ``change``.
        training: random changes. Otherwise they are fixed: formants by 1.2, median F0 300 Hz and its range by 1.2 for
            a low voice; 0.8, 100 Hz and 0.8 for a high one. The public code goes by the speaker's gender, which
            manifests do not have; here the range of F0 decides (``f0.is_low``). Where it is not known (``EVERYONE``),
            every other utterance counts as low.
        name: the file of an utterance, for the log.
    """

    ranges: np.ndarray
    by: str = PRAAT
    training: bool = True
    name: Callable[[int], str] = "utterance {}".format

    def __post_init__(self):
        import torch

        # in shared memory: the loader's workers count together
        self.seen, self.unchanged = (torch.zeros(len(self.ranges), dtype=torch.bool).share_memory_() for _ in range(2))
        self.logged = 0  # utterances that this process was the first to find unchanged

    def __call__(self, wave: np.ndarray, rng: np.random.Generator, utterance: int = 0) -> np.ndarray:
        self.seen[utterance] = True
        f0: Sequence[float] = self.ranges[utterance].tolist()
        if self.training:
            voice, seed = draw(rng), draw_seed(rng)
        else:
            low = utterance % 2 == 0 if tuple(f0) == EVERYONE else is_low(*f0)
            voice, seed = UPWARDS if low else DOWNWARDS, 0
        try:
            return change(wave, voice, (f0[0], f0[1]), self.by, seed)
        except praat.PraatFailed as error:
            self.log_unchanged(utterance, str(error))
            return wave

    def log_unchanged(self, utterance: int, reason: str) -> None:
        if self.unchanged[utterance]:
            return
        self.unchanged[utterance] = True
        self.logged += 1
        if self.logged & (self.logged - 1) == 0:  # 1, 2, 4, 8 ...
            logger.warning(
                f"the voice of {self.name(utterance)} is not changed: {reason} ({int(self.unchanged.sum())} of "
                f"{int(self.seen.sum())} utterances so far)"
            )
