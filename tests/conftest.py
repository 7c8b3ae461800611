import os
from pathlib import Path

import pytest


@pytest.fixture
def librispeech_mini() -> Path:
    beside = Path(__file__).parents[2] / "shared/data/librispeech_mini"
    folder = Path(os.environ.get("DINOSR_TEST_CORPUS", beside))
    if not folder.is_dir():
        pytest.skip("no real speech: set DINOSR_TEST_CORPUS to a folder in LibriSpeech's layout")
    return folder
