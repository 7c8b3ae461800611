"""ONNX files under onnxruntime: layers, codes and logits as in torch for any length, metadata, and what is refused.

The reference is ``FrameReader.read``, which runs the models as all other commands do.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from dinosr_plugin.checkpoints.adapters import TEACHER
from dinosr_plugin.checkpoints.load import load_model
from dinosr_plugin.checkpoints.opening import open_reader, reader_of
from dinosr_plugin.checkpoints.readers import FrameReader
from dinosr_plugin.cli import main as dinosr
from dinosr_plugin.errors import UserError
from dinosr_plugin.interop import onnx_export
from dinosr_plugin.interop.onnx_export import export_onnx, require_onnx
from dinosr_plugin.models.cpc import CPC, CPCConfig
from dinosr_plugin.models.hubert import Hubert, HubertConfig
from dinosr_plugin.models.predictive import APC, MPC, APCConfig, MPCConfig
from support.fairseq_models import fairseq_checkpoint
from support.paths import GOLDEN
from support.recogniser import write_recogniser
from support.spin import spin
from support.ssrl import write_ssrl_run

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install '.[onnx]'")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install '.[onnx]'")

OFFICIAL = GOLDEN / "official_format_tiny.pt"  # convolutions with LayerNorm, 4 layers of 32, 2 codebooks of 8
TOLERANCE = 1e-4
SHORT_CONVOLUTIONS = "[(8,10,5)] + [(8,8,8)] * 2"  # 400 samples every 320, like the usual ones, in 3 layers
TRUNK = dict(encoder_layers=1, encoder_embed_dim=16, encoder_ffn_embed_dim=16, encoder_attention_heads=2)
TRUNK |= dict(conv_pos=4, conv_pos_groups=2, num_classes=[2], conv_feature_layers=SHORT_CONVOLUTIONS)
ATTENTION = dict(encoder="transformer", layers=1, width=8, heads=2, feed_forward=8)
MODELS = {
    "hubert with group norm, on normalised recordings": lambda: Hubert(HubertConfig(extractor_mode="default", **TRUNK)),
    "spin, pre-LN, its last output": lambda: spin(layer_norm_first=True, encoder_layers=2),
    "cpc": lambda: CPC(CPCConfig(encoder_channels=8, context_dim=8)),
    "cpc, GRU over log-Mel": lambda: CPC(
        CPCConfig(encoder_channels=8, context_dim=8, front_end="log_mel", context="gru", context_layers=1)
    ),
    "apc, Transformer": lambda: APC(APCConfig(**ATTENTION)),
    "mpc, GRU in both directions": lambda: MPC(MPCConfig(encoder="rnn", layers=1, width=8)),
}


def run(path: Path, wave: torch.Tensor) -> dict[str, np.ndarray]:
    """A waveform (T,) -> the file's outputs by name, under onnxruntime."""
    session = onnxruntime.InferenceSession(str(path))
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"waveform": wave.numpy()[None]})))


def metadata(path: Path) -> dict[str, str]:
    return onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map


def noise(samples: int) -> torch.Tensor:
    """(T,), with a mean and a level that normalising removes."""
    return 0.1 + 0.3 * torch.randn(samples, generator=torch.Generator().manual_seed(samples))


def differing_codes(path: Path, reader: FrameReader, wave: torch.Tensor, layers: list) -> int:
    """Compares all outputs of the file with the reader's; returns the number of codes that differ."""
    expected = reader.read([reader.prepare(wave)], layers, list(reader.code_sets))[0]
    outputs = run(path, wave)
    for layer, frames in zip(layers, expected.layers):
        name = f"layer_{layer}" if isinstance(layer, int) else layer
        assert outputs[name].shape == (1, *frames.shape)
        np.testing.assert_allclose(outputs[name][0], frames.numpy(), rtol=0, atol=TOLERANCE, err_msg=name)
    assert len(outputs) == len(layers) + len(expected.codes)
    return sum(int((outputs[f"codes_{name}"] != codes.numpy()).sum()) for name, codes in expected.codes.items())


# ---- equal to torch --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_layers_equal_those_of_torch_for_any_length(kind, tmp_path):
    torch.manual_seed(0)
    model = MODELS[kind]().eval()
    reader = reader_of(model)
    reader.normalize = "normalised" in kind
    before = {name: value.clone() for name, value in model.state_dict().items()}
    path, shortest = tmp_path / "model.onnx", reader.grid.field
    layers = ["last"] if "last" in kind else list(range(reader.n_layers))  # of a pre-LN model it is normalised again
    export_onnx(SimpleNamespace(model=model), reader, path, "last" if "last" in kind else "all")
    for samples in (shortest, shortest + reader.grid.hop, 3000, 16000, 23457, 320_000):
        assert differing_codes(path, reader, noise(samples), layers) == 0
    after = model.state_dict()  # the parts that were replaced are back
    assert list(before) == list(after) and all(torch.equal(value, after[name]) for name, value in before.items())


def test_dinosr_on_real_speech_equals_torch_but_for_codes_at_equal_distance(librispeech_mini, tmp_path):
    """Released format. Codes may differ only where the two nearest centroids are equally far, within rounding."""
    path = tmp_path / "dinosr.onnx"
    assert dinosr(["export", "onnx", str(OFFICIAL), str(path)]) == 0
    reader = open_reader(OFFICIAL)
    recordings = sorted(librispeech_mini.glob("dev/*/*/*.flac"))[::45]
    assert len(recordings) > 1
    for recording in recordings:
        wave = torch.from_numpy(soundfile.read(recording, dtype="float32")[0])
        if differing_codes(path, reader, wave, list(range(4))):
            assert differing_codes_are_ties(run(path, wave)[f"codes_{TEACHER}"], reader, wave)


