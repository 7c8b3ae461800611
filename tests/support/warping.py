"""Dynamic time warping by its definition, with the whole matrix: the reference for the fast versions."""

import numpy as np


def slow_path(distances: np.ndarray) -> tuple:
    """(n, m) distances -> (cost, length of the path), from the full matrix and by tracing the path backwards."""
    n, m = distances.shape
    cost = np.full((n + 1, m + 1), np.inf, dtype=np.float32)
    cost[0, 0] = 0
    for i in range(n):
        for j in range(m):
            cost[i + 1, j + 1] = distances[i, j] + min(cost[i, j], cost[i, j + 1], cost[i + 1, j])
    cost = cost[1:, 1:]
    i, j, length = n - 1, m - 1, 1
    while i > 0 and j > 0:
        diagonal, left, up = cost[i - 1, j - 1], cost[i, j - 1], cost[i - 1, j]
        if diagonal <= left and diagonal <= up:
            i, j = i - 1, j - 1
        elif left <= up:
            j -= 1
        else:
            i -= 1
        length += 1
    return cost[-1, -1], length + i + j
