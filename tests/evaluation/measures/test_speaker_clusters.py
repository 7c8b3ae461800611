"""Figures of clusters: the oracles, scikit-learn's NMI, a search over all matchings."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinosr_plugin.evaluation.measures.speaker_clusters import COLUMNS, cluster_figures

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=15)


def test_a_small_example():
    figures = cluster_figures([0, 0, 1, 1, 2], [0, 0, 1, 1, 1])
    assert (figures["accuracy"], figures["purity"]) == (0.8, 1.0)
    assert (figures["clusters"], figures["speakers"], figures["files"]) == (3, 2, 5)
    assert figures.keys() == {column.key for column in COLUMNS}


def test_purity_is_not_weighted_by_the_size_of_clusters():
    """Shares of 3/4 and 1: their mean, .875, where the usual purity is 4/5."""
    assert cluster_figures(list("aaaab"), ["x", "x", "x", "y", "y"])["purity"] == 0.875


def test_ideal_and_useless_clusters():
    names = ["anna", "anna", "ben", "ben", "cleo", "cleo"]
    ideal = cluster_figures([7, 7, 3, 3, 5, 5], names)
    assert (ideal["nmi"], ideal["accuracy"], ideal["purity"]) == (1, 1, 1)
    one = cluster_figures([0] * 6, names)
    assert one["nmi"] == pytest.approx(0) and one["accuracy"] == one["purity"] == pytest.approx(1 / 3)
    alone = cluster_figures(range(6), names)
    assert alone["accuracy"] == 0.5 and alone["purity"] == 1 and 0 < alone["nmi"] < 1


@given(PAIRS)
def test_nmi_equals_that_of_scikit_learn(pairs):
    metrics = pytest.importorskip("sklearn.metrics")
    clusters, speakers = zip(*pairs)
    expected = metrics.normalized_mutual_info_score(speakers, clusters)
    if len(set(clusters)) == len(set(speakers)) == 1:
        expected = 1.0
    assert cluster_figures(clusters, speakers)["nmi"] == pytest.approx(expected, abs=1e-9)


@given(PAIRS)
def test_accuracy_is_that_of_the_best_matching(pairs):
    clusters, speakers = np.array(pairs).T
    best = max(np.mean(np.array(match)[clusters] == speakers) for match in permutations(range(4)))
    assert cluster_figures(clusters, speakers)["accuracy"] == pytest.approx(best)
