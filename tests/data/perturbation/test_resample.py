"""Another voice without Praat: all frequencies by one ratio, at the same length."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinosr_plugin.data.perturbation.resample import fit_length, shift_all, stretch
from support.voices import RATE, spectrum, voice

RATIOS = [1 / 1.4, 0.8, 1.1, 1.4]


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("frequency", [150.0, 997.0, 4000.0])
def test_a_tone_is_shifted_by_the_ratio_and_keeps_its_level(ratio, frequency):
    wave = np.sin(2 * np.pi * frequency * np.arange(RATE) / RATE).astype(np.float32)
    shifted = shift_all(wave, ratio)
    assert spectrum(shifted).argmax() == pytest.approx(frequency * ratio, abs=1.5)
    assert shifted[2000:-2000].std() == pytest.approx(wave.std(), rel=0.15)


@pytest.mark.parametrize("ratio", RATIOS)
def test_formants_and_f0_are_shifted_together(ratio):
    shifted = spectrum(shift_all(voice(100.0, [1000.0]), ratio))
    lowest = round(100 * ratio)
    assert shifted[lowest - 30 : lowest + 30].argmax() + lowest - 30 == pytest.approx(100 * ratio, abs=2)
    assert shifted.argmax() == pytest.approx(1000 * ratio, abs=60 * ratio)


@pytest.mark.parametrize("samples", [1, 100, 511, 512, 513, 16001])
@pytest.mark.parametrize("ratio", RATIOS)
def test_the_length_is_kept(samples, ratio):
    shifted = shift_all(np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32), ratio)
    assert shifted.shape == (samples,) and shifted.dtype == np.float32 and np.isfinite(shifted).all()


@given(st.integers(1, 3000), st.floats(1 / 1.4, 1.4))
def test_any_length_and_ratio(samples, ratio):
    assert shift_all(np.ones(samples, np.float32), ratio).shape == (samples,)


def test_events_stay_where_they_are():
    """Within a window: a burst after 0.5 s."""
    wave = np.zeros(RATE, np.float32)
    wave[8000:8400] = np.random.default_rng(0).normal(0, 0.3, 400)
    for ratio in RATIOS:
        energy = shift_all(wave, ratio) ** 2
        assert (energy * np.arange(RATE)).sum() / energy.sum() == pytest.approx(8200, abs=256)


def test_a_ratio_of_1_changes_nothing():
    wave = voice(120.0)
    np.testing.assert_allclose(shift_all(wave, 1.0), wave, atol=1e-5)


def test_stretching_multiplies_the_length():
    assert len(stretch(voice(120.0), 1.3)) == pytest.approx(1.3 * RATE, abs=600)


def test_length_is_cut_or_continued_with_zeros():
    assert fit_length(np.arange(1, 4), 2).tolist() == [1, 2]
    assert fit_length(np.arange(1, 4), 5).tolist() == [1, 2, 3, 0, 0]
