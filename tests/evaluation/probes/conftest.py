"""A small corpus for probes: speakers, vowels, words and genders."""

from pathlib import Path

import pytest

from support.probing import write_probe_corpus


@pytest.fixture(scope="session")
def corpus(shared_folder) -> Path:
    return shared_folder(write_probe_corpus)
