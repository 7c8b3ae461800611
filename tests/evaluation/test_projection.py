"""Maps: samples are balanced, and projections are reproducible."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinosr_plugin.evaluation.projection import balanced, principal_components, project, t_sne


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=60), st.integers(1, 70), st.integers(0, 9))
def test_groups_are_balanced_as_far_as_possible(groups, max_count, seed):
    groups = np.array(groups)
    chosen = balanced(groups, max_count, np.random.default_rng(seed))
    assert len(chosen) == min(max_count, len(groups)) and (np.diff(chosen) > 0).all()
    drawn, available = ({name: int((part == name).sum()) for name in set(groups)} for part in (groups[chosen], groups))
    for name in drawn:  # a smaller group is drawn completely, or is one short in the last turn
        assert drawn[name] >= max(drawn.values()) - 1 or drawn[name] == available[name]


def test_every_frame_can_be_drawn():
    rng = np.random.default_rng(0)
    seen = {int(i) for _ in range(200) for i in balanced(np.repeat(["a", "b"], 10), 4, rng)}
    assert seen == set(range(20))


def test_neighbours_stay_neighbours_and_the_map_is_reproducible():
    rng = np.random.default_rng(0)
    frames = np.concatenate([rng.normal(0, 1, (40, 60)), rng.normal(20, 1, (40, 60))])
    points = t_sne(frames, 0)
    assert points.shape == (80, 2)
    apart = ((points[:, None] - points[None]) ** 2).sum(axis=2) + 1e9 * np.eye(80)
    assert ((apart.argmin(axis=1) < 40) == (np.arange(80) < 40)).all()
    np.testing.assert_array_equal(points, t_sne(frames, 0))


@pytest.mark.parametrize("n", [5, 12])
def test_a_map_of_few_frames(n):
    assert t_sne(np.random.default_rng(0).normal(size=(n, 3)), 0).shape == (n, 2)


# ---- PCA -------------------------------------------------------------------------------------------------------------


def test_principal_components_are_the_directions_of_most_variance():
    """Against the eigenvectors of the covariance."""
    x = np.random.default_rng(0).normal(size=(200, 4)) * [1, 5, 2, 3] + 7
    points, variance = principal_components(x)
    values, vectors = np.linalg.eigh(np.cov(x.T))
    expected = (x - x.mean(axis=0)) @ vectors[:, [3, 2]]
    np.testing.assert_allclose(np.abs(points), np.abs(expected))
    np.testing.assert_allclose(variance, values[[3, 2]] / values.sum())
    assert np.corrcoef(points[:, 0], x[:, 1])[0, 1] > 0.99  # not reversed
    np.testing.assert_array_equal(points, principal_components(x)[0])


@pytest.mark.parametrize("x", [np.ones((8, 3)), np.arange(8.0)[:, None], np.ones((1, 4)), np.outer(range(8), [1, 2])])
def test_points_in_one_direction_or_none_are_mapped_by_pca(x):
    found = project(x, 0)
    assert found.points.shape == (len(x), 2) and np.isfinite(found.points).all() and np.isfinite(found.variance).all()
    assert np.abs(found.points[:, 1]).max() < 1e-9


def test_the_method(monkeypatch):
    x = np.random.default_rng(0).normal(size=(30, 6))
    assert project(x, 0).variance is None and project(x[:4], 0).variance is not None
    np.testing.assert_array_equal(project(x, 0).points, t_sne(x, 0))
    monkeypatch.setitem(sys.modules, "sklearn", None)
    np.testing.assert_array_equal(project(x, 0).points, principal_components(x)[0])
