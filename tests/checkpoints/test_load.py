"""Loading a checkpoint for evaluation gives a model, or a one-line error that names the file."""

from pathlib import Path

import numpy as np
import pytest
import torch

import dinosr_plugin
from dinosr_plugin.checkpoints.load import load_model
from dinosr_plugin.checkpoints.opening import open_reader
from dinosr_plugin.checkpoints.weights import fingerprint
from dinosr_plugin.errors import UserError
from dinosr_plugin.models.dinosr import DinoSR
from support import paths
from support.fairseq_models import fairseq_checkpoint

CHECKPOINT = paths.GOLDEN / "official_format_tiny.pt"


def load_error(path: Path, load=load_model) -> str:
    with pytest.raises(UserError) as error:
        load(path)
    message = str(error.value)
    assert str(path) in message and "\n" not in message
    return message


def test_missing_file(tmp_path):
    assert "no such checkpoint" in load_error(tmp_path / "missing.pt")
    assert "is a folder, not a file; give a checkpoint" in load_error(tmp_path)


def test_text_file(tmp_path):
    (tmp_path / "text.pt").write_text("not a checkpoint\n" * 100)
    assert "not a PyTorch file" in load_error(tmp_path / "text.pt")  # torch prints a long message about weights_only


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.95])
def test_truncated_file(tmp_path, share):
    data = CHECKPOINT.read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: int(share * len(data))])
    load_error(tmp_path / "cut.pt")


def test_a_pytorch_file_that_is_not_a_checkpoint(tmp_path):
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    load_error(tmp_path / "other.pt")


def test_codebooks_of_an_unexpected_size(tmp_path):
    state = torch.load(CHECKPOINT, weights_only=True)
    state["model"]["_codebook0"] = state["model"]["_codebook0"][:-1]
    torch.save(state, tmp_path / "smaller.pt")
    load_error(tmp_path / "smaller.pt")


def test_a_model_is_loaded_for_evaluation():
    """In eval mode, with its complete config; the path may be a string."""
    model, cfg, _ = load_model(str(CHECKPOINT))
    assert isinstance(model, DinoSR) and not model.training
    assert cfg.model._name == "dinosr" and cfg.task.normalize in (True, False)


def test_a_model_without_codebooks(tmp_path):
    fairseq_checkpoint(tmp_path / "hubert.pt", "hubert")
    with pytest.raises(UserError, match="hubert.pt: contains HubertModel, which has no codebooks"):
        open_reader(tmp_path / "hubert.pt").require_codes()
    with pytest.raises(UserError, match="no codebooks"):
        dinosr_plugin.load(tmp_path / "hubert.pt").units(np.zeros(800))


def test_features_and_units_from_python():
    """From a float64 NumPy array or a tensor; normalised if the config of the checkpoint says so."""
    speech_model = dinosr_plugin.load(str(CHECKPOINT))
    model, cfg, _ = load_model(CHECKPOINT)
    wave = np.random.default_rng(0).normal(0.1, 0.3, 8000)
    features, units = speech_model.features(wave), speech_model.units(wave)
    assert torch.equal(features, speech_model.features(torch.from_numpy(wave).float())) and not features.requires_grad
    source = torch.from_numpy(wave).float()
    source = torch.nn.functional.layer_norm(source, source.shape) if cfg.task.normalize else source
    with torch.no_grad():
        torch.testing.assert_close(features, model.extract_features(source.unsqueeze(0))["x"][0])
        torch.testing.assert_close(
            speech_model.features(wave, layer=0), model.extract_features(source.unsqueeze(0), layer=0)["x"][0]
        )
    assert torch.equal(units, model.codes(source.unsqueeze(0))[:, 0])
    assert features.shape == (24, model.cfg.encoder_embed_dim) and units.shape == (model.n_codebooks, 24)


def test_the_fingerprint_includes_the_teacher():
    model, same = load_model(CHECKPOINT).model, load_model(CHECKPOINT).model
    assert fingerprint([model]) == fingerprint([same])
    same.teacher.model.layers[0].fc1.bias.data += 1e-6
    assert fingerprint([model]) != fingerprint([same])


@pytest.mark.parametrize("normalize", [True, False])
def test_waveforms_are_normalised_as_in_the_checkpoint(tmp_path, normalize):
    state = torch.load(CHECKPOINT, weights_only=True)
    state["cfg"]["task"]["normalize"] = normalize
    torch.save(state, tmp_path / "model.pt")
    wave = dinosr_plugin.load(tmp_path / "model.pt").wave(np.array([0.5, 0.7] * 400))
    assert wave.shape == (800,) and wave.mean() == pytest.approx(0.0 if normalize else 0.6, abs=1e-5)


@pytest.mark.parametrize(
    "waveform, message",
    [
        (np.zeros((2, 800)), "waveform: 2-D torch.float64, expected 1-D float; average the channels"),
        (np.zeros(800, dtype=np.int16), "waveform: 1-D torch.int16, .*divide 16-bit integers by 32768"),
        (torch.zeros(399), "waveform: 399 samples, fewer than the 400 of a frame"),
        (np.zeros(0), "waveform: 0 samples"),
        (np.array([0.1] * 799 + [np.nan]), "waveform: contains NaN or infinite samples"),
        (torch.tensor([-torch.inf] + [0.1] * 799), "waveform: contains NaN or infinite samples"),
        (np.array([0.1] * 799 + [1e300]), "waveform: contains NaN or infinite samples"),  # infinite in float32
    ],
)
def test_invalid_waveforms(waveform, message):
    model = dinosr_plugin.load(CHECKPOINT)
    for read in (model.features, model.units):
        with pytest.raises(UserError, match=message):
            read(waveform)


def test_readers_refuse_nan_whoever_calls_them():
    reader = dinosr_plugin.load(CHECKPOINT).reader
    good = torch.full((800,), 0.1)
    for bad in (torch.nan, torch.inf):
        with pytest.raises(UserError, match="waveform: contains NaN or infinite samples"):
            reader.read([good, torch.cat([good[1:], torch.tensor([bad])])], ["last"])


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("waveform", [np.zeros(800), np.array([1e15, -1e15] * 400)])
def test_silence_and_any_amplitude_give_finite_features(tmp_path, normalize, waveform):
    state = torch.load(CHECKPOINT, weights_only=True)
    state["cfg"]["task"]["normalize"] = normalize
    torch.save(state, tmp_path / "model.pt")
    model = dinosr_plugin.load(tmp_path / "model.pt")
    assert torch.isfinite(model.wave(waveform)).all()
    if normalize or not waveform.any():
        assert torch.isfinite(model.features(waveform)).all()
    if normalize:
        with pytest.raises(UserError, match="waveform: contains NaN or infinite samples; .* scale it to about -1 to 1"):
            model.features(waveform + np.array([1e30, -1e30] * 400))
