"""Matching new clusters with old labels: one to one, with the fewest possible changes."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinosr_plugin.units.matching import changed_share, count_pairs, matching, normalised_mutual_information


@settings(deadline=None)
@given(st.integers(2, 9), st.integers(0, 2**32 - 1))
def test_renumbered_clusters_keep_their_labels(k, seed):
    rng = np.random.default_rng(seed)
    old = np.concatenate([np.arange(k), rng.integers(k, size=50)])
    names = rng.permutation(k)
    counts = count_pairs(old, names[old], k)
    assert np.array_equal(matching(counts)[names[old]], old)
    assert normalised_mutual_information(counts) == pytest.approx(1)


PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(-1, 5)), min_size=1, max_size=60)


@settings(deadline=None)
@given(PAIRS)
def test_matching_is_one_to_one(pairs):
    old, new = np.array(pairs).T
    counts = count_pairs(old, new, 6)
    assert counts.sum() == (new >= 0).sum() and sorted(matching(counts)) == list(range(6))


@settings(deadline=None)  # the first example imports scikit-learn
@given(PAIRS)
def test_nmi_equals_that_of_scikit_learn(pairs):
    sklearn = pytest.importorskip("sklearn.metrics")
    old, new = np.array([(a, max(b, 0)) for a, b in pairs]).T
    assert normalised_mutual_information(count_pairs(old, new, 6)) == pytest.approx(
        sklearn.normalized_mutual_info_score(old, new), abs=1e-9
    )


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 3)), min_size=1, max_size=40))
def test_no_other_matching_changes_fewer_labels(pairs):
    old, new = np.array(pairs).T
    counts = count_pairs(old, new, 4)
    both = (old >= 0) & (new >= 0)
    shares = [
        float((np.array(numbers)[new[both]] != old[both]).mean()) if both.any() else 1.0
        for numbers in permutations(range(4))
    ]
    assert changed_share(counts, matching(counts)) == pytest.approx(min(shares))
