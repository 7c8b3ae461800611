"""For the tests of examples/*/run.sh: a small corpus, the script, and commands that only record their calls."""

import importlib.util
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile


def load_script(path: Path):
    """A program of the examples as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PITCHES = {"A": 300, "B": 800, "C": 2000}


def run_chain(
    script: Path,
    folder: Path,
    *words: str,
    path: Path,
    base: Sequence[str] = (),
    phones: str = "dev.phones.tsv",
    **environment: str,
) -> subprocess.CompletedProcess:
    """Runs ``run.sh BASE data PHONES out`` in ``folder``; commands are searched for in ``path`` first.

    ``base``: the checkpoint that the script starts from, if it needs one.
    """
    return run_command([script, *base, "data", phones, "out", *words], folder, path, **environment)


def run_command(
    command: Sequence[str | Path], folder: Path, path: Path, **environment: str
) -> subprocess.CompletedProcess:
    """Runs it in ``folder``; the commands that it starts are searched for in ``path`` first."""
    environment = {**os.environ, "PATH": f"{path}{os.pathsep}{os.environ['PATH']}", **environment}
    return subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)


def write_tones(folder: Path, utterances: int = 2) -> None:
    """Writes ``data``, two speakers in train and two in dev whose phones are tones of 100 ms, and dev's alignment.

    ``utterances``: of each speaker, 2 s each.
    """
    rng = np.random.default_rng(0)
    phones = ["utt\tstart\tend\tphone"]
    (folder / "data").mkdir()
    for split, speakers in (("train", {"a": 1.0, "b": 1.1}), ("dev", {"c": 1.05, "d": 1.15})):
        rows = [str(folder / "data")]
        for speaker, voice in speakers.items():
            (folder / "data" / speaker).mkdir()
            for n in range(utterances):
                phone_names = rng.choice([*PITCHES], 20)
                wave = np.concatenate(
                    [
                        0.3 * np.sin(2 * np.pi * PITCHES[phone] * voice * np.arange(1600) / 16000)
                        for phone in phone_names
                    ]
                )
                soundfile.write(
                    folder / f"data/{speaker}/{speaker}{n}.wav", wave + rng.normal(0, 0.01, len(wave)), 16000
                )
                rows.append(f"{speaker}/{speaker}{n}.wav\t{len(wave)}")
                phones += [
                    f"{speaker}{n}\t{i / 10:.2f}\t{(i + 1) / 10:.2f}\t{phone}" for i, phone in enumerate(phone_names)
                ]
        (folder / f"data/{split}.tsv").write_text("\n".join(rows) + "\n")
    (folder / "dev.phones.tsv").write_text("\n".join(phones) + "\n")


def modification_times(folder: Path) -> dict[Path, int]:
    """Of all files below ``folder``, in nanoseconds."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


RECORDING = """#!/usr/bin/env bash
call="$(basename "$0") $*"
[ $(grep -c . calls) != "${FAIL_AT:--1}" ] || { echo "failed: $call" >> calls; exit 3; }
echo "$call" >> calls
while [ $# -gt 0 ]; do
    case $1 in
        checkpoint.save_dir=*) mkdir -p "${1#*=}"; touch "${1#*=}/checkpoint_best.pt" ;;
        --from-labels) echo "labels of $2: ${CHANGED:-20.0} % changed, NMI 0.700" ;;
        --out) mkdir -p "$(dirname "$2")"; touch "$2" ;;
    esac
    shift
done
"""


def write_recording_commands(folder: Path) -> None:
    """Writes ``folder/data`` and ``folder/bin``: commands that only record each call as a line of ``folder/calls``."""
    (folder / "data").mkdir()
    (folder / "bin").mkdir()
    for name in ("train.tsv", "dev.tsv"):
        (folder / "data" / name).write_text("/\n")
    for name in ("dinosr", "fairseq-hydra-train", "python"):
        (folder / "bin" / name).write_text(RECORDING)
        (folder / "bin" / name).chmod(0o755)
    (folder / "calls").write_text("")


def calls(folder: Path) -> list[str]:
    """The calls recorded since the last time, without `dinosr path`, which every run calls first."""
    lines = [line for line in (folder / "calls").read_text().splitlines() if line != "dinosr path"]
    (folder / "calls").write_text("")
    return lines
