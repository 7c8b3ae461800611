"""Measures that compare frames with each other: published values, SciPy's distances, and invariances."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr

from dinosr_plugin.evaluation.measures.similarity import kernels
from support.similarity import demo_data, sheet_data


def test_published_values():
    x, y = sheet_data()
    assert kernels.cka_rbf(x, y) == pytest.approx(0.5849511, abs=6e-8)
    assert kernels.rsa(x[:100], y[:100]) == pytest.approx(0.5691897, abs=6e-8)
    assert kernels.pwcca_anatome(x, y) == pytest.approx(0.96704, abs=6e-6)
    assert kernels.cka_rbf(*demo_data(), scale=0.5) == pytest.approx(0.65483, abs=6e-6)


def test_distances_are_those_of_scipy():
    x, _ = sheet_data()
    distances = squareform(pdist(x, "sqeuclidean"))
    kernel = np.exp(-distances / (2 * np.median(distances)))
    centring = np.eye(500) - 1 / 500
    np.testing.assert_allclose(kernels.centred_rbf(x), centring @ kernel @ centring, atol=1e-12)


def test_rsa_is_the_rank_correlation_of_scipys_distances():
    x, y = sheet_data()
    expected = spearmanr(pdist(x, "correlation"), pdist(y, "correlation")).statistic
    assert kernels.rsa(x, y) == pytest.approx(expected, abs=1e-9)


# ---- mini-batch CKA --------------------------------------------------------------------------------------------------


def test_the_published_value_of_batches_of_50_in_order():
    order = np.arange(500).reshape(10, 50).T.ravel()  # so that the frames of a batch are at equal distances
    x, y = (one[order] for one in sheet_data())
    assert kernels.cka_batches(x, y, batch=50) == pytest.approx(0.5591667, abs=6e-8)


def test_one_batch_of_all_frames_is_the_unbiased_cka():
    x, y = sheet_data()
    assert kernels.cka_batches(x, y, batch=500) == pytest.approx(0.5651322, abs=6e-8)


def test_batches_have_at_least_four_frames():
    x, _ = sheet_data()
    assert [len(kernel) for kernel in kernels.batch_kernels(x[:11], batch=3)] == []
    assert [len(kernel) for kernel in kernels.batch_kernels(x[:11], batch=5)] == [6, 5]


@pytest.mark.parametrize("measure", [kernels.cka_rbf, kernels.rsa, kernels.pwcca_anatome, kernels.cka_batches])
def test_equal_representations_have_1(measure):
    x, _ = sheet_data()
    assert measure(x, x) == pytest.approx(1) and measure(x, 3 * x) == pytest.approx(1)


def test_rbf_cka_does_not_change_with_a_rotation():
    x, y = sheet_data()
    rotation, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(6, 6)))
    assert kernels.cka_rbf(x @ rotation + 5, y) == pytest.approx(kernels.cka_rbf(x, y))


def test_a_frame_of_equal_dimensions_has_dissimilarity_1():
    x, y = (one[:30].copy() for one in sheet_data())
    x[4] = 2.0
    ranks = squareform(kernels.dissimilarity_ranks(x))
    assert np.isfinite(kernels.rsa(x, y)) and len(set(np.delete(ranks[4], 4))) == 1
