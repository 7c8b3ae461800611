"""s3prl's own code on this plug-in's checkpoints: hidden states, sums of layers, a recipe, and what is refused.

The references are s3prl's experts for fairseq's models, which contain these models once more, and ``FrameReader.read``.
"""

import importlib
import logging
import math
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch
import yaml
from torch import Tensor

from dinosr_plugin.checkpoints.opening import open_reader, reader_of
from dinosr_plugin.cli import main as dinosr
from dinosr_plugin.errors import UserError
from dinosr_plugin.interop.s3prl import Upstream, register
from dinosr_plugin.models.cpc import CPC, CPCConfig
from dinosr_plugin.models.predictive import APC, APCConfig
from support.fairseq_models import fairseq_checkpoint
from support.paths import GOLDEN
from support.s3prl import import_s3prl
from support.spin import spin

hub = import_s3prl("hub")

OFFICIAL = GOLDEN / "official_format_tiny.pt"  # convolutions with LayerNorm, 4 layers of 32; features ignore padding
register()


def noise(*lengths: int) -> list[Tensor]:
    """Waveforms, each the same in any list."""
    return [0.1 + 0.3 * torch.randn(n, generator=torch.Generator().manual_seed(n)) for n in lengths]


def states(upstream: torch.nn.Module, waves: list[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return upstream.eval()(waves)["hidden_states"]


# ---- hidden states ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, expert, normalize",
    [
        ("hubert", "hubert", False),
        ("wav2vec2", "wav2vec2", True),
        ("wav2vec2_large", "wav2vec2", True),  # pre-LN: the last state is normalised once more
        ("data2vec_audio", "data2vec", True),
    ],
)
def test_hidden_states_of_fairseqs_models_equal_those_of_s3prls_experts(kind, expert, normalize, tmp_path):
    fairseq_checkpoint(tmp_path / "model.pt", kind, normalize)
    convert = importlib.import_module(f"s3prl.upstream.{expert}.convert").load_and_convert_fairseq_ckpt
    convert(tmp_path / "model.pt", tmp_path / "converted.pt")
    theirs = getattr(hub, f"{expert}_local")(str(tmp_path / "converted.pt"))
    ours = hub.dinosr(ckpt=str(tmp_path / "model.pt"), refresh=False)
    lengths = [(16000,), (16000, 23457)] if kind == "wav2vec2_large" else [(16000,)]  # theirs depend on padding
    for waves in (noise(*numbers) for numbers in lengths):
        for expected, state in zip(states(theirs, waves), states(ours, waves), strict=True):
            for row, wave in enumerate(waves):
                frames = ours.reader.frames(len(wave))
                torch.testing.assert_close(state[row, :frames], expected[row, :frames], rtol=0, atol=1e-5)
    assert ours.get_downsample_rates("hidden_states") == theirs.get_downsample_rates("hidden_states") == 320


def readers(folder: Path):
    yield open_reader(OFFICIAL)
    yield open_reader(OFFICIAL, "teacher")
    fairseq_checkpoint(folder / "hubert.pt", "hubert", normalize=True)  # its features depend on padding
    yield open_reader(folder / "hubert.pt")
    yield reader_of(spin(layer_norm_first=True).eval())
    yield reader_of(CPC(CPCConfig(encoder_channels=8, context_dim=8, context_layers=2)).eval())
    yield reader_of(APC(APCConfig(width=8, layers=2)).eval())


def test_layers_are_those_of_the_reader_bit_for_bit_alone_and_in_a_batch(tmp_path):
    """... on the model's frames; those of the front end are one state more where they are as wide."""
    torch.manual_seed(0)
    for reader in readers(tmp_path):
        upstream = Upstream(reader)
        layers = [*range(reader.n_layers - 1), "last"]
        has_input = type(reader.model).__name__ != "APC"  # 80 Mel bins, layers of 8
        for waves in (noise(16000), noise(9000, 23457, 16000)):
            together = states(upstream, waves)
            assert len(together) == reader.n_layers + has_input
            prepared = [reader.prepare(wave) for wave in waves]
            batches = [prepared] if reader.pads else [[wave] for wave in prepared]
            expected = [frames.layers for batch in batches for frames in reader.read(batch, layers)]
            for row, of_row in enumerate(expected):
                for state, x in zip(together[has_input:], of_row, strict=True):
                    assert torch.equal(state[row, : len(x)], x)
                    assert torch.equal(state[row, len(x) :], x[-1:].expand(state.size(1) - len(x), -1))
        assert reader.grid.hop == upstream.get_downsample_rates("hidden_states")


def test_the_first_state_is_the_input_of_the_first_layer():
    model = open_reader(OFFICIAL).model
    (wave,) = noise(16000)
    with torch.no_grad():
        wave_in = torch.nn.functional.layer_norm(wave, wave.shape)[None]
        inputs = model.encoder_inputs(wave_in, model.frame_padding(wave_in, None))
        expected = model.encoder.layer_norm(model.encoder.add_positions(inputs, None))
    torch.testing.assert_close(states(hub.dinosr(ckpt=str(OFFICIAL)), [wave])[0], expected, rtol=0, atol=1e-5)


def test_sums_of_layers_are_the_same_alone_and_padded_and_only_their_weights_are_trained():
    """s3prl asks for more frames than there are, and repeats the last."""
    nn = import_s3prl("nn")
    upstream = nn.S3PRLUpstream("dinosr", str(OFFICIAL)).eval()
    assert (upstream.num_layers, set(upstream.hidden_sizes), set(upstream.downsample_rates)) == (5, {32}, {320})
    featurizer = nn.Featurizer(upstream)
    featurizer.weights.data = torch.randn(5, generator=torch.Generator().manual_seed(0))
    waves = noise(9001, 23457)
    lengths = torch.tensor([9001, 23457])

    def features(waves: list[Tensor], lengths: Tensor) -> tuple[Tensor, Tensor]:
        return featurizer(*upstream(torch.nn.utils.rnn.pad_sequence(waves, batch_first=True), lengths))

    together, sizes = features(waves, lengths)
    assert sizes.tolist() == [math.ceil(9001 / 320), math.ceil(23457 / 320)]
    for row, wave in enumerate(waves):
        alone, size = features([wave], lengths[row : row + 1])
        torch.testing.assert_close(together[row, : size[0]], alone[0], rtol=0, atol=1e-5)
    shares = torch.softmax(featurizer.weights, 0)
    plain = sum(share * state for share, state in zip(shares, states(upstream.upstream, waves)))
    torch.testing.assert_close(together[:, : plain.size(1)], plain, rtol=0, atol=1e-5)
    together.sum().backward()
    assert featurizer.weights.grad is not None
    assert not [name for name, parameter in upstream.named_parameters() if parameter.grad is not None]


def test_dropout_is_off_even_in_training():
    upstream = hub.dinosr(ckpt=str(OFFICIAL))
    expected = states(upstream, noise(16000))
    with torch.no_grad():
        trained = upstream.train()(noise(16000))["hidden_states"]
    assert upstream.training and all(map(torch.equal, expected, trained))


def test_the_teacher_and_a_model_before_training_are_upstreams_too():
    waves = noise(16000)
    for name, weights in (("dinosr_teacher", "teacher"), ("dinosr_random", "random")):
        reader = open_reader(OFFICIAL, weights)
        last = reader.read([reader.prepare(waves[0])], ["last"])[0].layers[0]
        assert torch.equal(states(getattr(hub, name)(ckpt=str(OFFICIAL)), waves)[-1][0], last)


# ---- refused ---------------------------------------------------------------------------------------------------------


def test_what_is_refused_is_one_line(tmp_path):
    (tmp_path / "text.pt").write_text("no checkpoint")
    with pytest.raises(UserError, match=r"^\S*text\.pt: .*$"):
        hub.dinosr(ckpt=str(tmp_path / "text.pt"))
    with pytest.raises(UserError, match="^s3prl: no checkpoint; give one with -k CHECKPOINT"):
        hub.dinosr(ckpt=None, model_config=None, refresh=False)
    upstream = hub.dinosr(ckpt=str(OFFICIAL))
    with pytest.raises(UserError, match="^waveform: 399 samples, fewer than the 400 of a frame"):
        states(upstream, noise(16000, 399))
    with pytest.raises(UserError, match="^waveform: contains NaN"):
        states(upstream, [torch.full((16000,), math.nan)])


def test_fine_tuning_is_refused():
    nn = import_s3prl("nn.upstream")
    upstream = nn.S3PRLUpstream("dinosr", str(OFFICIAL))
    model = partial(nn.UpstreamDownstreamModel, upstream, nn.Featurizer(upstream), lambda x, sizes: x)
    model(upstream_trainable=False)(noise(16000)[0][None], torch.tensor([16000]))
    with pytest.raises(UserError, match="^s3prl: this upstream is not fine-tuned; omit -f and build_model.upstream_tr"):
        model(upstream_trainable=True).train()(noise(16000)[0][None], torch.tensor([16000]))


@pytest.mark.parametrize(
    "error, remedy",
    [
        (ModuleNotFoundError("No module named 's3prl'"), "pip install 'dinosr-plugin[s3prl]'"),
        (ImportError("cannot import name 'HfFolder' from 'huggingface_hub'"), "pip install 'huggingface_hub<1' "),
        (OSError("Could not load this library: _torchaudio.so"), "install the torchaudio of the same build as torch"),
    ],
)
def test_what_does_not_import_is_one_line(error, remedy, monkeypatch, capsys):
    def fail(name: str) -> ModuleType:
        raise error

    monkeypatch.setattr("dinosr_plugin.interop.s3prl.importlib", ModuleType("importlib"))
    monkeypatch.setattr("dinosr_plugin.interop.s3prl.importlib.import_module", fail, raising=False)
    assert dinosr(["s3prl", "main", "SuperbPR"]) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"error: s3prl.hub: {error}; {remedy}") and message.count("\n") == 1


