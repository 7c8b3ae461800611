import os
import shutil
import sys
import tempfile
import weakref
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import settings
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter as LoaderIterator

import dinosr_plugin

dinosr_plugin.register()  # whichever test is collected first

settings.register_profile("search", deadline=None)  # 200 ms an example is no fault where other programs take the CPU
settings.register_profile("repeatable", settings.get_profile("search"), derandomize=True)
settings.load_profile(
    "repeatable"
)  # a change never fails on somebody else's rare case; --hypothesis-profile=search looks for these


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item):
    """Why a test failed is printed when it does, not only after the last one: a suite that is stopped has then said it."""
    report = yield
    if report.failed:
        terminal = item.config.pluginmanager.get_plugin("terminalreporter")
        terminal.write_sep("=", f"{report.when} of {report.nodeid} failed after {report.duration:.0f} s")
        terminal.write_line(machine())
        terminal.write_line(report.longreprtext)
    return report


def machine() -> str:
    """What a test may have lacked."""
    memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = {"memory": memory} | {
        folder: shutil.disk_usage(folder).free for folder in (os.getcwd(), tempfile.gettempdir())
    }
    return f"{datetime.now():%H:%M:%S}, load {os.getloadavg()[0]:.1f}, free: " + ", ".join(
        f"{size >> 20} MB in {where}" for where, size in free.items()
    )


@pytest.fixture
def librispeech_mini() -> Path:
    beside = Path(__file__).parents[2] / "shared/data/librispeech_mini"
    folder = Path(os.environ.get("DINOSR_TEST_CORPUS", beside))
    if not folder.is_dir():
        pytest.skip("no real speech: set DINOSR_TEST_CORPUS to a folder in LibriSpeech's layout")
    return folder


@pytest.fixture(autouse=True)
def workers_stop(monkeypatch):
    """Those of loaders that a test leaves behind: when the garbage collector finds these, their queues are gone, and it waits five seconds for each worker."""
    loaders, start = weakref.WeakSet(), LoaderIterator.__init__

    def start_and_remember(self, *args, **kwargs):
        start(self, *args, **kwargs)
        loaders.add(self)

    monkeypatch.setattr(LoaderIterator, "__init__", start_and_remember)
    yield
    for loader in loaders:
        loader._shutdown_workers()


@pytest.fixture(autouse=True)
def fairseq_forgets():
    """fairseq keeps a run's best loss, and how many validations ago it was, as attributes of two functions: tests that save without loading must not find them."""
    yield
    for module, function in (
        ("fairseq.checkpoint_utils", "save_checkpoint"),
        ("fairseq_cli.train", "should_stop_early"),
    ):
        if module in sys.modules:
            for name in ("best", "num_runs"):
                vars(getattr(sys.modules[module], function)).pop(name, None)
