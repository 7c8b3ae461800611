"""Fixtures of the decoding tests."""

from pathlib import Path

import pytest

from support.recogniser import write_recogniser


@pytest.fixture(scope="session")
def recogniser(shared_folder) -> Path:
    """A folder with three utterances and ``model.pt``, a random recogniser; see ``write_recogniser``."""
    return shared_folder(write_recogniser)
