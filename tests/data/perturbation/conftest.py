"""Praat's process, which a test may replace, ends with each test."""

import sys

import pytest

from dinosr_plugin.data.perturbation import praat


@pytest.fixture(autouse=True)
def praat_ends():
    yield
    praat.close()


@pytest.fixture
def worker_that(monkeypatch):
    """``worker_that("code")``: from now on Praat's process calls this code, with ``wave``, instead of Praat."""

    def replace(code: str) -> None:
        praat.close()
        lines = ["import sys, time, os", "from dinosr_plugin.data.perturbation import praat_worker"]
        lines += ["def work(kind, wave, *numbers):", f"    {code}", "praat_worker.work = work", "praat_worker.main()"]
        monkeypatch.setattr(praat, "COMMAND", [sys.executable, "-c", "\n".join(lines)])

    return replace
