"""``import_s3prl``: s3prl beside a torchaudio that does not fit torch.

s3prl imports torchaudio everywhere. pip takes it from PyPI: a build for CUDA, whose libraries do not load beside a
torch for CPUs. Nothing that is tested here needs these libraries.
"""

import importlib
import sys
from types import ModuleType

import pytest


def import_s3prl(name: str = "hub") -> ModuleType:
    """A module of s3prl. Skips the test if s3prl, or a package that this module needs, is not installed."""
    if sys.modules.get("torchaudio", "not imported") is None:
        del sys.modules["torchaudio"]  # `import_transformers` has hidden it
    pytest.importorskip("s3prl", reason="s3prl is not installed: pip install '.[s3prl]'")
    try:
        importlib.import_module("torchaudio")
    except OSError:
        without_libraries = ModuleType("torchaudio._extension")
        vars(without_libraries).update(_IS_TORCHAUDIO_EXT_AVAILABLE=False, fail_if_no_align=lambda function: function)
        sys.modules["torchaudio._extension"] = without_libraries
    return pytest.importorskip(f"s3prl.{name}", reason=f"s3prl.{name} needs more packages: pip install '.[s3prl]'")
