"""Crops have the length that they are asked for: a random part, or a repeated utterance."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dinosr_plugin.data.crops import Crop


@given(length=st.integers(1, 200), samples=st.integers(1, 200), seed=st.integers(0, 2**32))
def test_a_crop_is_a_part_of_the_utterance_or_of_its_repetitions(length, samples, seed):
    wave = np.arange(length, dtype=np.float32)
    wave.flags.writeable = False
    crop = Crop(samples)(wave, np.random.default_rng(seed))
    assert crop.shape == (samples,) and crop.dtype == np.float32
    start = int(crop[0])
    assert start + samples <= length or start == 0
    np.testing.assert_array_equal(crop, (start + np.arange(samples)) % length)


def test_every_place_is_equally_likely():
    rng, wave = np.random.default_rng(0), np.arange(10, dtype=np.float32)
    starts = [int(Crop(7)(wave, rng)[0]) for _ in range(4000)]
    counts = np.bincount(starts)
    assert len(counts) == 4 and (abs(counts - 1000) < 130).all()  # 4.7 standard deviations
