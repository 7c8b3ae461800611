"""How the C library treats memory that torch frees on a CPU."""

import ctypes

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
MAX_MMAP_THRESHOLD = 32 << 20  # bytes: the largest M_MMAP_THRESHOLD that glibc accepts


def keep_freed_memory(model: torch.nn.Module):
    """Make glibc keep freed memory in the process instead of returning it to the system.

    If it is returned, every new tensor costs a page fault for each 4 kB: GELU or LayerNorm of a large tensor spends two
    thirds of its time on these. If it is kept, the next tensor gets the same pages. Blocks of more than 32 MB still
    come from the system and are returned to it: if they were kept among smaller blocks, they would leave holes that
    nothing fits in. This holds from the first call on, for the whole process and the processes that it forks.

    Does nothing for a model on another device, or with another C library.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None and next(model.parameters()).device.type == "cpu":
        set_option(M_MMAP_THRESHOLD, MAX_MMAP_THRESHOLD)
        set_option(M_TRIM_THRESHOLD, -1)  # never
