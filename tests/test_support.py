"""The parts of support/ that all tests rely on; no test file imports another."""

import ast
import multiprocessing
import subprocess
import time
from pathlib import Path

import pytest

from support.once import make_once
from support.paths import BENCHMARKS, PLUGIN, TESTS

FILES = [path for path in TESTS.rglob("*.py") if not path.is_relative_to(BENCHMARKS)]


def imported_modules(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


def test_no_test_file_imports_another():
    """Shared code is in support/, so that each file can be run alone, in any order and in any process."""
    assert any("support.once" in imported_modules(path) for path in FILES)
    for path in FILES:
        for name in imported_modules(path):
            parts = name.split(".")
            assert parts[0] != "tests" and not any(part.startswith("test_") for part in parts), f"{path}: {name}"


def write_slowly(folder: Path) -> None:
    with open(folder / "calls", "a") as file:
        file.write("called\n")
    time.sleep(0.3)
    (folder / "written").touch()


def exit_unless_written(folder: Path) -> None:
    if not (make_once(folder, write_slowly) / "written").exists():
        raise SystemExit(1)


def test_a_folder_is_made_by_one_process_and_the_others_wait(tmp_path):
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=exit_unless_written, args=[tmp_path / "shared"]) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "shared/calls").read_text() == "called\n"


def test_a_folder_that_could_not_be_made_is_made_again(tmp_path):
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        make_once(tmp_path / "shared", fail)
    folder = make_once(tmp_path / "shared", write_slowly)
    assert sorted(path.name for path in folder.iterdir()) == ["calls", "written"]


def test_a_command_of_the_server_is_a_process_like_any_other(commands, tmp_path):
    """It has a working directory, streams and an exit status; changes to the process do not reach the next command."""

    def run(*arguments) -> tuple[int, str, str]:
        done = subprocess.run([commands / "dinosr", *arguments], cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    assert run("path") == (0, f"{PLUGIN}\n", "")
    status, printed, error = run("check", "missing.tsv")
    assert (status, printed) == (1, "") and error.startswith("error: missing.tsv: ")
    assert run("nonsense")[0] == 2
    (tmp_path / "empty.tsv").write_text(f"{tmp_path}\n")
    assert "empty.tsv" in run("check", "empty.tsv")[1]
    assert run("path") == (0, f"{PLUGIN}\n", "")


def test_a_script_of_the_server_has_what_is_imported(commands, tmp_path):
    """It has its arguments and exit status; a script that it starts with ``sys.executable`` has the imports, too."""
    code = "import sys; print(*sys.argv, sys.executable, 'fairseq' in sys.modules); sys.exit(3)"
    (tmp_path / "script.py").write_text(code)
    program = [commands / "python", "-W", "ignore", "script.py", "--a", "b c"]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 3 and done.stdout == f"script.py --a b c {commands / 'python'} True\n", done.stderr
