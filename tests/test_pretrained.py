"""The models in the package: small files with a card, which every command finds by name."""

import tomllib
from pathlib import Path

import pytest
import soundfile
import torch

import dinosr_plugin
from dinosr_plugin.cli import main as dinosr
from dinosr_plugin.pretrained import NAMES, find_checkpoint
from support.paths import REPOSITORY

FOLDER = Path(dinosr_plugin.__file__).parent / "pretrained"
WAVE = torch.randn(16000, generator=torch.Generator().manual_seed(0)) / 10


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_small_and_has_a_card(name):
    assert find_checkpoint(name).stat().st_size <= 6e6
    card = (FOLDER / "README.md").read_text()
    assert f'load("{name}")' in card and "CC BY 4.0" in card


def test_they_are_in_a_wheel():
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["dinosr_plugin.pretrained"]
    packed = {path.name for pattern in patterns for path in FOLDER.glob(pattern)}
    assert packed == {path.name for path in FOLDER.iterdir() if path.suffix not in (".py", "")}


@pytest.mark.parametrize("name, codebooks, size", [("tiny", 4, 64), ("spin_tiny", 1, 256)])
def test_units_and_features(name, codebooks, size):
    model = dinosr_plugin.load(name)
    units = model.units(WAVE)
    assert units.shape == (codebooks, 49) and units.min() >= 0 and units.max() < size
    assert model.features(WAVE).shape == (49, 192)


def test_the_units_command_reads_a_recording(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    soundfile.write("one.wav", WAVE.numpy(), 16000)
    assert dinosr(["units", "tiny", "one.wav", "--out", "units"]) == 0
    name, units = Path("units/codebook_2.units").read_text().rstrip("\n").split("\t")
    wave = torch.from_numpy(soundfile.read("one.wav", dtype="float32")[0])
    assert name == "one" and list(map(int, units.split())) == dinosr_plugin.load("tiny").units(wave)[2].tolist()


def test_speech_sounds_share_units(librispeech_mini):
    """On speech the model uses most of its codes, and keeps each for about two frames, as sounds last."""
    model = dinosr_plugin.load("tiny")
    recordings = sorted(librispeech_mini.glob("dev/*/*/*.flac"))[::30]
    codes = torch.cat([model.units(soundfile.read(path, dtype="float32")[0]) for path in recordings], dim=1)  # (K, F)
    changes = (codes.diff(dim=1) != 0).float().mean()
    assert all(len(book.unique()) > 50 for book in codes) and 0.3 < changes < 0.7
