"""fairseq with everything that the plug-in adds to a training."""

import pytest

from dinosr_plugin import compat, runs


@pytest.fixture(autouse=True, scope="session")
def installed():
    """Importing the plug-in through fairseq does this; these tests also call fairseq's functions directly."""
    compat.apply()
    runs.install()
