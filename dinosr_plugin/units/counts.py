"""Counts of pairs of labels: the table that purity, PNMI and the matching of clusters are computed from."""

import numpy as np


def contingency(rows: np.ndarray, columns: np.ndarray, n_rows: int, n_columns: int) -> np.ndarray:
    """Count how often each pair of labels occurs; tables of several utterances may simply be added.

    Args:
        rows: (N,) integers in [0, n_rows), one per frame: phones, or old labels.
        columns: (N,) integers in [0, n_columns), one per frame: units.

    Returns:
        (n_rows, n_columns) int64.

    Raises:
        ValueError: lengths differ, or a value is out of range (dropping it silently would change every figure).
    """
    rows, columns = np.asarray(rows), np.asarray(columns)
    if rows.shape != columns.shape or rows.ndim != 1:
        raise ValueError(f"{rows.shape} and {columns.shape} labels must be two vectors of the same length")
    for values, n in ((rows, n_rows), (columns, n_columns)):
        if values.size and not (values.min() >= 0 and values.max() < n):
            raise ValueError(f"labels range from {values.min()} to {values.max()}, outside [0, {n})")
    pairs = rows.astype(np.int64) * n_columns + columns
    return np.bincount(pairs, minlength=n_rows * n_columns).reshape(n_rows, n_columns)  # (n_rows, n_columns)
