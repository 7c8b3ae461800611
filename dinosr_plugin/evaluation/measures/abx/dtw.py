"""Distances of many pairs of segments at once: dynamic time warping (DTW) and edit distance, along anti-diagonals.

All pairs of a batch advance together, so that a step is a few NumPy calls on arrays of (rows, pairs). A pair is a
rectangle in one flat array of frame distances: the index of cell (i, j) is ``first + i * stride + j``. Rectangles of
different shapes share a batch; cells outside a pair's rectangle are computed from arbitrary values, which never reach a
cell inside.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

BATCH_CELLS = 2**14  # rows times pairs of a batch: its dozen arrays fit into the cache of a core
MAX_LENGTH_RATIO = 1.25  # of the longest and the shortest pair of a batch

# two path lengths in one uint32: that of the path, and 2 ** 16 times that with rows and columns exchanged
LOW_HALF, ONE_STEP = np.uint32(0xFFFF), np.uint32(0x10001)

Distance = Callable[[np.ndarray, "Rectangles"], tuple[np.ndarray, np.ndarray]]


class Rectangles(NamedTuple):
    """Positions of the pairs in the flat array: four (P,) int64 vectors. ``rows`` and ``columns`` are at least 1."""

    first: np.ndarray
    stride: np.ndarray
    rows: np.ndarray
    columns: np.ndarray

    def take(self, indices: np.ndarray) -> "Rectangles":
        return Rectangles(*(field[indices] for field in self))


def in_batches(distance: Distance, cells: np.ndarray, pairs: Rectangles) -> tuple[np.ndarray, np.ndarray]:
    """``distance`` (``warped_distances`` or ``edit_distances``) of any number of pairs, in batches of similar shapes.

    Returns:
        Two (P,) float32: the distance from rows to columns, and from columns to rows.
    """
    forward, backward = np.empty((2, len(pairs.first)), dtype=np.float32)
    for batch in _batches(pairs):
        forward[batch], backward[batch] = distance(cells, pairs.take(batch))
    return forward, backward


def _batches(pairs: Rectangles) -> Iterator[np.ndarray]:
    """Indices of pairs, sorted by their longer side and then by rows, to reduce padding."""
    longer = np.maximum(pairs.rows, pairs.columns)
    order = np.lexsort((pairs.rows, longer))
    longer, start = longer[order], 0
    while start < len(order):
        end_of_similar = int(np.searchsorted(longer, longer[start] * MAX_LENGTH_RATIO, side="right"))
        end = min(end_of_similar, start + max(1, BATCH_CELLS // int(longer[start])))
        yield order[start:end]
        start = end


def warped_distances(cells: np.ndarray, pairs: Rectangles) -> tuple[np.ndarray, np.ndarray]:
    """DTW cost divided by the length of its path, as in the ZeroSpeech 2021 scorer.

    The cost of a cell is its frame distance plus the minimum cost of the cells above, to the left, and diagonally
    before, all with the same weight. That scorer traces the path backwards: diagonally if that costs no more than both
    others, otherwise to the left if that costs no more than above, otherwise above; its length is the number of cells.
    Here the length is computed forwards by the same rule, with the same result. The rule is not symmetric: with rows
    and columns exchanged it resolves ties to the other side, so both lengths are computed.

    Args:
        cells: flat float32 frame distances.

    Returns:
        Two (P,) float32: with the rule as described, and with rows and columns exchanged.
    """
    cost, length, exchanged = warping_paths(cells, pairs)
    return cost / length.astype(np.float32), cost / exchanged.astype(np.float32)


def warping_paths(cells: np.ndarray, pairs: Rectangles) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Costs (P,) float32, path lengths (P,) int64, and path lengths with rows and columns exchanged (P,) int64.

    A path has at most 65535 cells.
    """
    n_rows, n_columns, n_pairs = int(pairs.rows.max()), int(pairs.columns.max()), len(pairs.first)
    # (rows, P): the index of cell (i, k - i) is where[i] + k
    where = pairs.first + np.arange(n_rows)[:, None] * (pairs.stride - 1)
    # of the last three diagonals; row i is at i + 1, row 0 is outside
    costs = [np.full((n_rows + 1, n_pairs), np.inf, dtype=np.float32) for _ in range(3)]
    lengths = [np.zeros((n_rows + 1, n_pairs), dtype=np.uint32) for _ in range(3)]
    total, length = np.empty(n_pairs, dtype=np.float32), np.empty(n_pairs, dtype=np.uint32)
    last = pairs.rows + pairs.columns - 2  # the diagonal of a pair's last cell
    for k in range(n_rows + n_columns - 1):
        low, high = max(0, k - n_columns + 1), min(n_rows, k + 1)  # rows with a cell on this diagonal
        here, before, new, old, older = slice(low + 1, high + 1), slice(low, high), k % 3, (k - 1) % 3, (k - 2) % 3
        cost = cells.take(where[low:high] + k, mode="clip")
        if k:
            left, up, diagonal = costs[old][here], costs[old][before], costs[older][before]
            straight = np.minimum(left, up)
            cost += np.minimum(diagonal, straight)
            steps = _straight_lengths(left, up, lengths[old][here], lengths[old][before])
            lengths[new][here] = np.where(diagonal <= straight, lengths[older][before], steps)
        costs[new][here] = cost
        lengths[new][here] += ONE_STEP
        done = np.flatnonzero(last == k)
        total[done], length[done] = costs[new][pairs.rows[done], done], lengths[new][pairs.rows[done], done]
    return total, (length & LOW_HALF).astype(np.int64), (length >> 16).astype(np.int64)


