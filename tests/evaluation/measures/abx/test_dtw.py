"""Batched dynamic time warping and edit distance against loops over single cells."""

import editdistance
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinosr_plugin.evaluation.measures.abx import dtw
from dinosr_plugin.evaluation.measures.abx.dtw import (
    Rectangles,
    edit_distances,
    in_batches,
    warped_distances,
    warping_paths,
)
from support.warping import slow_path


def flat(matrices: list) -> tuple:
    """Matrices of frame distances concatenated into one array, and their positions in it."""
    sizes = np.cumsum([0] + [matrix.size for matrix in matrices])
    rows, columns = np.array([matrix.shape for matrix in matrices]).T
    return np.concatenate([matrix.ravel() for matrix in matrices]).astype(np.float32), Rectangles(
        sizes[:-1], columns, rows, columns
    )


@st.composite
def tables(draw) -> np.ndarray:
    """A matrix of frame distances with few distinct values, so that paths tie, or with many."""
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.integers(0, draw(st.integers(1, 4)), shape) / 2 if draw(st.booleans()) else rng.random(shape)
    return values.astype(np.float32)


def test_known_values():
    cells, pairs = flat([np.array([[0.1, 0.5, 0.9], [0.4, 0.2, 0.6]])])
    cost, length, exchanged = warping_paths(cells, pairs)
    assert cost[0] == pytest.approx(0.9) and length.tolist() == exchanged.tolist() == [3]
    assert warped_distances(cells, pairs)[0][0] == pytest.approx(0.3)


def test_a_tie_is_resolved_to_the_left_or_upwards_with_rows_and_columns_exchanged():
    table = np.array([[0, 0, 0], [1, 9, 0], [9, 1, 9], [9, 1, 0]], dtype=np.float32)
    cost, length, exchanged = warping_paths(*flat([table]))
    assert (cost[0], length[0]) == slow_path(table)
    assert (cost[0], exchanged[0]) == slow_path(table.T)


def test_some_ties_give_two_lengths():
    lengths_differ = set()
    for seed in range(300):
        table = np.random.default_rng(seed).integers(0, 2, (3, 5)).astype(np.float32)
        lengths_differ.add(slow_path(table)[1] != slow_path(table.T)[1])
    assert lengths_differ == {True, False}  # otherwise the next test would not cover ties


@given(st.lists(tables(), min_size=1, max_size=12))
def test_pairs_in_a_batch_equal_the_full_matrix(matrices):
    cells, pairs = flat(matrices)
    cost, length, exchanged = warping_paths(cells, pairs)
    assert list(zip(cost, length)) == [slow_path(matrix) for matrix in matrices]
    assert list(zip(cost, exchanged)) == [slow_path(matrix.T) for matrix in matrices]
    np.testing.assert_array_equal(
        warped_distances(cells, pairs), [cost / length.astype(np.float32), cost / exchanged.astype(np.float32)]
    )


@given(st.lists(tables(), min_size=1, max_size=12))
def test_the_batch_size_does_not_change_the_result(matrices):
    cells, pairs = flat(matrices)
    whole = warped_distances(cells, pairs)
    with pytest.MonkeyPatch.context() as patch:
        for size in (1, 20):
            patch.setattr(dtw, "BATCH_CELLS", size)
            np.testing.assert_array_equal(in_batches(warped_distances, cells, pairs), whole)


sequences = st.lists(st.integers(0, 3), min_size=1, max_size=9)


@given(st.lists(st.tuples(sequences, sequences), min_size=1, max_size=10))
def test_edit_distance(couples):
    cells, pairs = flat([np.not_equal.outer(one, other) for one, other in couples])
    forward, backward = edit_distances(cells, pairs)
    expected = [editdistance.eval(one, other) / max(len(one), len(other)) for one, other in couples]
    np.testing.assert_allclose(forward, expected, rtol=1e-6)
    np.testing.assert_array_equal(forward, backward)


def test_a_rectangle_inside_a_larger_matrix():
    wide = np.random.default_rng(0).random((6, 10)).astype(np.float32)
    pairs = Rectangles(*(np.array([value]) for value in (2 * 10 + 3, 10, 3, 5)))
    cost, length, _ = warping_paths(wide.ravel(), pairs)
    assert (cost[0], length[0]) == slow_path(wide[2:5, 3:8])
