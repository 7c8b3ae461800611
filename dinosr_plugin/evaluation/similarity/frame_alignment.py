"""Frames of several rates on common frames, by where they are in time.

A frame stands for the time around its centre, half a period to either side. On the frames of another rate it counts
with the share of their time that it covers: two frames of 10 ms are averaged into one of 20 ms, and frames of the same
rate with other centres are interpolated linearly.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...errors import UserError

COVERED = 0.5  # smallest share of a common frame's time that every representation must cover
TOLERANCE = 0.1  # relative difference of two durations of the same utterance


class Timing(NamedTuple):
    """``rate``: frames per second; ``first_centre``: time of the centre of frame 0, in seconds."""

    rate: float
    first_centre: float

    def end(self, frames: int) -> float:
        """Where the last of so many frames ends, in seconds."""
        return self.first_centre + (frames - 0.5) / self.rate


def coarsest(timings: Sequence[Timing]) -> Timing:
    """The timing with the lowest rate, the first of equals: that of the common frames."""
    return min(timings, key=lambda timing: timing.rate)


def on_common_frames(arrays: Sequence[np.ndarray], timings: Sequence[Timing], utt: str) -> list[np.ndarray]:
    """Arrays (n_i, D_i) float32 of one utterance -> (n, D_i) float32 on the frames of ``coarsest``.

    Common frames that not all arrays cover, at the ends, are left out.

    Raises UserError if the durations differ by over 10 %, or if no frame is left.
    """
    common = coarsest(timings)
    ends = [timing.end(len(array)) for array, timing in zip(arrays, timings)]
    if max(ends) - min(ends) > TOLERANCE * max(ends) + 1 / common.rate:
        raise UserError(
            f"{utt}: lasts {min(ends):.2f} s in one representation and {max(ends):.2f} s in another; give features of "
            "the same recordings"
        )
    if all(timing == common for timing in timings):
        n = min(map(len, arrays))
        return [array[:n] for array in arrays]
    n = math.ceil(max(end - common.first_centre for end in ends) * common.rate + 0.5)
    averaged, shares = zip(*(averages(array, timing, common, n) for array, timing in zip(arrays, timings)))
    kept = np.min(shares, axis=0) >= COVERED - 1e-6  # (n,)
    if not kept.any():
        raise UserError(f"{utt}: too short for a frame of every representation; remove it from the manifest")
    return [of_array[kept] for of_array in averaged]


def averages(array: np.ndarray, timing: Timing, common: Timing, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(m, D) float32 -> means over the time of n common frames (n, D) float32, and the share of it covered (n,)."""
    edges = common.first_centre + (np.arange(n + 1) - 0.5) / common.rate  # (n + 1,) seconds, of the common frames
    places = np.clip((edges - timing.first_centre) * timing.rate + 0.5, 0, len(array))  # the same, in frames
    whole = np.minimum(places.astype(np.int64), len(array) - 1)  # (n + 1,)
    sums = np.zeros((len(array) + 1, array.shape[1]))
    np.cumsum(array, axis=0, dtype=np.float64, out=sums[1:])
    integral = sums[whole] + (places - whole)[:, None] * array[whole]  # (n + 1, D), from the first frame to each edge
    covered = np.diff(places)  # (n,) frames
    means = np.diff(integral, axis=0) / np.maximum(covered, 1e-9)[:, None]
    return means.astype(np.float32), covered * common.rate / timing.rate
