"""Embeddings of whole recordings: of any model's frames, and of models with a method ``embed``."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

import dinosr_plugin
from dinosr_plugin.checkpoints import opening
from dinosr_plugin.checkpoints.embedding import FrameEmbedder, ModelEmbedder
from dinosr_plugin.checkpoints.load import Loaded
from dinosr_plugin.checkpoints.opening import open_embedder, open_reader, reader_of
from dinosr_plugin.errors import UserError
from dinosr_plugin.models.cpc import CPC, CPCConfig
from support import paths

GOLDEN = paths.GOLDEN / "official_format_tiny.pt"  # 4 layers of 32
LENGTHS = (16000, 9000, 400, 12345)


def waves(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(length, generator=generator) for length in lengths]


class Energy(nn.Module):
    """A speaker model: mean and largest absolute sample; ``masked``: whether it leaves out padding."""

    def __init__(self, masked: bool = True):
        super().__init__()
        self.scale, self.masked = nn.Parameter(torch.tensor(2.0)), masked

    def embed(self, source: torch.Tensor, padding_mask: torch.Tensor | None) -> torch.Tensor:
        samples = source.abs()
        length = torch.full((len(source),), source.size(1))
        if padding_mask is not None and self.masked:
            length = (~padding_mask).sum(1)
        return self.scale * torch.stack([samples.sum(1) / length, samples.amax(1), length / 1e5], dim=1)


class PaddedEnergyEmbedder(ModelEmbedder):
    pads = True


# ---- of frames -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [None, 0, 3])
def test_statistics_of_the_frames_of_a_layer(layer):
    embedder, reader = open_embedder(GOLDEN, layer), open_reader(GOLDEN)
    (wave,) = waves(16000)
    (embedding,) = embedder.embed([wave])
    frames = reader.read([wave], ["last" if layer is None else layer])[0].layers[0].numpy()
    assert embedder.width == 64 and embedding.dtype == torch.float32 and embedder.normalize
    np.testing.assert_allclose(embedding, np.concatenate([frames.mean(0), frames.std(0)]), atol=1e-5)
    assert embedder.source["layer"] == ("last" if layer is None else layer)


def test_one_frame_has_no_deviation():
    embedder = open_embedder(GOLDEN)
    (embedding,) = embedder.embed(waves(embedder.min_samples))
    assert embedder.min_samples == 400 and not embedding[32:].any() and embedding[:32].any()


@pytest.mark.parametrize("norm", ["instance", "none"])
def test_the_batch_does_not_change_an_embedding_of_frames(norm):
    """Where padding would change the frames, as with instance normalisation, lengths are not mixed."""
    torch.manual_seed(0)
    model = CPC(CPCConfig(encoder_channels=8, context_dim=8, encoder_norm=norm)).eval()
    embedder = FrameEmbedder(reader_of(model))
    assert embedder.pads == (norm == "none")
    batch = embedder.embed(waves(*LENGTHS))
    for wave, embedding in zip(waves(*LENGTHS), batch):
        torch.testing.assert_close(embedding, embedder.embed([wave])[0], atol=1e-5, rtol=1e-4)


def test_layers_that_do_not_exist():
    for layer in (4, -1, "projection", "all"):
        with pytest.raises(
            UserError, match=f"^--layer {layer}: the model has layers 0 to 3; give one of these, or last"
        ):
            open_embedder(GOLDEN, layer)


def test_waveforms_that_are_not_finite():
    with pytest.raises(UserError, match="NaN or infinite"):
        open_embedder(GOLDEN).embed([torch.full((800,), float("nan"))])


# ---- of models with embeddings ---------------------------------------------------------------------------------------


@pytest.fixture
def speaker_model(monkeypatch):
    """A checkpoint that contains ``Energy``."""
    cfg = OmegaConf.create({"task": {"normalize": True}, "model": {}})
    load = opening.load_model
    monkeypatch.setattr(
        opening, "load_model", lambda path: Loaded(Energy(), cfg, None) if str(path) == "energy.pt" else load(path)
    )
    monkeypatch.setitem(opening.EMBEDDERS, Energy, PaddedEnergyEmbedder)
    return "energy.pt"


def test_a_model_with_embeddings(speaker_model):
    embedder = open_embedder(speaker_model)
    assert (embedder.name, embedder.width, embedder.normalize, embedder.sample_rate) == ("energy.pt", 3, True, 16000)
    assert embedder.source["fingerprint"] == ModelEmbedder(Energy(), "other.pt").source["fingerprint"]
    (wave,) = waves(1000)
    assert embedder.prepare(5 * wave + 3).mean() == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(embedder.embed([wave]), [[2 * wave.abs().mean(), 2 * wave.abs().max(), 0.02]], rtol=1e-5)


@pytest.mark.parametrize("masked", [True, False])
def test_the_batch_does_not_change_an_embedding_of_a_model(masked):
    """A model whose embeddings depend on padding is not given any."""
    embedder = (PaddedEnergyEmbedder if masked else ModelEmbedder)(Energy(masked), "x.pt")
    batch = embedder.embed(waves(*LENGTHS))
    assert batch.shape == (4, 3) and not batch.requires_grad
    for wave, embedding in zip(waves(*LENGTHS), batch):
        torch.testing.assert_close(embedding, embedder.embed([wave])[0])


def test_a_layer_of_a_model_with_embeddings(speaker_model):
    with pytest.raises(UserError, match="^--layer 2: energy.pt contains a model with its own embeddings; omit it"):
        open_embedder(speaker_model, 2)
    with pytest.raises(UserError, match="energy.pt: contains Energy, which cannot be read"):
        open_reader(speaker_model)


def test_python(speaker_model):
    model = dinosr_plugin.load(speaker_model)
    wave = waves(1000)[0].numpy()
    normal = (wave - wave.mean()) / wave.std()
    np.testing.assert_allclose(model.embed(wave), [2 * abs(normal).mean(), 2 * abs(normal).max(), 0.02], rtol=1e-4)
    with pytest.raises(UserError, match="^waveform: 399 samples, fewer than the 400"):
        model.embed(wave[:399])
    with pytest.raises(UserError, match=r"^waveform: 2-D torch.float32, expected 1-D float"):
        model.embed(wave[None])
    with pytest.raises(
        UserError, match="official_format_tiny.pt: contains DinoSR, which has no embeddings; give a spe"
    ):
        dinosr_plugin.load(GOLDEN).embed(wave)
