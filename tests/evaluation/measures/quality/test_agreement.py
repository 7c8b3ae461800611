"""Purity and PNMI from counts: known values, and properties of any table."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.measures.quality.agreement import Quality, entropy_bits
from dinosr_plugin.units.counts import contingency

GOLDEN = np.array([[4, 1, 0], [1, 3, 1]])

tables = arrays(np.int64, array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.integers(0, 50)).filter(np.any)


def test_known_values():
    quality = Quality.from_counts(GOLDEN)
    assert quality.pnmi == pytest.approx(0.314525, abs=1e-6)  # by hand: 0.2180115 / ln 2
    assert quality.pnmi == pytest.approx(0.31453, abs=1e-5)  # rounded
    assert quality.phone_purity == pytest.approx(0.8)
    assert quality.cluster_purity == pytest.approx(0.7)
    assert quality.perplexity == pytest.approx(np.exp(-(0.5 * np.log(0.5) + 0.4 * np.log(0.4) + 0.1 * np.log(0.1))))
    assert (quality.active, quality.n_codes, quality.frames) == (3, 3, 10)


def test_contingency_counts_pairs_with_phones_as_rows():
    phones = np.repeat([0, 0, 1, 1, 1], [4, 1, 1, 3, 1])
    codes = np.repeat([0, 1, 0, 1, 2], [4, 1, 1, 3, 1])
    counts = contingency(phones, codes, 2, 3)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, GOLDEN)
    assert contingency(np.array([], int), np.array([], int), 2, 3).shape == (2, 3)


def test_contingency_does_not_overflow_narrow_integers():
    counts = contingency(np.array([39], np.uint8), np.array([255], np.uint8), 40, 256)
    assert counts[39, 255] == 1 and counts.sum() == 1


@pytest.mark.parametrize(
    "phones, codes, message",
    [
        ([0, 1], [0], "same length"),
        ([0, 2], [0, 0], r"labels range from 0 to 2, outside \[0, 2\)"),
        ([0, 0], [-1, 0], r"labels range from -1 to 0, outside \[0, 3\)"),
    ],
)
def test_contingency_rejects_invalid_labels(phones, codes, message):
    with pytest.raises(ValueError, match=message):
        contingency(np.array(phones), np.array(codes), 2, 3)


def test_entropy_in_bits():
    assert entropy_bits(np.array([2, 0, 1, 1])) == pytest.approx(1.5)
    assert entropy_bits(np.array([7, 0])) == entropy_bits(np.zeros(3, int)) == 0


def test_codes_that_never_occur_change_only_the_size():
    wide = Quality.from_counts(np.pad(GOLDEN, ((0, 0), (0, 5)))).as_dict()
    narrow = Quality.from_counts(GOLDEN).as_dict()
    assert wide.pop("n_codes") == narrow.pop("n_codes") + 5
    assert wide == pytest.approx(narrow)


def test_no_frames_are_an_error_and_a_single_phone_has_pnmi_0():
    with pytest.raises(UserError, match="no frame"):
        Quality.from_counts(np.zeros((3, 4), int))
    assert Quality.from_counts(np.array([[3, 4], [0, 0]])).pnmi == 0.0


@given(tables, st.randoms(use_true_random=False))
def test_ranges_and_invariance_to_the_order_of_codes(counts, random):
    quality = Quality.from_counts(counts)
    assert 0.0 <= quality.pnmi <= 1.0
    assert 1.0 - 1e-9 <= quality.perplexity <= quality.active + 1e-9
    most_frequent = counts.sum(axis=1).max() / counts.sum()
    assert most_frequent <= quality.phone_purity + 1e-12
    columns = random.sample(range(counts.shape[1]), counts.shape[1])
    assert Quality.from_counts(counts[:, columns]).as_dict() == pytest.approx(quality.as_dict(), abs=1e-9)


@given(tables.filter(lambda table: table.shape[1] > 1))
def test_merging_codes_does_not_improve_agreement(counts):
    merged = np.concatenate([counts[:, :1] + counts[:, 1:2], counts[:, 2:]], axis=1)
    before, after = Quality.from_counts(counts), Quality.from_counts(merged)
    assert after.pnmi <= before.pnmi + 1e-6
    assert after.phone_purity <= before.phone_purity + 1e-9
    assert after.cluster_purity >= before.cluster_purity - 1e-9
    assert after.perplexity <= before.perplexity + 1e-9


@given(arrays(np.int64, st.integers(2, 8), elements=st.integers(1, 50)))
def test_a_bijection_has_pnmi_1(frames):
    quality = Quality.from_counts(np.diag(frames))
    assert quality.pnmi == pytest.approx(1.0, abs=1e-6)
    assert quality.phone_purity == quality.cluster_purity == pytest.approx(1.0)


@given(
    arrays(np.int64, st.integers(2, 6), elements=st.integers(1, 9)),
    arrays(np.int64, st.integers(1, 6), elements=st.integers(1, 9)),
)
def test_independent_codes_have_pnmi_0(phones, codes):
    quality = Quality.from_counts(np.outer(phones, codes))
    assert quality.pnmi == pytest.approx(0.0, abs=1e-6)
    assert quality.phone_purity == pytest.approx(phones.max() / phones.sum())
