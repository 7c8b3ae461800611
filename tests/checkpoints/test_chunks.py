"""Long recordings in overlapping chunks: equal to the whole where a layer sees no further than the context."""

import pytest
import soundfile
import torch

import dinosr_plugin
from dinosr_plugin.checkpoints import chunks
from dinosr_plugin.checkpoints.adapters import HEAD, TEACHER
from dinosr_plugin.checkpoints.chunks import is_long, read_in_chunks
from dinosr_plugin.checkpoints.opening import open_reader, reader_of
from dinosr_plugin.errors import UserError
from dinosr_plugin.models.cpc import CPC, CPCConfig
from dinosr_plugin.units.batches import Utterance
from dinosr_plugin.units.long_recordings import read_long
from support import paths
from support.recordings import white_noise

GOLDEN = paths.GOLDEN / "official_format_tiny.pt"
SAMPLES = 40_123
EVERYTHING = 100.0  # seconds of context: each chunk is the whole recording


@pytest.fixture(scope="module")
def wave() -> torch.Tensor:
    return torch.from_numpy(white_noise(SAMPLES).copy())


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 0.3)
    monkeypatch.setattr(chunks, "CONTEXT", 0.2)


@pytest.fixture
def complete(small, monkeypatch):
    monkeypatch.setattr(chunks, "CONTEXT", EVERYTHING)


def in_chunks(reader, wave, layers, code_sets=()):
    return read_in_chunks(reader, len(wave), lambda start, end: wave[start:end], layers, code_sets)


@pytest.fixture(scope="module")
def local():
    """CPC whose frames see 7 frames back, and the samples of their convolutions."""
    torch.manual_seed(0)
    return reader_of(CPC(CPCConfig(encoder_channels=8, context_dim=8, context="cnn", context_layers=2)).eval())


def test_layers_with_local_context_are_equal_to_those_of_the_whole_recording(local, wave, small):
    layers = [*range(local.n_layers), "last"]
    (whole,) = local.read([wave], layers)
    for expected, found in zip(whole.layers, in_chunks(local, wave, layers).layers, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_without_context_they_are_not(local, wave, small, monkeypatch):
    monkeypatch.setattr(chunks, "CONTEXT", 0.0)
    (whole,) = local.read([wave], ["last"])
    assert (in_chunks(local, wave, ["last"]).layers[0] - whole.layers[0]).abs().max() > 0.01


@pytest.mark.parametrize("samples", [400, 719, 720, 16_000, SAMPLES])
def test_every_frame_is_kept_once_in_its_place(wave, samples, complete):
    """Layers and both sets of codes of a Transformer whose chunks all see the whole recording."""
    reader, layers, code_sets = open_reader(GOLDEN), [0, "last"], [TEACHER, HEAD]
    (whole,) = reader.read([wave[:samples]], layers, code_sets)
    found = in_chunks(reader, wave[:samples], layers, code_sets)
    assert all(torch.equal(a, b) for a, b in zip(whole.layers, found.layers, strict=True))
    assert all(torch.equal(whole.codes[name], found.codes[name]) for name in code_sets)


def test_progress_adds_up_to_the_recording(local, wave, small):
    done = []
    read_in_chunks(local, SAMPLES, lambda start, end: wave[start:end], ["last"], advance=done.append)
    assert len(done) == 9 and sum(done) == pytest.approx(SAMPLES / 16000, abs=0.02)


def test_the_limit_is_ten_minutes():
    assert not is_long(600 * 16000) and is_long(600 * 16000 + 1) and is_long(16001, 1 / 60)


# ---- from the disk ---------------------------------------------------------------------------------------------------


@pytest.fixture
def utterance(wave, tmp_path) -> Utterance:
    """Quiet, with an offset, so that it matters how it is normalised."""
    soundfile.write(tmp_path / "long.flac", (0.02 * wave + 0.1).numpy(), 16000, subtype="PCM_24")
    return Utterance("long", tmp_path / "long.flac", SAMPLES)


def test_mean_and_variance_are_those_of_the_whole_recording(utterance, small):
    """Not of the chunk."""
    torch.manual_seed(0)
    reader = reader_of(CPC(CPCConfig(encoder_channels=8, context_dim=8, context="cnn", context_layers=2)).eval())
    reader.normalize = True
    sound = torch.from_numpy(soundfile.read(utterance.path, dtype="float32")[0])
    (expected,) = reader.read([reader.prepare(sound)], ["last"])
    torch.testing.assert_close(read_long(reader, utterance, ["last"]).layers[0], expected.layers[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"samples": SAMPLES + 1}, f"{SAMPLES} samples, but {SAMPLES + 1} in the manifest"),
        ({"path": "nan.wav"}, "contains NaN or infinite samples"),
        ({"path": "rate.wav"}, "8000 Hz, 1 channel"),
        ({"path": "gone.wav"}, "no such file"),
    ],
)
def test_files_that_cannot_be_used_are_named(utterance, local, tmp_path, change, message):
    soundfile.write(tmp_path / "nan.wav", torch.full([SAMPLES], torch.nan).numpy(), 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "rate.wav", white_noise(SAMPLES), 8000)
    if "path" in change:
        change = {"path": tmp_path / change["path"]}
    changed = utterance._replace(**change)
    with pytest.raises(UserError, match=message) as error:
        read_long(local, changed, ["last"])
    assert str(changed.path) in str(error.value)


# ---- from Python -----------------------------------------------------------------------------------------------------


def test_python_reads_long_waveforms_in_the_same_chunks(wave, utterance, small, monkeypatch):
    model = dinosr_plugin.load(GOLDEN)
    sound = soundfile.read(utterance.path, dtype="float32")[0]
    whole = model.features(sound)
    monkeypatch.setattr("dinosr_plugin.api.is_long", lambda samples: True)
    expected = read_long(model.reader, utterance, ["last"], [TEACHER])
    torch.testing.assert_close(model.features(sound), expected.layers[0], rtol=0, atol=1e-4)
    assert torch.equal(model.units(sound), expected.codes[TEACHER])
    assert whole.shape == expected.layers[0].shape and not torch.allclose(whole, expected.layers[0], atol=1e-3)
