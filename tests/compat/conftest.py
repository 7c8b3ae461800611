"""Applies all workarounds for fairseq."""

import pytest

from dinosr_plugin import compat


@pytest.fixture(autouse=True, scope="session")
def applied():
    """Importing the plug-in through fairseq does this; these tests also call fairseq's functions directly."""
    compat.apply()
