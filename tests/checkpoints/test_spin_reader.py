"""A Spin checkpoint is read like any other: layers, the codebook's units, the projection and the logits."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import dinosr_plugin
from dinosr_plugin import cli
from dinosr_plugin.checkpoints.opening import open_reader, reader_of
from dinosr_plugin.errors import UserError
from dinosr_plugin.models.hubert import Hubert, HubertConfig
from dinosr_plugin.models.spin import Spin
from dinosr_plugin.units.store import FeatureFolder
from dinosr_plugin.units.unit_files import read_info, read_units
from support.fairseq_models import fine_tuned_checkpoint
from support.paths import GOLDEN
from support.spin import SIZES, spin, spin_checkpoint


def waves(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(length, generator=generator) for length in lengths]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("spin") / "spin.pt"
    spin_checkpoint(path)
    return path


@pytest.fixture(scope="module")
def fine_tuned(checkpoint) -> Path:
    fine_tuned_checkpoint(checkpoint.with_name("tuned.pt"), checkpoint, "dinosr_finetuning")
    return checkpoint.with_name("tuned.pt")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    rows = [str(folder)]
    for n, wave in enumerate(waves(9000, 4000)):
        soundfile.write(folder / f"{n}.wav", 0.1 * wave.numpy(), 16000, subtype="FLOAT")
        rows.append(f"{n}.wav\t{len(wave)}")
    (folder / "some.tsv").write_text("\n".join(rows) + "\n")
    return folder / "some.tsv"


def error_of(capsys, *arguments) -> str:
    assert cli.main([str(argument) for argument in arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("error: ")


# ---- the reader ------------------------------------------------------------------------------------------------------


def test_frames_of_a_padded_batch_equal_those_of_single_utterances(checkpoint):
    reader, sounds = open_reader(checkpoint), waves(9000, 4000, 400)
    layers = [0, 2, "last", "projection", "logits"]
    for sound, together in zip(sounds, reader.read(sounds, layers, ["codebook"]), strict=True):
        (alone,) = reader.read([sound], layers, ["codebook"])
        n = reader.frames(len(sound))
        assert [x.shape for x in together.layers] == [(n, 16), (n, 16), (n, 16), (n, 6), (n, 8)]
        for x, expected in zip(together.layers, alone.layers, strict=True):
            torch.testing.assert_close(x, expected, rtol=0, atol=1e-4)
        assert together.codes["codebook"].shape == (1, n)
        assert torch.equal(together.codes["codebook"], alone.codes["codebook"])


def test_projection_logits_and_codes_follow_from_the_last_layer(checkpoint):
    reader = open_reader(checkpoint)
    ((last, projection, logits), codes) = reader.read(waves(9000), ["last", "projection", "logits"], ["codebook"])[0]
    weights = reader.model.state_dict()
    z = last @ weights["projection.weight"].T + weights["projection.bias"]
    z = z / z.norm(dim=1, keepdim=True)
    torch.testing.assert_close(projection, z)
    torch.testing.assert_close(projection.norm(dim=1), torch.ones(27))
    torch.testing.assert_close(
        logits, z @ weights["codebook.weight"].T
    )  # cosines: the rows of the codebook have norm 1
    assert logits.abs().max() <= 1 + 1e-6
    assert torch.equal(codes["codebook"][0], logits.argmax(1)) and len(codes["codebook"].unique()) > 1


def test_what_the_reader_says_about_the_model(checkpoint):
    reader = open_reader(checkpoint)
    codes = reader.code_sets["codebook"]
    assert (codes.count, codes.size, codes.layers, codes.weights) == (1, 8, (2,), "student")
    assert (
        reader.require_codes() == "codebook"
        and open_reader(GOLDEN / "official_format_tiny.pt").require_codes() == "teacher"
    )
    assert {name: output.width for name, output in reader.outputs.items()} == {"projection": 6, "logits": 8}
    assert [reader.width_of(layer) for layer in (0, "last", "projection", "logits")] == [16, 16, 6, 8]
    assert reader.source("projection")["layer"] == "projection"


def test_frozen_layers_equal_those_of_the_model_that_training_started_from(tmp_path):
    sizes = {name: value for name, value in SIZES.items() if name in HubertConfig.__dataclass_fields__}
    torch.manual_seed(2)
    base = Hubert(HubertConfig(num_classes=[2], **{**sizes, "start_from": None})).eval()
    model = spin()
    model.start_from(base, "base.pt")
    (theirs,) = reader_of(base).read(waves(9000), range(3))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:  # as after an update
                parameter += 0.1 * torch.randn_like(parameter)
    (ours,) = reader_of(model).read(waves(9000), range(3))
    assert torch.equal(ours.layers[0], theirs.layers[0])
    assert all((ours.layers[i] - theirs.layers[i]).abs().max() > 0.01 for i in (1, 2))


def test_layers_alone_need_neither_projection_nor_higher_layers(checkpoint, monkeypatch):
    reader = open_reader(checkpoint)
    monkeypatch.setattr(Spin, "project_frames", lambda *_: pytest.fail("frames are projected"))
    monkeypatch.setattr(reader.layers[2], "forward", lambda *_, **__: pytest.fail("a higher layer runs"))
    assert reader.read(waves(9000), [1])[0].layers[0].shape == (27, 16)


def test_a_fine_tuned_model_has_layers_only(fine_tuned, manifest, tmp_path, capsys):
    reader = open_reader(fine_tuned)
    assert isinstance(reader.model, Spin) and reader.code_sets == {} and reader.outputs == {}
    assert reader.read(waves(4000), [2])[0].layers[0].shape == (12, 16)
    units = error_of(capsys, "units", fine_tuned, manifest, "--out", tmp_path / "units")
    assert (
        units
        == f"{fine_tuned}: contains Spin, which has no codebooks; give a pre-training checkpoint of DinoSR or Spin"
    )
    features = error_of(capsys, "features", fine_tuned, manifest, "--layer", "projection", "--out", tmp_path / "out")
    assert features == "--layer projection: the model has layers 0 to 2; give one of these, last, or all"
    assert list(tmp_path.iterdir()) == []


# ---- command lines and Python ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["projection", "logits", "last", "1"])
def test_a_folder_of_features_equals_the_model_and_records_the_layer(checkpoint, manifest, tmp_path, layer):
    arguments = ["features", checkpoint, manifest, "--layer", layer, "--out", tmp_path / "out"]
    assert cli.main([str(argument) for argument in arguments]) == 0
    folder, model = FeatureFolder(tmp_path / "out"), dinosr_plugin.load(checkpoint)
    number = int(layer) if layer.isdecimal() else layer
    assert folder.meta.source["layer"] == number
    for n in ("0", "1"):
        wave = soundfile.read(manifest.with_name(f"{n}.wav"), dtype="float32")[0]
        expected = model.features(wave, number)
        np.testing.assert_allclose(folder[n], expected, rtol=0, atol=1e-5)
        assert folder.width == expected.size(1)


def test_units_of_the_codebook(checkpoint, manifest, tmp_path, capsys):
    assert cli.main(["units", str(checkpoint), str(manifest), "--out", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.glob("*.units")) == ["codebook_0.units"]
    model = dinosr_plugin.load(checkpoint)
    for n, units in read_units(tmp_path / "codebook_0.units").items():
        wave = soundfile.read(manifest.with_name(f"{n}.wav"), dtype="float32")[0]
        assert model.units(wave).shape == (1, len(units)) and model.units(wave)[0].tolist() == units.tolist()
    assert read_info(tmp_path / "codebook_0.units").size == 8
    capsys.readouterr()
    message = error_of(capsys, "units", checkpoint, manifest, "--predicted", "--out", tmp_path / "other")
    assert message == f"--predicted: {checkpoint} has no heads that predict units; omit the option"


def test_kmeans_of_the_projection(checkpoint, manifest, tmp_path):
    """Fitted and applied without folders; the file of k-means says that it is the projection that is computed."""
    fit = ["kmeans", "fit", checkpoint, "--manifest", manifest, "--layer", "projection", "--clusters", 3]
    assert cli.main([str(word) for word in (*fit, "--out", tmp_path / "k.npz")]) == 0
    apply = ["kmeans", "apply", tmp_path / "k.npz", checkpoint, manifest, "--out", tmp_path / "some.km"]
    assert cli.main([str(word) for word in apply]) == 0
    assert [len(line.split()) for line in (tmp_path / "some.km").read_text().splitlines()] == [27, 12]


def test_outputs_that_a_model_does_not_have(checkpoint, manifest, tmp_path, capsys):
    golden = GOLDEN / "official_format_tiny.pt"
    message = error_of(capsys, "features", golden, manifest, "--layer", "projection", "--out", tmp_path / "out")
    assert message == "--layer projection: the model has layers 0 to 3; give one of these, last, or all"
    message = error_of(capsys, "features", checkpoint, manifest, "--layer", "teacher", "--out", tmp_path / "out")
    assert (
        message == "--layer teacher: the model has layers 0 to 2; give one of these, last, projection, logits, or all"
    )
    with pytest.raises(UserError, match="^layer=head: the model has layers 0 to 2, or projection, or logits$"):
        dinosr_plugin.load(checkpoint).features(np.zeros(800), "head")
    with pytest.raises(UserError, match="^layer=4: the model has layers 0 to 3$"):
        dinosr_plugin.load(golden).features(np.zeros(800), 4)
    message = error_of(capsys, "features", checkpoint, manifest, "--weights", "teacher", "--out", tmp_path / "out")
    assert "contains Spin, which has no teacher; give a DinoSR pre-training checkpoint" in message
    assert not (tmp_path / "out").exists()
