"""Two processes with a common process group, each of which saves a result."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist


def results_of_two_ranks(work: Callable[[int, str], None], tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What ``work(rank, folder)`` saves as ``folder/rank{rank}.pt``, by rank; skips without torch.distributed."""
    if not dist.is_available():
        pytest.skip("this torch has no torch.distributed")
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
