"""Memory that torch frees on a CPU stays in the process."""

import ctypes
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dinosr_plugin.runs.memory import keep_freed_memory

COUNT_PAGE_FAULTS = """
import ctypes, resource, sys
import torch
from dinosr_plugin.runs.memory import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory(torch.nn.Linear(1, 1))
else:
    # M_MMAP_THRESHOLD: larger blocks come from the system; by default that depends on the state of the heap
    ctypes.CDLL(None).mallopt(-3, 1 << 20)
for _ in range(3):
    [torch.zeros(7 << 20) for _ in range(4)]  # of 28 MB, freed at once
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
[torch.zeros(7 << 20) for _ in range(4)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    program = [sys.executable, "-W", "ignore", "-c", COUNT_PAGE_FAULTS, mode]
    return int(subprocess.run(program, capture_output=True, text=True, check=True).stdout)


def huge_pages() -> bool:
    return Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text().startswith("[always]")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="requires glibc")
def test_freed_memory_is_used_again():
    returned, kept = page_faults("returned"), page_faults("kept")
    assert kept < 100
    assert returned > 10 * kept or huge_pages()


def test_does_nothing_for_a_model_on_another_device(monkeypatch):
    options = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=lambda *option: options.append(option)))
    keep_freed_memory(torch.nn.Linear(1, 1, device="meta"))
    assert not options
    keep_freed_memory(torch.nn.Linear(1, 1))
    assert options == [(-3, 32 << 20), (-1, -1)]
