"""``import_transformers``: Hugging Face's library without torchaudio.

fairseq requires torchaudio, which pip takes from PyPI: a build for CUDA, which does not load beside a torch for CPUs.
transformers imports it where it is installed, and nothing that is tested here needs it.
"""

import sys
from types import ModuleType

import pytest


def import_transformers() -> ModuleType:
    """The module. Skips the test if it is not installed."""
    sys.modules.setdefault("torchaudio", None)  # type: ignore[arg-type]  # as if it were not installed
    return pytest.importorskip("transformers")
