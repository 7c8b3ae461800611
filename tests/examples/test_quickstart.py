"""examples/quickstart/run.sh: the whole chain at its smallest size, killed half-way and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.paths import REPOSITORY

SCRIPT = REPOSITORY / "examples" / "quickstart" / "run.py"  # which run.sh starts in its environment
QUALITY_KEYS = {"active", "perplexity", "phone_purity", "pnmi"}


def start(out: Path, *options: str, python: str | Path = sys.executable) -> subprocess.Popen:
    """Starts run.py with the commands in the folder of ``python``, by default those that are installed."""
    command = [python, SCRIPT, "--out", str(out), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def kill_when(process: subprocess.Popen, path: Path, timeout: float = 600) -> None:
    """Send SIGKILL to the run and its children as soon as ``path`` exists."""
    for _ in range(int(timeout * 10)):
        if path.exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    assert path.exists() and process.poll() is None, "the run ended before it could be killed"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in [process.pid, *map(int, children)]:
        os.kill(pid, signal.SIGKILL)
    process.communicate()


def test_whole_run_survives_a_kill(tmp_path, commands):
    options = ("--minutes-budget", "2.51", "--synth-minutes", "3")  # the smallest plan: 10 updates each
    kill_when(start(tmp_path, *options), tmp_path / "pretrain" / "checkpoint_last.pt")
    process = start(tmp_path, *options, python=commands / "python")
    printed, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]
    assert "Loaded checkpoint" in (tmp_path / "pretrain" / "output.log").read_text()

    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result["pretrain"]) == {"loss_first", "loss_last", "updates", "minutes"}
    assert result["pretrain"]["updates"] == 10 and result["pretrain"]["loss_last"] < result["pretrain"]["loss_first"]
    assert len(result["codebooks"]) == 4 and all(set(codebook) >= QUALITY_KEYS for codebook in result["codebooks"])
    assert set(result["baselines"]) == {"mfcc_kmeans", "untrained"} and all(
        set(row) >= QUALITY_KEYS for row in result["baselines"].values()
    )
    for rate in ("wer", "cer"):
        assert set(result[rate]) == {"pretrained", "scratch"} and all(
            0 < value <= 200 for value in result[rate].values()
        )
    assert all(low <= result["wer"][name] <= high for name, (low, high) in result["wer_interval"].items())
    assert 0.2 < result["minutes_total"] < 10
    assert (tmp_path / "summary.png").stat().st_size > 50_000
    for text in ("codebook 3", "MFCC k-means", "untrained model", "pretrained", "scratch", "minutes in total"):
        assert text in printed


def test_a_corpus_without_dev_part_is_refused(tmp_path, librispeech_mini):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "train").symlink_to(librispeech_mini / "more")
    process = start(tmp_path / "out", "--audio", str(tmp_path / "corpus"))
    _, errors = process.communicate()
    assert process.returncode == 1
    assert [line for line in errors.splitlines() if line.startswith("error:")] == [
        errors.strip().splitlines()[-1]
    ] and "dev" in errors


@pytest.mark.parametrize("script", ["examples/quickstart/run.sh", "tests/run.sh"])
def test_scripts_fail_with_one_line_without_python(script, tmp_path):
    """Without a supported Python on the PATH: one line that says what to install."""
    for tool in ("bash", "dirname", "cat", "cksum", "date", "env"):
        (tmp_path / tool).symlink_to(subprocess.run(["which", tool], capture_output=True, text=True).stdout.strip())
    (tmp_path / "c++").symlink_to(tmp_path / "env")  # a compiler is searched for first
    environment = {"PATH": str(tmp_path), "DINOSR_VENV": str(tmp_path / "venv"), "HOME": str(tmp_path)}
    result = subprocess.run([REPOSITORY / script], env=environment, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].startswith("error: Python 3.11, 3.12 or 3.13 was not found")
