"""Readers of every kind of model: correct frame positions, and one pass equals separate passes."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from dinosr_plugin.checkpoints import opening
from dinosr_plugin.checkpoints.adapters import HEAD, TEACHER, TrunkReader
from dinosr_plugin.checkpoints.opening import adapter_for, open_reader, reader_of
from dinosr_plugin.checkpoints.readers import FrameReader, Frames
from dinosr_plugin.errors import UserError
from dinosr_plugin.models.cpc import CPC, CPCConfig
from dinosr_plugin.models.hubert import Hubert, HubertConfig
from dinosr_plugin.models.predictive import APC, MPC, APCConfig, MPCConfig, Predictive
from dinosr_plugin.modules.frame_grid import CPC as CPC_GRID
from dinosr_plugin.modules.frame_grid import MEL, TRUNK, FrameGrid
from support import paths
from support.fairseq_models import MODELS, fairseq_checkpoint

ENCODERS = ("rnn", "transformer")
GOLDEN = paths.GOLDEN / "official_format_tiny.pt"  # 4 layers of 32, 2 codebooks of 8
SMALL = dict(encoder_layers=2, encoder_embed_dim=16, encoder_ffn_embed_dim=32, encoder_attention_heads=2, conv_pos=4)


def waves(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(length, generator=generator) for length in lengths]


# ---- frames ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [0, 1, 158, 159, 160, 318, 319, 399, 400, 719, 720, 16000])
def test_number_of_frames_equals_that_of_the_models(samples):
    """The formula of the frame grid equals the layer-by-layer computation of the models."""
    hubert, cpc = Hubert(HubertConfig(num_classes=[2], **SMALL)), CPC(CPCConfig(encoder_channels=8, context_dim=8))
    assert reader_of(hubert).grid == TRUNK and TRUNK.count(samples) == int(hubert.frame_counts(torch.tensor(samples)))
    apc, n_samples = APC(APCConfig(width=8)), max(samples, 400)
    n_frames = apc.extract_features(torch.zeros(1, n_samples))["x"].size(1)
    assert (
        reader_of(apc).grid == MEL and MEL.count(n_samples) == n_frames and (samples >= 400 or not MEL.count(samples))
    )
    mel = CPC(CPCConfig(encoder_channels=8, context_dim=8, front_end="log_mel", context="cnn"))
    assert (reader_of(cpc).layer_kind, reader_of(mel).layer_kind) == ("recurrent layers", "convolutional layers")
    assert reader_of(mel).grid == MEL and n_frames == mel.extract_features(torch.zeros(1, n_samples))["x"].size(1)
    assert reader_of(cpc).grid == CPC_GRID and CPC_GRID.count(samples) == int(cpc.frame_counts(torch.tensor(samples)))


def centre_of_influence(reader: FrameReader, frame: int, samples: int) -> float:
    """Centre, in seconds, of the samples that influence a frame of the front end.

    Of log-Mel frames before they are normalised, which makes every sample of the utterance influence them.
    """
    wave, inside = torch.randn(samples, generator=torch.Generator().manual_seed(1)), []
    if isinstance(reader.model, Predictive):
        features = lambda x: reader.model.log_mel.energies(x[None], reader.frames(samples))[0, frame]
    elif isinstance(reader.model, CPC):
        features = lambda x: reader.model.encoder(x[None])[0, frame]
    else:
        features = lambda x: reader.model.feature_extractor(x[None])[0, frame]
    before = features(wave)
    for sample in range(samples):
        changed = wave.clone()
        changed[sample] += 1
        if not torch.equal(features(changed), before):
            inside.append(sample)
    return (inside[0] + inside[-1] + 1) / 2 / 16000


@torch.no_grad()
def test_centres_of_frames_are_correct():
    """Determined by changing single samples; for frames that are not at an edge."""
    torch.manual_seed(0)
    hubert = Hubert(
        HubertConfig(num_classes=[2], conv_feature_layers="[(8,10,5)] + [(8,3,2)] * 4 + [(8,2,2)] * 2", **SMALL)
    )
    cpc = CPC(CPCConfig(encoder_channels=8, context_dim=8, encoder_norm="none"))
    apc = APC(APCConfig(width=8))
    for model, frame, error in ((hubert, 1, 1e-5), (cpc, 3, 1e-5), (apc, 2, 1 / 16000)):
        reader = reader_of(model.eval())
        centre = centre_of_influence(reader, frame, 1000)
        assert centre == pytest.approx(reader.first_centre + frame / reader.rate, abs=error)
    assert (reader_of(hubert).rate, reader_of(hubert).first_centre) == (50, 0.0125)
    assert (reader_of(cpc).rate, reader_of(cpc).first_centre) == (100, 159 / 32000)
    assert (reader_of(apc).rate, reader_of(apc).first_centre) == (100, 0.0125)


def test_grid_of_other_convolutions():
    assert FrameGrid.of_convolutions([(4, 10, 5), (4, 3, 2)]) == FrameGrid(field=20, hop=10)


# ---- one pass --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["student", "teacher"])
def test_one_pass_equals_separate_passes(weights):
    """Layers and both sets of codes of a padded batch equal those of single utterances and separate calls."""
    reader, sounds = open_reader(GOLDEN, weights), waves(9000, 4000, 400)
    together = reader.read(sounds, [0, 3, "last"], [TEACHER, HEAD])
    for sound, frames in zip(sounds, together, strict=True):
        n = reader.frames(len(sound))
        assert [x.shape for x in frames.layers] == [(n, 32)] * 3
        for place, layer in enumerate((0, 3, "last")):
            (alone,) = reader.read([sound], [layer])
            torch.testing.assert_close(frames.layers[place], alone.layers[0], rtol=0, atol=1e-4)
        for name, codes in (("teacher", reader.model.codes), ("head", reader.model.predicted_codes)):
            assert frames.codes[name].shape == (2, n) and torch.equal(frames.codes[name], codes(sound[None])[:, 0])


PREDICTIVE = [
    *(APCConfig(encoder=encoder, direction=direction) for encoder in ENCODERS for direction in ("forward", "both")),
    *(MPCConfig(encoder=encoder) for encoder in ENCODERS),
]


@pytest.mark.parametrize("cfg", PREDICTIVE, ids=lambda cfg: f"{type(cfg).__name__}-{cfg.encoder}")
def test_layers_of_predictive_models(cfg):
    """Of a padded batch as of single utterances, all in one pass; the layers of two directions are side by side."""
    cfg.width, cfg.heads, cfg.feed_forward = 8, 2, 16
    torch.manual_seed(0)
    model = (APC if isinstance(cfg, APCConfig) else MPC)(cfg).eval()
    reader, sounds = reader_of(model), waves(9000, 4000, 400)
    width = 16 if getattr(cfg, "direction", "") == "both" else 8
    assert (reader.n_layers, reader.width, reader.pads, reader.code_sets) == (3, width, True, {})
    assert reader.layer_kind == ("recurrent layers" if cfg.encoder == "rnn" else "Transformer layers")
    for sound, frames in zip(sounds, reader.read(sounds, [0, 1, 2, "last"]), strict=True):
        n = reader.frames(len(sound))
        assert [x.shape for x in frames.layers] == [(n, width)] * 4
        assert torch.equal(frames.layers[2], frames.layers[3])
        for layer in range(3):
            alone = model.extract_features(sound[None], layer=layer)["x"][0]
            torch.testing.assert_close(frames.layers[layer], alone, rtol=0, atol=1e-4)


def test_the_front_end_runs_once(monkeypatch):
    reader, calls = open_reader(GOLDEN), []
    extract = reader.model.extract_frames
    monkeypatch.setattr(reader.model, "extract_frames", lambda *args: calls.append(1) or extract(*args))
    reader.read(waves(9000), range(4), [TEACHER, HEAD])
    assert calls == [1]


def test_only_requested_layers_and_codes_are_computed(monkeypatch):
    reader = open_reader(GOLDEN)
    monkeypatch.setattr(type(reader.model), "targets", lambda *_: pytest.fail("the teacher runs"))
    monkeypatch.setattr(reader.layers[2], "forward", lambda *_, **__: pytest.fail("a higher layer runs"))
    assert isinstance(reader.read(waves(9000), [1])[0], Frames)


@pytest.mark.parametrize("kind", MODELS)
def test_models_of_fairseq(tmp_path, kind):
    fairseq_checkpoint(tmp_path / "model.pt", kind)
    reader = open_reader(tmp_path / "model.pt")
    assert (reader.rate, reader.first_centre, reader.layer_kind) == (50, 0.0125, "Transformer layers")
    assert reader.code_sets == {} and reader.untrained().fingerprint != reader.fingerprint
    (frames,) = reader.read(waves(4000), range(reader.n_layers))
    assert all(x.shape == (12, reader.width) for x in frames.layers)


def test_the_untrained_model_is_deterministic_and_reads_no_file(monkeypatch):
    reader = open_reader(GOLDEN)
    monkeypatch.setattr(opening, "load_model", lambda path: pytest.fail("the file is read"))
    one, other = reader.untrained(), reader.untrained()
    assert one.fingerprint == other.fingerprint != reader.fingerprint and one.weights == "random"
    with pytest.raises(ValueError, match="cannot build"):
        reader_of(reader.model).untrained()


# ---- other kinds -----------------------------------------------------------------------------------------------------


def test_an_unsupported_kind_of_model():
    with pytest.raises(UserError, match="x.pt: contains Linear, which cannot be read; give a model of this plug-in"):
        adapter_for(torch.nn.Linear(2, 2), "x.pt")


def test_a_new_kind_of_model_requires_one_adapter(monkeypatch):
    """A toy model can be read once its adapter is in the table."""

    class Toy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = torch.nn.ModuleList([torch.nn.Linear(160, 4), torch.nn.Linear(4, 4)])

        def forward(self, source: torch.Tensor, stop: int | None) -> torch.Tensor:
            x = source.unfold(1, 160, 160)  # (B, F, 160)
            for block in self.blocks[: None if stop is None else stop + 1]:
                x = block(x)
            return x

    class ToyReader(FrameReader):
        batch_first = True

        def find_layers(self):
            return self.model.blocks

        def find_grid(self):
            return FrameGrid(160, 160)

        def find_width(self):
            return 4

        def ignores_padding(self):
            return True

        def run(self, source, padding_mask, stop):
            return self.model(source, stop)

    monkeypatch.setitem(opening.ADAPTERS, Toy, ToyReader)
    reader = reader_of(Toy())
    assert (reader.rate, reader.first_centre, reader.n_layers) == (100, 0.005, 2)
    frames = reader.read(waves(480, 330), [1])
    assert [x.shape for x, *_ in (one.layers for one in frames)] == [(3, 4), (2, 4)]


def test_a_subclass_uses_the_adapter_of_its_base_class():
    assert adapter_for(Hubert(HubertConfig(num_classes=[2], **SMALL)), "x") is TrunkReader


def test_invalid_weights():
    with pytest.raises(UserError, match="weights both: choose one of student, teacher, random"):
        open_reader(GOLDEN, "both")
    assert OmegaConf.is_config(opening.load_model(GOLDEN).cfg) and np.isfinite(open_reader(GOLDEN).rate)
