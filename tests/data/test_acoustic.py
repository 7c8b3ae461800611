"""MFCC and log-Mel frames: on the trunk's grid, the same from run to run."""

import numpy as np
import pytest

from dinosr_plugin.data import acoustic
from dinosr_plugin.data.acoustic import FEATURES, log_mel, mfcc, trunk_frames

RATE = 16_000


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


@pytest.mark.parametrize("kind, dimensions", [("mfcc", 39), ("fbank", 160)])
@pytest.mark.parametrize("samples", [400, 559, 560, 719, 720, 880, 16_000, 16_001])
def test_features_have_the_frames_of_the_trunk(kind, dimensions, samples):
    features = FEATURES[kind](noise(samples))
    assert features.shape == (trunk_frames(samples), dimensions) and features.dtype == np.float32
    assert np.isfinite(features).all()


def test_features_do_not_depend_on_loudness_or_on_the_run():
    wave = noise(RATE)
    for features in FEATURES.values():
        np.testing.assert_array_equal(features(wave), features(wave))
        np.testing.assert_allclose(features(wave), features(0.5 * wave), atol=2e-2)


def test_a_feature_frame_sits_where_the_trunk_frame_sits():
    wave = np.zeros(RATE, dtype=np.float32)
    wave[320 * 20 : 320 * 21] = noise(320)  # frame 20 covers [6400, 6800), the second half of its pair [6560, 6960)
    loudness = log_mel(wave).reshape(-1, 2, 80).mean(axis=(1, 2))
    assert np.argmax(loudness) == 20
    assert np.flatnonzero(loudness > loudness.min() + 0.1).tolist() == [
        19,
        20,
    ]  # frame 19 reaches to 6480, its pair to 6640
    assert np.argmax(mfcc(wave)[:, 0]) == 20


def test_log_mel_is_normalised_per_bin_and_mfcc_is_centred():
    wave = noise(400 + 199 * 160)  # 200 frames of 10 ms: an even number, none is repeated
    bins = log_mel(wave).reshape(200, 80)
    np.testing.assert_allclose(bins.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(bins.std(axis=0), 1, atol=1e-3)
    np.testing.assert_allclose(mfcc(wave).mean(axis=0), 0, atol=1e-3)
    assert np.isfinite(log_mel(np.zeros(RATE, np.float32))).all()


def test_deltas_are_regression_slopes():
    ramp = np.arange(10, dtype=np.float32)[:, None] * [3.0, -1.0]
    np.testing.assert_allclose(acoustic._deltas(ramp)[2:-2], np.tile([3.0, -1.0], (6, 1)))
    step = np.array([0, 0, 0, 1, 1, 1], dtype=np.float32)[:, None]
    np.testing.assert_allclose(acoustic._deltas(step)[:, 0], [0.0, 0.2, 0.3, 0.3, 0.2, 0.0], atol=1e-6)


def test_mfcc_deltas_occupy_the_second_and_third_thirds():
    features = mfcc(noise(RATE))
    spread = features.std(axis=0).reshape(3, 13).mean(axis=1)
    assert spread[0] > spread[1] > spread[2] > 0