# ---- programs --------------------------------------------------------------------------------------------------------


def test_programs_find_the_upstreams(monkeypatch, capsys):
    """... and get their options as from their own command line."""
    program = ModuleType("s3prl.run_downstream")
    program.main = lambda: print(sys.argv, callable(hub.dinosr))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "s3prl.run_downstream", program)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.delattr(hub, "dinosr")
    assert dinosr(["s3prl", "run_downstream", "-m", "train", "-u", "dinosr", "--help"]) == 0
    words = ["dinosr s3prl run_downstream", "-m", "train", "-u", "dinosr", "--help"]
    assert capsys.readouterr().out == f"{words} True\n"


@pytest.fixture
def logging_stays(monkeypatch):
    """Recipes replace the root logger's handlers."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", list(root.handlers))
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr(sys, "argv", sys.argv)


def test_a_recipe_of_superb_runs_from_data_to_a_phone_error_rate(tmp_path, logging_stays):
    import_s3prl("problem")
    for name, phones in (("train", ["A B", "B A"]), ("dev", ["A", "B"]), ("test", ["B", "A A B"])):
        rows = ["id,wav_path,transcription"]
        for n, text in enumerate(phones):
            path = tmp_path / f"{name}{n}.wav"
            soundfile.write(path, np.random.default_rng(n).normal(0, 0.1, 16000 + 1600 * n), 16000)
            rows.append(f"{name}{n},{path},{text}")
        (tmp_path / f"{name}.csv").write_text("\n".join(rows) + "\n")
    options = {
        "target_dir": tmp_path, "start": 1, "device": "cpu", "num_workers": 0, "build_upstream.name": "dinosr",
        "build_upstream.path_or_url": OFFICIAL, "build_batch_sampler.train.batch_size": 2, "train.total_steps": 2,
        "train.eval_step": 2, "train.save_step": 2, "prepare_data.dataset_root": tmp_path,
        "prepare_data.train_sets": ["train"], "prepare_data.valid_sets": ["dev"], "prepare_data.test_sets": ["test"],
    }  # fmt: skip
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    assert dinosr(["s3prl", "main", "SuperbPR", *words]) == 0
    results = yaml.safe_load((tmp_path / "evaluate/valid_best/test/result.yaml").read_text())
    lines = [(tmp_path / f"evaluate/valid_best/test/{name}").read_text().splitlines() for name in ("ref", "hyp")]
    assert sorted(lines[0]) == ["test0 B", "test1 A A B"] and len(lines[1]) == 2
    assert results["per"] > 0 and math.isfinite(results["loss"])
