"""Starters pass signals on to the program that is running, wait until it has saved, and leave nothing behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.paths import REPOSITORY

TRAINING = """
import os, signal, sys, time
from pathlib import Path

def save(number, _):
    time.sleep(0.5)
    Path("saved").write_text(f"{number}\\n")
    sys.exit(128 + number)

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, save)
Path("pid.new").write_text(str(os.getpid()))
os.replace("pid.new", "pid")
print("training", flush=True)
for _ in range(600):  # a signal just before a long sleep would be handled after it
    time.sleep(0.1)
"""
STARTER = """
import sys
from examples.quickstart.programs import Programs, Stopped
programs = Programs(".")
programs.listen()
try:
    programs.run([sys.executable, "training.py"], lambda line: print(line, end="", flush=True))
except Stopped as stopped:
    sys.exit(128 + stopped.number)
"""
SCRIPT = f"""#!/usr/bin/env bash
set -euo pipefail
source "{REPOSITORY}/examples/signals.sh" "$@"
train() {{ "$1" training.py; }}
train "$1"
echo "the next command was started"
"""


@pytest.fixture(params=["run.py", "run.sh"])
def starter(request, tmp_path):
    """A starter whose training is running, in ``tmp_path``; and the training's process id."""
    (tmp_path / "training.py").write_text(TRAINING)
    (tmp_path / "run.sh").write_text(SCRIPT)
    command = [sys.executable, "-c", STARTER] if request.param == "run.py" else ["bash", "run.sh", sys.executable]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
    )
    pid = None
    try:
        assert process.stdout.readline() == "training\n"
        pid = int((tmp_path / "pid").read_text())
        yield process, pid
    finally:
        process.kill()
        process.communicate()
        if pid and is_running(pid):
            os.kill(pid, signal.SIGKILL)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_passed_on_and_the_training_saves(starter, number, tmp_path):
    process, pid = starter
    process.send_signal(number)
    printed, _ = process.communicate(timeout=30)
    assert (process.returncode, printed) == (128 + number, "")
    assert (tmp_path / "saved").read_text() == f"{int(number)}\n" and not is_running(pid)


def test_a_training_saves_when_its_starter_is_killed(starter, tmp_path):
    process, pid = starter
    process.kill()
    process.wait()
    for _ in range(100):
        if not is_running(pid):
            break
        time.sleep(0.1)
    assert not is_running(pid) and (tmp_path / "saved").read_text() == f"{int(signal.SIGTERM)}\n"


def test_the_status_of_a_script_is_kept(tmp_path):
    (tmp_path / "run.sh").write_text(SCRIPT)
    (tmp_path / "training.py").write_text("import sys; sys.exit(3)")
    done = subprocess.run(["bash", "run.sh", sys.executable], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")
    (tmp_path / "training.py").write_text("")
    done = subprocess.run(["bash", "run.sh", sys.executable], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the next command was started\n", "")


@pytest.mark.parametrize(
    "script", sorted((REPOSITORY / "examples").glob("*/run.sh")), ids=lambda path: path.parent.name
)
def test_every_script_passes_signals_on(script):
    text = script.read_text()
    assert 'source "$(dirname "$0")/../signals.sh" "$@"\n' in text or text.splitlines()[-1].startswith("exec ")
