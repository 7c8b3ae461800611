"""Reverberation by the response of a room, which is a recording or simulated."""

import numpy as np

from ..audio import SAMPLE_RATE
from ..noise import SILENCE, mean_power

LONGEST = 10 * SAMPLE_RATE  # samples of a recorded response that are used
SHORTEST_RT60, LONGEST_RT60 = 0.2, 0.8  # s
LEAST_DIRECT, MOST_DIRECT = -6.0, 6.0  # dB


def reverberate(wave: np.ndarray, response: np.ndarray) -> np.ndarray:
    """(T,) convolved with a room response (R,) -> (T,) float32, of the same power and without delay.

    The response counts from its sample of the largest magnitude, the direct path. ``wave`` if it or the result is
    silent.
    """
    from scipy.signal import oaconvolve

    start = int(np.abs(response).argmax())
    heard = response[start : start + len(wave)].astype(np.float64)
    wet = oaconvolve(wave.astype(np.float64), heard)[: len(wave)]
    power, wet_power = mean_power(wave), mean_power(wet)
    if min(power, wet_power) < SILENCE:
        return wave
    return (wet * np.sqrt(power / wet_power)).astype(np.float32)


def simulated_response(rng: np.random.Generator) -> np.ndarray:
    """A response after the model of J.-D. Polack (thesis, Le Mans, 1988), with a direct path: (R,) float64.

    Gaussian noise that decays by 60 dB in RT60 follows an impulse of 1. RT60 is uniform between 0.2 and 0.8 s, the
    ratio of direct to reverberant energy between -6 and 6 dB, which is this package's choice. The model has no early
    reflections, and all frequencies decay equally.
    """
    rt60 = rng.uniform(SHORTEST_RT60, LONGEST_RT60)
    direct = rng.uniform(LEAST_DIRECT, MOST_DIRECT)
    samples = round(rt60 * SAMPLE_RATE)
    tail = rng.standard_normal(samples) * 10 ** (-3 * np.arange(samples) / samples)
    tail *= 10 ** (-direct / 20) / np.linalg.norm(tail)
    return np.concatenate([[1.0], tail])
