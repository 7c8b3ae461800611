"""``import_transformers``: Hugging Face's library, also beside a torchaudio that cannot be imported.

fairseq requires torchaudio, which pip takes from PyPI: a build for CUDA, which does not load beside a torch for CPUs.
transformers imports it where it is installed.
"""

import sys
from types import ModuleType

import pytest


def import_transformers() -> ModuleType:
    """The module. Skips the test if it is not installed."""
    try:
        import torchaudio  # noqa: F401
    except (ImportError, OSError):
        sys.modules["torchaudio"] = None  # type: ignore[assignment]  # as if it were not installed
    return pytest.importorskip("transformers")
