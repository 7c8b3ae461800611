"""MFCC and log-Mel frames: their times, normalisation and reproducibility."""

import numpy as np
import pytest

from dinosr_plugin.data import acoustic
from dinosr_plugin.data.acoustic import FEATURES, log_energy, log_mel, mfcc
from dinosr_plugin.modules.frame_grid import TRUNK

RATE = 16_000


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


@pytest.mark.parametrize("kind", FEATURES)
@pytest.mark.parametrize("samples", [400, 559, 560, 719, 720, 880, 16_000, 16_001])
def test_there_are_as_many_frames_as_the_trunk_has(kind, samples):
    dimensions = 39 if kind.startswith("mfcc") else 160
    features = FEATURES[kind](noise(samples))
    assert features.shape == (TRUNK.count(samples), dimensions) and features.dtype == np.float32
    assert np.isfinite(features).all()


def test_features_do_not_depend_on_loudness_or_on_the_run():
    wave = noise(RATE)
    for features in (mfcc, log_mel):
        np.testing.assert_array_equal(features(wave), features(wave))
        np.testing.assert_allclose(features(wave), features(0.5 * wave), atol=2e-2)


@pytest.mark.parametrize("kind", ["mfcc", "fbank"])
def test_uncentred_features_are_those_before_the_normalisation(kind):
    """They keep the level; with mean 0 (and, of log-Mel, variance 1 at 100 Hz) they are the normalised ones."""
    wave = noise(RATE + 240)  # an even number of frames of 10 ms: none is used twice
    plain, centred = FEATURES[f"{kind}_uncentred"](wave), FEATURES[kind](wave)
    assert plain.shape == centred.shape and plain.dtype == np.float32
    louder = FEATURES[f"{kind}_uncentred"](2 * wave) - plain
    if kind == "fbank":
        np.testing.assert_allclose(louder, np.log(4), atol=1e-3)
        bins = plain.reshape(-1, 80)  # (m, 80)
        normalised = (bins - bins.mean(axis=0)) / bins.std(axis=0)
        np.testing.assert_allclose(normalised.reshape(-1, 160), centred, atol=1e-3)
    else:
        assert louder[:, 0].min() > 1 and abs(louder[:, 1:]).max() < 0.1  # C0 alone
        np.testing.assert_allclose(plain - plain.mean(axis=0), centred, atol=1e-3)


def test_log_energy_is_that_of_windows_of_25_ms():
    wave = noise(1000)
    plain = [np.log(np.mean(np.square(wave[start : start + 400], dtype=np.float64))) for start in range(0, 601, 160)]
    np.testing.assert_allclose(log_energy(wave), plain, rtol=1e-6)
    assert log_energy(np.zeros(400, np.float32)).tolist() == [np.float32(np.log(1e-10))]


def test_a_feature_frame_begins_where_the_trunk_frame_begins():
    wave = np.zeros(RATE, dtype=np.float32)
    wave[320 * 20 : 320 * 21] = noise(320)  # frame 20 covers [6400, 6800), the second half of its pair [6560, 6960)
    loudness = log_mel(wave).reshape(-1, 2, 80).mean(axis=(1, 2))
    assert np.argmax(loudness) == 20
    # frame 19 ends at sample 6480, its pair at 6640
    assert np.flatnonzero(loudness > loudness.min() + 0.1).tolist() == [19, 20]
    assert np.argmax(mfcc(wave)[:, 0]) == 20


@pytest.mark.parametrize("kind", ["mfcc", "fbank"])
def test_the_middle_of_a_feature_is_5_ms_after_the_centre_of_the_trunk_frame(kind):
    """Feature i depends on samples [320 i, 320 i + 560), without normalisation and deltas, which are left out here.

    Its label is nevertheless that of the trunk's frame: see the docstring of ``data.acoustic``.
    """
    import kaldi_native_fbank as knf

    extractor, options = (knf.OnlineMfcc, knf.MfccOptions) if kind == "mfcc" else (knf.OnlineFbank, knf.FbankOptions)
    frames = lambda wave: acoustic._pairs(acoustic._kaldi_frames(extractor, options(), wave))  # (n, 2, bins)
    wave = noise(1600)
    reference = frames(wave)
    changed = []
    for sample in range(1600):
        other = wave.copy()
        other[sample] += 0.1
        changed.append((frames(other) != reference).any(axis=(1, 2)))
    for frame, samples in enumerate(np.array(changed).T[:3]):
        first, last = np.flatnonzero(samples)[[0, -1]]
        middle = 0.0175 + frame / 50  # seconds
        assert (first + last) / 2 / RATE == pytest.approx(middle, abs=1 / RATE)
        assert middle == pytest.approx(TRUNK.first_centre + frame / TRUNK.rate + 0.005)


def test_log_mel_is_normalised_per_bin_and_mfcc_is_centred():
    wave = noise(400 + 199 * 160)  # 200 frames of 10 ms: an even number, so that none is repeated
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
