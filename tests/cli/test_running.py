"""What surrounds every command: signals, errors of the system, control characters, and its claim of ``--out``."""

import argparse
import errno
import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dinosr_plugin import cli, files
from dinosr_plugin.cli import corpora, running
from support.paths import REPOSITORY


def run_path(monkeypatch, run) -> int:
    """The exit status of `dinosr path`, which calls ``run``."""
    monkeypatch.setattr(corpora, "run_path", lambda options: run())
    return cli.main(["path"])


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error, message",
    [
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), "a/b: Permission denied; give another folder, or "),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), f"{'x' * 300}: File name too long; give a sh"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files; close other files, or raise the limit"),
        (MemoryError(), "out of memory; "),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory; "),
    ],
)
def test_errors_of_the_system_are_one_line(error, message, monkeypatch, capsys):
    def run():
        raise error

    assert run_path(monkeypatch, run) == 1
    assert capsys.readouterr().err.startswith(f"error: {message}")


FORBIDDEN = {  # command -> its arguments, in which FOLDER may not be entered
    "units": ["FOLDER/x.pt", "m.tsv", "--out", "u"],
    "kmeans apply": ["FOLDER/k.npz", "u.units", "m.tsv", "--out", "x.km"],
    "kmeans fit": ["FOLDER/f", "--clusters", "2", "--out", "k.npz"],
    "quality": ["FOLDER/u.units", "--phones", "p.tsv"],
    "abx": ["FOLDER/f", "--phones", "p.tsv"],
    "transcribe": ["FOLDER/x.pt", "m.tsv"],
    "inspect": ["FOLDER/x.pt"],
    "lm-score": ["FOLDER/lm.pt", "u.units", "--out", "s"],
    "manifest folder": ["FOLDER/x", "--out", "m"],
    "manifest librispeech": ["FOLDER", "--out", "m"],
    "check": ["FOLDER/m.tsv"],
    "ngram": ["FOLDER/text", "--order", "2", "--out", "a.arpa"],
    "features": ["--mfcc", "m.tsv", "--out", "FOLDER/f"],
    "synth": ["--minutes", "1", "--speakers", "2", "--out", "FOLDER/f"],
}


@pytest.fixture
def inputs(tmp_path, monkeypatch) -> Path:
    """The current folder: an alignment, units and a manifest."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.tsv").write_text("utt\tstart\tend\tphone\na\t0\t1\tAA\n")
    (tmp_path / "u.units").write_text("a\t1 2\n")
    (tmp_path / "m.tsv").write_text(f"{tmp_path}\na.wav\t16000\n")
    (tmp_path / "a.wav").touch()
    return tmp_path


@pytest.mark.parametrize("command", FORBIDDEN)
def test_a_folder_that_may_not_be_entered_is_one_line(command, inputs, monkeypatch, capsys):
    """Tests may run as root, who may enter every folder: the calls of the system are replaced."""
    folder = inputs / "forbidden"
    folder.mkdir()

    def forbid(module, name, inside_only=False):
        call = getattr(module, name)

        def checked(path=".", *args, **kwargs):
            text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
            if str(folder) in text and not (inside_only and text == str(folder)):
                raise PermissionError(errno.EACCES, "Permission denied", text)
            return call(path, *args, **kwargs)

        monkeypatch.setattr(module, name, checked)

    for name in ("stat", "lstat", "mkdir"):
        forbid(os, name, inside_only=True)
    for name in ("scandir", "listdir", "open"):
        forbid(os, name)
    forbid(__import__("builtins"), "open")
    forbid(__import__("io"), "open")
    arguments = [argument.replace("FOLDER", str(folder)) for argument in FORBIDDEN[command]]
    assert cli.main([*command.split(), *arguments]) == 1
    captured = capsys.readouterr()
    (line,) = [line for line in captured.err.splitlines() if not line.startswith("note: ")]
    assert line.startswith("error: ") and str(folder) in line and "Permission denied" in line


PIPES = {name: arguments for name, arguments in FORBIDDEN.items() if name not in ("features", "synth")} | {
    "quality": ["u.units", "--phones", "FOLDER/p"],
    "zerospeech": ["FOLDER/d", "FOLDER/s"],
    "tune-lm": ["FOLDER/e.npz", "--lm", "x.arpa"],
    "report": ["FOLDER/x.pt", "--manifest", "m.tsv", "--phones", "p.tsv", "--train", "m.tsv", "--out", "r"],
    "features": ["FOLDER/x.pt", "m.tsv", "--out", "f"],
}


class Waited(BaseException):
    """The command has waited for a pipe."""


@pytest.mark.parametrize("command", PIPES)
@pytest.mark.parametrize("other", ["pipe", "/dev/zero"])
def test_a_pipe_or_a_device_is_refused_and_not_waited_for(command, other, inputs, monkeypatch, capsys):
    os.mkfifo(inputs / "pipe")
    arguments = [re.sub("FOLDER(/[a-z.]+)?", other, argument) for argument in PIPES[command]]

    def waited(*_):
        raise Waited

    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(30)
    try:
        assert cli.main([*command.split(), *arguments]) == 1
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1 and lines[0].startswith("error: ") and other in lines[0]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux only")
def test_a_full_disk_behind_stdout_is_one_line(tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "dinosr_plugin.cli", "path"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (1, "error: No space left on device; free some space\n")


# ---- names -----------------------------------------------------------------------------------------------------------


def test_a_terminal_that_is_not_utf8(monkeypatch):
    """Characters that it cannot show are printed as escapes."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", stream)
    with running.printable_streams():
        print("Jos\u00e9 \u0142\u00f3d\u017a")
    stream.flush()
    assert stream.buffer.getvalue() == b"Jos\xe9 \\u0142\xf3d\\u017a\n"