def _straight_lengths(left: np.ndarray, up: np.ndarray, left_length: np.ndarray, up_length: np.ndarray) -> np.ndarray:
    """Packed lengths of the cheaper path; in a tie, of the left one (with rows and columns exchanged, the upper one).

    Packed: see ``ONE_STEP``.
    """
    steps = np.where(left < up, left_length, up_length)
    tie = left == up
    if tie.any():  # rare, unless distances have only a few values
        steps[tie] = (left_length[tie] & LOW_HALF) | (up_length[tie] & ~LOW_HALF)
    return steps


def edit_distances(cells: np.ndarray, pairs: Rectangles) -> tuple[np.ndarray, np.ndarray]:
    """Levenshtein distance divided by the length of the longer sequence.

    Args:
        cells: flat float32, 0 where two units are equal and 1 where they differ.

    Returns:
        Two equal (P,) float32: the distance does not depend on the direction.
    """
    n_rows, n_columns, n_pairs = int(pairs.rows.max()), int(pairs.columns.max()), len(pairs.first)
    where = pairs.first + np.arange(n_rows)[:, None] * (pairs.stride - 1)  # (rows, P)
    costs = [np.zeros((n_rows + 1, n_pairs), dtype=np.float32) for _ in range(3)]  # row i: the first i units of rows
    result = np.empty(n_pairs, dtype=np.float32)
    for k in range(n_rows + n_columns + 1):
        new, old, older = k % 3, (k - 1) % 3, (k - 2) % 3
        low, high = max(1, k - n_columns), min(n_rows, k - 1) + 1  # rows with a cell not on the upper or left border
        if low < high:
            here, before = slice(low, high), slice(low - 1, high - 1)
            replaced = costs[older][before] + cells.take(where[before] + (k - 2), mode="clip")
            costs[new][here] = np.minimum(replaced, np.minimum(costs[old][here], costs[old][before]) + 1)
        costs[new][0] = k  # no units of the rows and k units of the columns
        if k <= n_rows:
            costs[new][k] = k
        done = np.flatnonzero(pairs.rows + pairs.columns == k)
        result[done] = costs[new][pairs.rows[done], done]
    result /= np.maximum(pairs.rows, pairs.columns)
    return result, result
