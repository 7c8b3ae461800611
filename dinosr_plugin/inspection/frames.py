"""Rate and place of a front end's frames, from sizes that a file states."""

from collections.abc import Sequence

from ..modules.frame_grid import FrameGrid

MAX_FIELD = 1 << 40  # samples


def grid_of(kernels: Sequence[int], strides: Sequence[int]) -> FrameGrid | None:
    """Of stacked convolutions, bottom layer first; None without any, or with impossible sizes."""
    numbers = [*kernels, *strides]
    if not numbers or len(kernels) != len(strides) or not all(type(n) is int and 0 < n < 1 << 16 for n in numbers):
        return None
    grid = FrameGrid.of_convolutions((0, kernel, stride) for kernel, stride in zip(kernels, strides))
    return grid if max(grid) < MAX_FIELD else None


def timing(grid: FrameGrid | None) -> tuple[float | None, float | None]:
    """``rate`` and ``first_centre`` of a ``Description``."""
    return (None, None) if grid is None else (grid.rate, grid.first_centre)
