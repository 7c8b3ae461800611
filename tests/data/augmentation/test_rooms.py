"""Reverberation keeps power, length and time; simulated responses decay as they should."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dinosr_plugin.data.augmentation.rooms import reverberate, simulated_response
from dinosr_plugin.data.noise import mean_power
from support.recordings import white_noise

SAMPLES = st.floats(-1, 1, width=32)


@pytest.mark.parametrize("delay", [0, 1, 700])
@pytest.mark.parametrize("height", [1.0, -0.3, 1e-3])
def test_an_impulse_changes_nothing_but_the_sign(delay, height):
    """Its delay and its height are removed."""
    response = np.zeros(1000, np.float32)
    response[delay] = height
    wet = reverberate(white_noise(), response)
    np.testing.assert_allclose(wet, np.sign(height) * white_noise(), atol=1e-7)


@pytest.mark.parametrize("length", [1, 100, 5000, 40000])
def test_the_power_is_kept(length):
    wave = white_noise(length)
    for seed in range(3):
        wet = reverberate(wave, simulated_response(np.random.default_rng(seed)))
        assert wet.shape == wave.shape and wet.dtype == np.float32
        assert mean_power(wet) == pytest.approx(mean_power(wave), rel=1e-6)


def test_it_is_a_convolution():
    wave, response = white_noise(300), np.r_[0.1, 1, white_noise(50)].astype(np.float32)
    plain = np.convolve(wave.astype(np.float64), response[1:])[:300]
    plain *= np.sqrt(np.mean(wave.astype(np.float64) ** 2) / np.mean(plain**2))
    np.testing.assert_allclose(reverberate(wave, response), plain, rtol=1e-5, atol=1e-6)


@given(
    wave=arrays(np.float32, st.integers(1, 300), elements=SAMPLES), response=arrays(np.float32, 40, elements=SAMPLES)
)
def test_no_sample_is_nan(wave, response):
    wet = reverberate(wave, response)
    assert wet.shape == wave.shape and wet.dtype == np.float32 and np.isfinite(wet).all()


def test_silence_stays_silent():
    zeros = np.zeros(2000, np.float32)
    np.testing.assert_array_equal(reverberate(zeros, simulated_response(np.random.default_rng(0))), zeros)
    np.testing.assert_array_equal(reverberate(white_noise(), zeros), white_noise())


def test_simulated_responses():
    """RT60 from Schroeder's integral between -5 and -25 dB of the tail; the direct path is the largest sample."""
    times, ratios = [], []
    for seed in range(200):
        response = simulated_response(np.random.default_rng(seed))
        direct, tail = response[0], response[1:]
        assert direct == np.abs(response).max() == 1
        decay = 10 * np.log10(np.cumsum(tail[::-1] ** 2)[::-1] / (tail**2).sum())
        first, last = (int((decay < level).argmax()) for level in (-5, -25))
        times.append((last - first) / 16000 * 3)
        assert len(tail) / 16000 == pytest.approx(times[-1], rel=0.25)
        ratios.append(-10 * np.log10((tail**2).sum()))
    assert 0.15 < min(times) < 0.27 and 0.7 < max(times) < 1.0
    assert -6 <= min(ratios) < -5.5 and 5.5 < max(ratios) <= 6