def test_names_do_not_control_the_terminal(monkeypatch, capsys):
    def run():
        print("a\x1b[2Jb\x9bc\u202ed", "\udcff\te")
        print("\r", "f\rg", sep="", file=sys.stderr)
        return 0

    assert run_path(monkeypatch, run) == 0
    captured = capsys.readouterr()
    assert captured.out == "a\\x1b[2Jb\\x9bc\\u202ed \\udcff\te\n" and captured.err == "\rf\\rg\n"


# ---- signals ---------------------------------------------------------------------------------------------------------

WAITING = """
import sys, time
from dinosr_plugin import cli
from dinosr_plugin.cli import corpora
from dinosr_plugin.files import output

def run(options):
    with output("new/x.txt") as unfinished:
        unfinished.write_text("half")
        try:
            print("writing", flush=True)
            time.sleep(60)
        finally:
            if "slow" in sys.argv:
                print("cleaning", flush=True)
                time.sleep(60)

corpora.run_path = run
sys.exit(cli.main(["path"]))
"""


def waiting(folder: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-c", WAITING, *options]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "writing\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_cleans_up(number, tmp_path):
    process = waiting(tmp_path)
    assert list(tmp_path.iterdir())
    process.send_signal(number)
    assert process.communicate(timeout=60) == ("", "") and process.returncode == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_a_second_signal_ends_a_command_at_once(tmp_path):
    process = waiting(tmp_path, "slow")
    process.terminate()
    assert process.stdout.readline() == "cleaning\n"
    process.terminate()
    assert process.wait(timeout=30) == -signal.SIGTERM
    process.communicate()
    with files.output(tmp_path / "new" / "x.txt") as unfinished:  # the next run removes what is left
        unfinished.touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.txt"]


def test_an_ignored_signal_stays_ignored_and_handlers_are_restored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with running.end_on_signals():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is running.end
            if (child := os.fork()) == 0:
                os._exit(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1  # worker processes end at once
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


# ---- --out -----------------------------------------------------------------------------------------------------------


def commands(parser: argparse.ArgumentParser, name: str = "") -> dict[str, argparse.ArgumentParser]:
    """Every command of the table, sub-commands included."""
    steps = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not steps:
        return {name.strip(): parser}
    found = {}
    for step, below in steps[0].choices.items():
        found |= commands(below, f"{name} {step}")
    return found


COMMANDS = commands(cli.make_parser())
WITH_OUT = {
    name: parser.get_default("out_kind")
    for name, parser in COMMANDS.items()
    if any("--out" in action.option_strings for action in parser._actions)
}


def test_every_output_is_claimed():
    assert set(WITH_OUT.values()) == {"file", "folder", "new folder", "parts"}
    assert [name for name, kind in WITH_OUT.items() if kind == "parts"] == ["features", "units", "speaker embed"]


def arguments_of(parser: argparse.ArgumentParser) -> list[str]:
    """Valid values for the required arguments."""
    given = []
    for action in parser._actions:
        if action.required and "--out" not in action.option_strings:
            value = action.choices[0] if action.choices else "2" if action.type not in (None, Path) else "x"
            given += [action.option_strings[0], value] if action.option_strings else [value]
    if parser.prog.endswith("abx"):
        given += ["x", "--phones", "x"]
    if parser.prog.endswith("speaker cluster"):
        given += ["--clusters", "2"]
    if parser.prog.endswith("probe"):
        given = ["x", *given]  # the checkpoint; or --checkpoints
    return given


@pytest.mark.parametrize("name", [name for name, kind in WITH_OUT.items() if kind != "parts"])
def test_an_output_that_another_command_writes_is_refused_at_once(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    kind = WITH_OUT[name]
    if kind == "folder":
        (tmp_path / "out").mkdir()
    script = f"""
import argparse, time
from pathlib import Path
from dinosr_plugin.cli.running import claim_out
with claim_out(argparse.Namespace(out=Path("out"), out_kind={kind!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    other = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert other.stdout.readline() == "held\n"
        began = time.monotonic()
        assert cli.main([*name.split(), *arguments_of(COMMANDS[name]), "--out", "out"]) == 1
        message = f"error: --out out: another process (process {other.pid} on {os.uname().nodename}) is writing there; "
        assert capsys.readouterr().err == f"{message}wait for it to end, or give another name\n"
        assert time.monotonic() - began < 5
    finally:
        other.kill()
        other.communicate()
