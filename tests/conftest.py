import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("any machine", deadline=None)  # 200 ms an example is no fault where other programs take the CPU
settings.load_profile("any machine")


@pytest.fixture
def librispeech_mini() -> Path:
    beside = Path(__file__).parents[2] / "shared/data/librispeech_mini"
    folder = Path(os.environ.get("DINOSR_TEST_CORPUS", beside))
    if not folder.is_dir():
        pytest.skip("no real speech: set DINOSR_TEST_CORPUS to a folder in LibriSpeech's layout")
    return folder


@pytest.fixture(autouse=True)
def fairseq_forgets():
    """fairseq keeps a run's best loss, and how many validations ago it was, as attributes of two functions: tests that save without loading must not find them."""
    yield
    for module, function in (("fairseq.checkpoint_utils", "save_checkpoint"), ("fairseq_cli.train", "should_stop_early")):
        if module in sys.modules:
            for name in ("best", "num_runs"):
                vars(getattr(sys.modules[module], function)).pop(name, None)
