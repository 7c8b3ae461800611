"""For all tests: Hypothesis's settings, failures printed at once, the order of the files, shared folders."""

import os
import shutil
import signal
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import settings
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter as LoaderIterator

import dinosr_plugin
from dinosr_plugin.runs.ending import at_end
from support.command_server import commands_without_imports
from support.once import make_once
from support.paths import TESTS

# `nohup` and shells in the background ignore SIGINT and SIGHUP, and so would what the tests start
HANDLERS = {signal.SIGINT: signal.default_int_handler} | dict.fromkeys(
    [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGALRM], signal.SIG_DFL
)
for number, handler in HANDLERS.items():
    signal.signal(number, handler)

dinosr_plugin.register()  # tests rely on it in any order, some without importing the package through fairseq

settings.register_profile("search", deadline=None)  # on a busy machine an example may take more than 200 ms
settings.register_profile("repeatable", settings.get_profile("search"), derandomize=True)
settings.load_profile("repeatable")  # the same examples each time; --hypothesis-profile=search looks for new ones

SLOW_FILES = (
    "test_readme.py",
    "examples/test_quickstart.py",
    "cli/test_bench.py",
    "cli/test_hostile_files.py",
    "test_reading.py",
    "runs/test_long_runs.py",
    "runs/test_exact_training.py",
    "runs/test_stopping.py",
    "checkpoints/test_hostile_checkpoints.py",
    "tasks/test_relabelling.py",
    "examples/test_deepcluster_chain.py",
    "tasks/test_cpc_training.py",
    "decoding/test_generate.py",
    "examples/test_hubert_chain.py",
    "examples/test_configs.py",
    "runs/test_kills.py",
    "cli/test_bad_input.py",
    "compat/test_compat.py",
    "evaluation/report/test_report.py",
    "units/test_features.py",
    "decoding/test_transcribe.py",
    "evaluation/test_comparison.py",
)
"""The files that take longest, slowest first, as measured. A slow file that is missing here only starts later."""


def pytest_collection_modifyitems(items):
    """Runs slow files first, so that workers, which take a file at a time, end at about the same time."""
    place = {TESTS / name: number for number, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport():
    """Adds the state of the machine to the report of a failed test, which may have run out of memory or time."""
    report = yield
    if report.failed:
        report.sections.append(("Machine", machine()))
    return report


def machine() -> str:
    """Time, load, free memory and free disk."""
    memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = {"memory": memory} | {
        folder: shutil.disk_usage(folder).free for folder in (os.getcwd(), tempfile.gettempdir())
    }
    return f"{datetime.now():%H:%M:%S}, load {os.getloadavg()[0]:.1f}, free: " + ", ".join(
        f"{size >> 20} MB in {where}" for where, size in free.items()
    )


class FailuresAtOnce:
    """Prints each failure when it occurs, not only after the last test, so that it is known if the run is stopped.

    With pytest-xdist the reports of all workers arrive in the process that has the terminal.
    """

    def __init__(self, terminal):
        self.terminal = terminal

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.terminal.write_sep("=", f"{report.when} of {report.nodeid} failed after {report.duration:.0f} s")
            self.terminal.write_line(dict(report.sections).get("Machine", ""))
            self.terminal.write_line(report.longreprtext)


def pytest_sessionstart(session):
    plugins = session.config.pluginmanager
    if terminal := plugins.get_plugin("terminalreporter"):  # the workers of pytest-xdist have none
        plugins.register(FailuresAtOnce(terminal))


@pytest.fixture
def librispeech_mini() -> Path:
    default = Path(__file__).parents[2] / "shared/data/librispeech_mini"
    folder = Path(os.environ.get("DINOSR_TEST_CORPUS", default))
    if not folder.is_dir():
        pytest.skip("no real speech: set DINOSR_TEST_CORPUS to a folder in LibriSpeech's layout")
    return folder


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> Callable[..., Path]:
    """``shared_folder(write)``: a folder filled by ``write(folder)`` once per session, for all workers. Read-only."""
    base = tmp_path_factory.getbasetemp()
    common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return lambda write: make_once(common / "shared" / f"{write.__module__}.{write.__name__}", write)


@pytest.fixture(scope="session")
def tiny_checkpoints(shared_folder) -> Path:
    """A folder with ``pretraining.pt`` and ``finetuning.pt``, trained on noise with words."""
    from support.two_stages import write_checkpoints

    return shared_folder(write_checkpoints)


@pytest.fixture(scope="session")
def commands(tmp_path_factory) -> Iterator[Path]:
    """A folder with ``dinosr``, fairseq's commands and ``python``, which start without importing torch and fairseq."""
    with commands_without_imports(tmp_path_factory.mktemp("commands")) as folder:
        yield folder


@pytest.fixture(autouse=True)
def loader_workers_stop(monkeypatch):
    """Stops the workers of data loaders that a training, or a test, leaves behind.

    When the garbage collector finds such loaders, their queues are gone, and it waits five seconds for each worker.
    """
    loaders, start = weakref.WeakSet(), LoaderIterator.__init__

    def stop(loader):
        if loader() is not None:
            loader()._shutdown_workers()

    def start_and_remember(self, *args, **kwargs):
        start(self, *args, **kwargs)
        loaders.add(self)
        at_end.callback(stop, weakref.ref(self))

    monkeypatch.setattr(LoaderIterator, "__init__", start_and_remember)
    yield
    for loader in loaders:
        loader._shutdown_workers()


@pytest.fixture(autouse=True)
def fairseq_forgets_runs():
    """Removes a run's best loss, and how many validations ago it was, which fairseq keeps as attributes of two
    functions: tests that save without loading must not find them."""
    yield
    for module, function in (
        ("fairseq.checkpoint_utils", "save_checkpoint"),
        ("fairseq_cli.train", "should_stop_early"),
    ):
        if module in sys.modules:
            for name in ("best", "num_runs"):
                vars(getattr(sys.modules[module], function)).pop(name, None)


@pytest.fixture(autouse=True)
def usual_signal_handlers():
    """Every test starts with Python's own handlers: a trainer that is built without fairseq's main leaves others."""
    for number, handler in HANDLERS.items():
        if signal.getsignal(number) != handler:
            signal.signal(number, handler)
