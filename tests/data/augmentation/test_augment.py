"""Augmentation: shares, mixtures and ratios; no sample is NaN or louder than 1."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dinosr_plugin.data.augmentation import augment as module
from dinosr_plugin.data.augmentation.augment import Augment, coloured_noise, peak
from dinosr_plugin.data.augmentation.rooms import simulated_response
from dinosr_plugin.data.noise import add_noise, mean_power
from support.recordings import white_noise

SEEDS = st.integers(0, 2**32)
WAVES = st.one_of(
    arrays(np.float32, st.integers(1, 400), elements=st.floats(-1, 1, width=32)),
    arrays(np.float32, st.integers(1, 50), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
    st.integers(1, 3000).map(lambda length: np.zeros(length, np.float32)),
    st.integers(1, 3000).map(lambda length: white_noise(length) * np.float32(1e30)),
    st.integers(1, 3000).map(lambda length: white_noise(length) * np.float32(1e-44)),
)


def augment(shares=(1 / 3, 2 / 3, 0.0), low=0.0, high=20.0, **sources) -> Augment:
    """With built-in sources, and coloured noise for babble."""
    sources = {"noise": coloured_noise, "music": coloured_noise, "babble": coloured_noise, **sources}
    return Augment(**sources, rooms=simulated_response, shares=shares, low=low, high=high)


# ---- peak ------------------------------------------------------------------------------------------------------------


@given(wave=WAVES)
def test_the_peak_is_1_and_silence_stays(wave):
    scaled = peak(wave)
    assert scaled.shape == wave.shape and scaled.dtype == np.float32
    if np.abs(wave).max() < 1e-10:
        np.testing.assert_array_equal(scaled, wave)
    else:
        assert np.abs(scaled).max() == 1
        np.testing.assert_array_equal(scaled, wave / np.abs(wave).max())


# ---- the whole transform ---------------------------------------------------------------------------------------------


@given(wave=WAVES, seed=SEEDS, shares=st.sampled_from([(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.4, 0.4, 0.2)]))
def test_length_and_peak_of_anything(wave, seed, shares):
    original = wave.copy()
    wave.flags.writeable = False
    made = augment(shares)(wave, np.random.default_rng(seed))
    assert made.shape == wave.shape and made.dtype == np.float32 and np.isfinite(made).all()
    assert np.abs(made).max() == (1 if np.abs(wave).max() >= 1e-10 else np.abs(wave).max())
    np.testing.assert_array_equal(wave, original)
    np.testing.assert_array_equal(made, augment(shares)(wave, np.random.default_rng(seed)))


@pytest.mark.parametrize("shares", [(1 / 3, 2 / 3, 0.0), (0.4, 0.4, 0.2), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0)])
def test_shares(shares, monkeypatch):
    """Counts of 3000 draws within 4.5 standard deviations."""
    kinds: Counter[str] = Counter()
    monkeypatch.setattr(module, "reverberate", lambda wave, response: kinds.update(["reverberation"]) or wave)
    monkeypatch.setattr(module, "add_noise", lambda wave, noise, snr: kinds.update(["additive"]) or wave)
    source = lambda rng, length, utterance: np.ones(length, np.float32)
    transform = augment(shares, noise=source, music=source, babble=source)
    rng, wave = np.random.default_rng(0), np.ones(10, np.float32)
    for _ in range(3000):
        transform(wave, rng)
    kinds["none"] = 3000 - kinds.total()
    for kind, share in zip(("reverberation", "additive", "none"), shares):
        assert abs(kinds[kind] - 3000 * share) <= 4.5 * np.sqrt(3000 * share * (1 - share))


def test_mixtures():
    """1 noise; 1 music; 1 voice and music; 3 to 8 voices: each a quarter, the voices uniform."""
    drawn: list[str] = []

    def source(name: str):
        def draw(rng, length, utterance):
            assert (length, utterance) == (100, 7)
            drawn.append(name)
            return white_noise(length) * np.float32(10 ** rng.uniform(-3, 3))

        return draw

    transform = augment(**{name: source(name) for name in ("noise", "music", "babble")})
    mixtures: Counter[tuple] = Counter()
    rng = np.random.default_rng(0)
    for _ in range(4000):
        drawn.clear()
        mixture = transform.mixture(rng, 100, 7)
        mixtures[tuple(drawn)] += 1
        # each source has a peak of 1 before the sum, and all of them are the same waveform here
        assert np.abs(mixture).max() == pytest.approx(len(drawn), rel=1e-6)
    voices = {("babble",) * number: 4000 / 24 for number in range(3, 9)}
    expected = {("noise",): 1000, ("music",): 1000, ("babble", "music"): 1000, **voices}
    assert mixtures.keys() == expected.keys()
    for mixture, count in expected.items():
        assert abs(mixtures[mixture] - count) < 4.5 * np.sqrt(count)


@pytest.mark.parametrize("length", [2000, 32000])
@pytest.mark.parametrize("snr", [0.0, 7.3, 20.0])
def test_the_ratio_is_reached(length, snr):
    wave = peak(white_noise(length))
    for seed in range(5):
        mixture = augment().mixture(np.random.default_rng(seed), length, 0)
        noisy = add_noise(wave, mixture, snr).astype(np.float64)
        assert 10 * np.log10(mean_power(wave) / mean_power(noisy - wave)) == pytest.approx(snr, abs=1e-6)


def test_ratios_are_uniform_between_the_bounds(monkeypatch):
    ratios = []
    monkeypatch.setattr(module, "add_noise", lambda wave, noise, snr: ratios.append(snr) or wave)
    transform, rng = augment((0, 1, 0), 3, 11), np.random.default_rng(0)
    for _ in range(500):
        transform(white_noise(10), rng)
    steps = np.abs((np.sort(ratios) - 3) / 8 - (np.arange(500) + 0.5) / 500)
    assert steps.max() < 1.95 / np.sqrt(500)  # Kolmogorov-Smirnov, probability 0.999


def test_loud_input_and_quiet_input_give_the_same():
    for seed in range(20):
        views = [augment()(white_noise() * np.float32(2.0**gain), np.random.default_rng(seed)) for gain in (-20, 60)]
        np.testing.assert_array_equal(*views)


# ---- coloured noise --------------------------------------------------------------------------------------------------


@given(length=st.integers(1, 5000), seed=SEEDS)
def test_coloured_noise_has_any_length(length, seed):
    noise = coloured_noise(np.random.default_rng(seed), length)
    assert noise.shape == (length,) and noise.dtype == np.float32 and np.isfinite(noise).all() and noise.any()


def test_slopes_of_coloured_noise():
    """The exponent, fitted to the spectrum, is the number that is drawn first."""
    exponents = []
    for seed in range(30):
        noise = coloured_noise(np.random.default_rng(seed), 32000).astype(np.float64)
        power, frequencies = np.abs(np.fft.rfft(noise)) ** 2, np.fft.rfftfreq(32000, 1 / 16000)
        assert power[frequencies < 20].sum() < 1e-9 * power.sum()
        heard = frequencies >= 20
        slope, _ = np.polyfit(np.log(frequencies[heard]), np.log(power[heard]), 1)
        exponents.append(-slope)
        assert exponents[-1] == pytest.approx(2 * np.random.default_rng(seed).random(), abs=0.1)
    assert min(exponents) < 0.3 and max(exponents) > 1.7
