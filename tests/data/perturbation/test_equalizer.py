"""The equaliser, against the gains at which its bands are set."""

import numpy as np
import pytest
from scipy.signal import sosfreqz

from dinosr_plugin.data.perturbation.equalizer import CENTRES, Equalizer, draw_bands, equalize, section

FLAT, NARROW = np.zeros(10), np.full(10, 5.0)


def tone(frequency: float, samples: int = 16000) -> np.ndarray:
    return (0.1 * np.sin(2 * np.pi * frequency * np.arange(samples) / 16000)).astype(np.float32)


def gain(before: np.ndarray, after: np.ndarray) -> float:
    """dB, after the filter has settled."""
    return 20 * np.log10(after[4000:].std() / before[4000:].std())


def test_centres_are_those_of_the_published_code():
    expected = [60, 102.7, 176, 301.3, 516, 883.7, 1513.3, 2591.5, 4438, 7600]
    np.testing.assert_allclose(CENTRES, expected, rtol=1e-3)


@pytest.mark.parametrize("quality", [2.0, 5.0])
def test_gains_of_0_db_change_nothing(quality):
    wave = np.random.default_rng(0).normal(0, 0.2, 16000).astype(np.float32)
    equalized = equalize(wave, FLAT, np.full(10, quality))
    assert equalized.dtype == np.float32
    np.testing.assert_allclose(equalized, wave, atol=1e-6)


@pytest.mark.parametrize("band", range(1, 9))
@pytest.mark.parametrize("decibels", [-12.0, 7.0])
def test_a_peak_changes_a_tone_at_its_centre_by_its_gain(band, decibels):
    gains = FLAT.copy()
    gains[band] = decibels
    wave = tone(CENTRES[band], 32000)
    assert gain(wave, equalize(wave, gains, NARROW)) == pytest.approx(decibels, abs=0.05)


@pytest.mark.parametrize("band, beyond, other", [(0, 10.0, 1000.0), (9, 7990.0, 1000.0)])
@pytest.mark.parametrize("decibels", [-9.0, 12.0])
def test_a_shelf_changes_all_tones_beyond_its_centre_by_its_gain(band, beyond, other, decibels):
    gains = FLAT.copy()
    gains[band] = decibels
    for frequency, expected in ((beyond, decibels), (other, 0.0)):
        wave = tone(frequency, 32000)
        assert gain(wave, equalize(wave, gains, np.full(10, 2.0))) == pytest.approx(expected, abs=0.35)


@pytest.mark.parametrize("kind", ["peak", "low shelf", "high shelf"])
def test_a_section_has_half_its_gain_or_all_of_it_at_its_centre(kind):
    """In dB: a peak all of it, a shelf half of it. SciPy computes the response."""
    coefficients = section(kind, 1000.0, 8.0, 2.0)
    _, (centre, zero, nyquist) = sosfreqz(coefficients[None], [1000, 0, 7999.9], fs=16000)
    expected = {"peak": (8, 0, 0), "low shelf": (4, 8, 0), "high shelf": (4, 0, 8)}[kind]
    np.testing.assert_allclose(20 * np.log10(np.abs([centre, zero, nyquist])), expected, atol=1e-3)


def test_gains_and_qualities_are_drawn_in_their_ranges():
    rng = np.random.default_rng(0)
    gains, qualities = map(np.array, zip(*(draw_bands(rng) for _ in range(400))))
    assert gains.shape == qualities.shape == (400, 10)
    assert -12 <= gains.min() < -11.9 and 11.9 < gains.max() <= 12 and abs(gains.mean()) < 0.5
    assert 2 <= qualities.min() < 2.01 and 4.98 < qualities.max() <= 5
    assert abs(np.median(qualities) - np.sqrt(10)) < 0.1  # uniform on a logarithmic scale
    assert len(set(gains[0].round(6))) == len(set(qualities[0].round(6))) == 10


def test_the_transform_applies_what_it_draws():
    wave = tone(500.0)
    bands = draw_bands(np.random.default_rng(5))
    assert np.array_equal(Equalizer()(wave, np.random.default_rng(5)), equalize(wave, *bands))
