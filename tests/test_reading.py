"""Readers of files: whatever a file contains, they return or raise UserError, in bounded time and memory.

Each reader of `support/reading.py` reads variants of a valid file, which Hypothesis draws (`support/mutations.py`).
In the suite they are few, and the same each time. To search for hours, for one reader or all:

    FUZZ_EXAMPLES=20000 pytest tests/test_reading.py --hypothesis-profile=search [-k "manifest"] [-n 2]
"""

import ast
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dinosr_plugin.data.audio import AudioError
from dinosr_plugin.errors import UserError
from support.limits import at_most, in_a_child
from support.mutations import variants
from support.paths import PLUGIN
from support.reading import READERS, Reader, copy_valid_files
from support.valid_files import write_valid_files

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "25"))
SECONDS = 3  # for one file


@pytest.fixture(scope="module", autouse=True)
def hypothesis_started() -> None:
    """Its first test in a process collects the constants in all our modules, so that the children need not."""
    settings(max_examples=1)(given(st.integers())(lambda number: None))()


@pytest.fixture(scope="module")
def valid(shared_folder) -> Path:
    return shared_folder(write_valid_files)


# ---- damaged files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused(name, valid, tmp_path):
    """In a process of its own, with limits, which may also die."""
    folder = copy_valid_files(valid, tmp_path / "files")
    in_a_child(lambda: read_variants(READERS[name], folder))


def read_variants(reader: Reader, folder: Path) -> None:
    path = folder / reader.file
    original = path.read_bytes()

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), database=None)
    @given(st.data())
    def read(data):
        path.write_bytes(data.draw(variants(original, reader.kind)))
        with suppress(UserError, AudioError), at_most(SECONDS):
            reader.call(folder)

    read()


# ---- the table of readers --------------------------------------------------------------------------------------------

OPENING = {"open", "open_file", "open_text", "read_lines", "read_text", "read_bytes", "read_json", "json.load"}
OPENING |= {"json.loads", "np.load", "np.loadtxt", "np.memmap", "torch.load", "sf.SoundFile", "sf.read", "KenLM"}
OPENING |= {"zipfile.ZipFile", "EventAccumulator", "csv.DictReader", "load_model_ensemble_and_task"}
WRITING = ("w", "wb", "a", "ab", "x", "r+b")

NOT_DAMAGED_HERE = {  # file:function -> reason
    "compat/data.py:open_labels": "the labels of fine-tuning, which `validate_labels` has read before",
    "decoding/arpa.py:binary_words": "KenLM's binary format, which it does not check: damaged ones are in test_search",
    "evaluation/web_page.py:figure": "reads pictures that the report has just written",
}


def opens_a_file(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    values = [getattr(value, "value", None) for value in [*call.args, *(word.value for word in call.keywords)]]
    opens = name in OPENING or (name.split(".")[-1] in OPENING and name not in ("os.open", "self.open"))
    return opens and not any(value in WRITING for value in values)


def functions_that_open_files() -> set[str]:
    """file:function of the package that calls one of ``OPENING`` itself, not in an inner function."""
    found = set()
    for path in sorted(PLUGIN.rglob("*.py")):
        function_of = {}  # node -> the innermost function; outer functions are visited first
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                function_of |= dict.fromkeys(ast.walk(function), function.name)
        calls = {name for node, name in function_of.items() if isinstance(node, ast.Call) and opens_a_file(node)}
        found |= {f"{path.relative_to(PLUGIN)}:{name}" for name in calls}
    return {name for name in found if not name.startswith("files/")}  # their callers are in the set


def functions_called(work: Callable[[], None]) -> set[str]:
    """The functions of the package that ``work`` calls, in the same form."""
    called = set()

    def note(frame, event, _):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(PLUGIN)):
            called.add(f"{Path(code.co_filename).relative_to(PLUGIN)}:{code.co_name}")

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return called


def test_every_function_that_opens_a_file_is_called_by_a_reader_of_the_table(valid, tmp_path):
    """So a new one must be added to it. The valid files are read without an error."""
    folder = copy_valid_files(valid, tmp_path / "files")
    called = set()
    for reader in READERS.values():
        called |= functions_called(lambda reader=reader: reader.call(folder))
    missing = functions_that_open_files() - called
    assert missing == NOT_DAMAGED_HERE.keys(), " ".join(sorted(missing ^ NOT_DAMAGED_HERE.keys()))