@torch.no_grad()
def differing_codes_are_ties(codes: np.ndarray, reader: FrameReader, wave: torch.Tensor) -> bool:
    model = reader.model
    source = reader.prepare(wave)[None]
    targets = model.targets(model.encoder_inputs(source, model.frame_padding(source, None)), None).squeeze(1)
    distances = torch.cdist(targets.double(), model.codebooks.centroids().double())  # (K, F, V)
    nearest = distances.topk(2, largest=False)
    differ = torch.from_numpy(codes) != nearest.indices[..., 0]
    return bool((nearest.values.diff(dim=-1).squeeze(-1)[differ] < 1e-4).all())


def test_logits_and_symbols_of_a_recogniser(tmp_path):
    write_recogniser(tmp_path)
    path = tmp_path / "ctc.onnx"
    assert dinosr(["export", "onnx", str(tmp_path / "model.pt"), str(path)]) == 0
    model, _, task = load_model(tmp_path / "model.pt")
    for samples in (400, 16000, 23457):
        wave = noise(samples)
        with torch.no_grad():
            expected = model(source=wave[None], padding_mask=None)["encoder_out"].transpose(0, 1)  # (1, F, V)
        outputs = run(path, wave)
        assert list(outputs) == ["logits"]
        np.testing.assert_allclose(outputs["logits"], expected, rtol=0, atol=TOLERANCE)
    facts = metadata(path)
    assert json.loads(facts["dinosr.symbols"]) == task.target_dictionary.symbols
    assert task.target_dictionary[json.loads(facts["dinosr.blank"])] == task.blank_symbol


# ---- one layer, metadata ---------------------------------------------------------------------------------------------


def test_one_output_without_codes_and_what_the_metadata_say(tmp_path):
    model = spin(encoder_layers=2)
    reader, wave, path = reader_of(model), noise(16000), tmp_path / "projection.onnx"
    exported = export_onnx(SimpleNamespace(model=model), reader, path, "projection", codes=False)
    outputs = run(path, wave)
    assert exported.outputs == tuple(outputs) == ("projection",)
    expected = reader.read([wave], ["projection"])[0].layers[0]
    np.testing.assert_allclose(outputs["projection"][0], expected.numpy(), rtol=0, atol=TOLERANCE)
    facts = metadata(path)
    assert facts["dinosr.objective"] == "spin" and facts["dinosr.fingerprint"] == reader.fingerprint
    numbers = [json.loads(facts[f"dinosr.{name}"]) for name in ("frame_rate", "first_centre", "shortest", "normalizes")]
    assert numbers == [50.0, 0.0125, 400, False] and json.loads(facts["dinosr.codes"]) == {}


# ---- bad input -------------------------------------------------------------------------------------------------------


def refused(capsys, *arguments) -> str:
    """The error of `dinosr export onnx`, which is one line."""
    assert dinosr(["export", "onnx", *map(str, arguments)]) == 1
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    return error[0]


def test_what_cannot_be_exported_is_one_line_and_leaves_no_file(tmp_path, capsys):
    out = tmp_path / "new" / "x.onnx"
    fairseq_checkpoint(tmp_path / "hubert.pt", "hubert")
    assert "fairseq's HubertModel, which is not exported to ONNX" in refused(capsys, tmp_path / "hubert.pt", out)
    (tmp_path / "text.pt").write_text("x")
    assert "text.pt: " in refused(capsys, tmp_path / "text.pt", out)
    assert "no such checkpoint" in refused(capsys, tmp_path / "absent.pt", out)
    for layer in ("4", "projection"):
        message = f"--layer {layer}: {OFFICIAL} has layers 0 to 3, last, all"
        assert refused(capsys, OFFICIAL, out, "--layer", layer) == f"error: {message}"
    assert not out.parent.exists()
    (tmp_path / "there.onnx").write_text("mine")
    assert "there.onnx: already exists; give another name" in refused(capsys, OFFICIAL, tmp_path / "there.onnx")
    assert (tmp_path / "there.onnx").read_text() == "mine"


def test_a_model_of_speakers_is_refused(shared_folder, tmp_path, capsys):
    checkpoint = shared_folder(write_ssrl_run) / "run/checkpoint_last.pt"
    assert "a model of speakers, which is not exported" in refused(capsys, checkpoint, tmp_path / "x.onnx")


def test_a_missing_package_is_named_with_the_extra(monkeypatch):
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"requires onnx and onnxscript: pip install 'dinosr-plugin\[onnx\]'"):
        require_onnx()


def test_weights_that_do_not_fit_into_one_file_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(onnx_export, "LARGEST", 100)
    monkeypatch.setattr(onnx_export, "traced", lambda graph: program_of(1000))
    with pytest.raises(UserError, match="more than 2 GB of weights, too many for one ONNX file; add --no-codes"):
        export_onnx(SimpleNamespace(model=nn.Identity()), reader_of(spin()), tmp_path / "x.onnx")
    assert not any(tmp_path.iterdir())


def program_of(size: int) -> SimpleNamespace:
    """The part of torch's ONNXProgram that says how large its weights are."""
    weight = SimpleNamespace(const_value=SimpleNamespace(nbytes=size))
    return SimpleNamespace(model=SimpleNamespace(graph=SimpleNamespace(initializers={"w": weight})))
