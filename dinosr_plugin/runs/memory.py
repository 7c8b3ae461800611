"""What the C library does with memory that torch frees on a CPU."""

import ctypes

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
LARGEST = 32 << 20  # bytes: glibc takes no greater M_MMAP_THRESHOLD


def keep_freed_memory(model: torch.nn.Module):
    """glibc gives freed memory back to the system, and every new tensor then costs a page fault for each 4 kB of it: GELU or LayerNorm of a large one
    spends two thirds of its time on that. Kept instead, the next tensor gets the same pages. Blocks over 32 MB still come from the system and
    go back there: among smaller ones that stay they would leave holes that nothing fits in. For the whole process, and those that it forks, from
    a call on.

    Nothing happens for a model on another device, and with another C library.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None and next(model.parameters()).device.type == "cpu":
        set_option(M_MMAP_THRESHOLD, LARGEST)
        set_option(M_TRIM_THRESHOLD, -1)  # never
