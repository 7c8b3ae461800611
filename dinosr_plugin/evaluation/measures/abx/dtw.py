"""Distances of many pairs of segments at once: dynamic time warping, and edit distance, over the anti-diagonals of their frame distances.

All pairs of a batch advance together, so that a step is a handful of NumPy calls on arrays of (rows, pairs). A pair is a
rectangle in one flat array of frame distances: cell (i, j) lies at ``first + i * stride + j``. Rectangles of several shapes
share a batch; cells outside a pair's own rectangle are computed from whatever lies there and never reach a cell inside.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

BATCH_CELLS = 2**14  # rows times pairs of a batch: its dozen arrays stay in a core's cache
ALIKE = 1.25  # longest over shortest pair of a batch

LOW_HALF, ONE_STEP = np.uint32(0xFFFF), np.uint32(0x10001)

Distance = Callable[[np.ndarray, "Rectangles"], tuple[np.ndarray, np.ndarray]]


class Rectangles(NamedTuple):
    """Where the pairs lie in the flat array: four (P,) int64 vectors. ``rows`` and ``columns`` are at least 1."""

    first: np.ndarray
    stride: np.ndarray
    rows: np.ndarray
    columns: np.ndarray

    def take(self, chosen: np.ndarray) -> "Rectangles":
        return Rectangles(*(field[chosen] for field in self))


def in_batches(distance: Distance, cells: np.ndarray, pairs: Rectangles) -> tuple[np.ndarray, np.ndarray]:
    """``distance`` (``warped`` or ``edited``) of any number of pairs, batches of similar shapes one after another.

    Returns:
        Two (P,) float32: the distance of rows to columns, and of columns to rows.
    """
    there, back = np.empty((2, len(pairs.first)), dtype=np.float32)
    for batch in _batches(pairs):
        there[batch], back[batch] = distance(cells, pairs.take(batch))
    return there, back


def _batches(pairs: Rectangles) -> Iterator[np.ndarray]:
    """Indices of pairs, sorted by longer side and rows, so that less of a batch is padding."""
    longer = np.maximum(pairs.rows, pairs.columns)
    order = np.lexsort((pairs.rows, longer))
    longer, start = longer[order], 0
    while start < len(order):
        alike = int(np.searchsorted(longer, longer[start] * ALIKE, side="right"))
        end = min(alike, start + max(1, BATCH_CELLS // int(longer[start])))
        yield order[start:end]
        start = end


def warped(cells: np.ndarray, pairs: Rectangles) -> tuple[np.ndarray, np.ndarray]:
    """DTW cost divided by the length of its path, as the ZeroSpeech 2021 scorer has it.

    A cell costs its frame distance plus the least of the cells above, to the left, and diagonally before; all weigh the same.
    The path is read backwards: diagonally where that costs no more than both others, else to the left where that costs no more
    than above, else above; its length counts cells. Here the length goes along forwards, by the same rule, which gives the same number.
    The rule is not symmetric: with columns for rows it prefers the other side in a tie, so that both lengths are carried.

    Args:
        cells: flat float32 frame distances.

    Returns:
        Two (P,) float32: with the tie rule as it stands, and with rows and columns exchanged.
    """
    cost, there, back = warping_paths(cells, pairs)
    return cost / there.astype(np.float32), cost / back.astype(np.float32)


def warping_paths(cells: np.ndarray, pairs: Rectangles) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(cost (P,) float32, length of the path (P,) int64, its length with rows and columns exchanged (P,) int64); up to 65535 cells."""
    n_rows, n_columns, n_pairs = int(pairs.rows.max()), int(pairs.columns.max()), len(pairs.first)
    where = pairs.first + np.arange(n_rows)[:, None] * (
        pairs.stride - 1
    )  # (rows, P): cell (i, k - i) lies at where[i] + k
    costs = [
        np.full((n_rows + 1, n_pairs), np.inf, dtype=np.float32) for _ in range(3)
    ]  # row i at i + 1; row 0 is the outside
    lengths = [
        np.zeros((n_rows + 1, n_pairs), dtype=np.uint32) for _ in range(3)
    ]  # two in one: path + 2 ** 16 * exchanged path
    total, length = np.empty(n_pairs, dtype=np.float32), np.empty(n_pairs, dtype=np.uint32)
    last = pairs.rows + pairs.columns - 2  # the diagonal that holds a pair's last cell
    for k in range(n_rows + n_columns - 1):
        low, high = max(0, k - n_columns + 1), min(n_rows, k + 1)  # rows that have a cell on this diagonal
        here, before, new, old, older = slice(low + 1, high + 1), slice(low, high), k % 3, (k - 1) % 3, (k - 2) % 3
        cost = cells.take(where[low:high] + k, mode="clip")
        if k:
            left, up, diagonal = costs[old][here], costs[old][before], costs[older][before]
            aside = np.minimum(left, up)
            cost += np.minimum(diagonal, aside)
            steps = _aside(left, up, lengths[old][here], lengths[old][before])
            lengths[new][here] = np.where(diagonal <= aside, lengths[older][before], steps)
        costs[new][here] = cost
        lengths[new][here] += ONE_STEP
        done = np.flatnonzero(last == k)
        total[done], length[done] = costs[new][pairs.rows[done], done], lengths[new][pairs.rows[done], done]
    return total, (length & LOW_HALF).astype(np.int64), (length >> 16).astype(np.int64)


def _aside(left: np.ndarray, up: np.ndarray, left_length: np.ndarray, up_length: np.ndarray) -> np.ndarray:
    """Lengths, two in one, of the cheaper of two paths; in a tie the left one's, and the upper one's where rows and columns are exchanged."""
    steps = np.where(left < up, left_length, up_length)
    tie = left == up
    if tie.any():  # hardly ever, unless distances are of a few values only
        steps[tie] = (left_length[tie] & LOW_HALF) | (up_length[tie] & ~LOW_HALF)
    return steps


def edited(cells: np.ndarray, pairs: Rectangles) -> tuple[np.ndarray, np.ndarray]:
    """Levenshtein distance divided by the length of the longer sequence.

    Args:
        cells: flat float32, 0 where two units are equal and 1 where they differ.

    Returns:
        Two (P,) float32 that are equal: the distance does not depend on the direction.
    """
    n_rows, n_columns, n_pairs = int(pairs.rows.max()), int(pairs.columns.max()), len(pairs.first)
    where = pairs.first + np.arange(n_rows)[:, None] * (pairs.stride - 1)  # (rows, P)
    costs = [
        np.zeros((n_rows + 1, n_pairs), dtype=np.float32) for _ in range(3)
    ]  # row i: the first i units of the rows
    result = np.empty(n_pairs, dtype=np.float32)
    for k in range(n_rows + n_columns + 1):
        new, old, older = k % 3, (k - 1) % 3, (k - 2) % 3
        low, high = (
            max(1, k - n_columns),
            min(n_rows, k - 1) + 1,
        )  # rows with a cell that is not on the upper or left border
        if low < high:
            here, before = slice(low, high), slice(low - 1, high - 1)
            replaced = costs[older][before] + cells.take(where[before] + (k - 2), mode="clip")
            costs[new][here] = np.minimum(replaced, np.minimum(costs[old][here], costs[old][before]) + 1)
        costs[new][0] = k  # nothing of the rows against k units of the columns
        if k <= n_rows:
            costs[new][k] = k
        done = np.flatnonzero(pairs.rows + pairs.columns == k)
        result[done] = costs[new][pairs.rows[done], done]
    result /= np.maximum(pairs.rows, pairs.columns)
    return result, result
