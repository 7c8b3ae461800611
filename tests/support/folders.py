"""Folders of audio and their manifests, made by ``dinosr manifest folder``."""

from pathlib import Path

import numpy as np
import soundfile as sf

from dinosr_plugin.cli import main


def noise(samples: int, seed: int = 0, channels: int = 1) -> np.ndarray:
    sound = np.random.default_rng(seed).normal(0, 0.1, (samples, channels))
    return sound[:, 0] if channels == 1 else sound


def write_sound(path: Path, samples: int = 3200, rate: int = 16000, channels: int = 1, subtype: str = "PCM_16") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, noise(samples, channels=channels), rate, subtype=None if path.suffix == ".ogg" else subtype)
    return path


def lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    return text.split("\n")[:-1]


def fails(capsys, *arguments) -> str:
    """Runs the command, which must fail and print only an error message; returns the message."""
    assert main([str(argument) for argument in arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ")
    return captured.err


def splits(out: Path) -> dict[str, list[str]]:
    return {path.stem: [line.split("\t")[0] for line in lines(path)[1:]] for path in out.glob("*.tsv")}


def make_folder(root: Path, out: Path, *options: str) -> dict[str, list[str]]:
    assert main(["manifest", "folder", str(root), "--out", str(out), *options]) == 0
    return splits(out)


def notes(capsys) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
