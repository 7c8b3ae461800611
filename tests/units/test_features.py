"""Features of a manifest equal those of single utterances, for all supported models, batches, shards and kills."""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import dinosr_plugin
from dinosr_plugin import cli
from dinosr_plugin.checkpoints import chunks, opening
from dinosr_plugin.checkpoints.load import Loaded, load_model
from dinosr_plugin.checkpoints.opening import open_reader
from dinosr_plugin.checkpoints.readers import FrameReader
from dinosr_plugin.data.acoustic import FEATURES
from dinosr_plugin.errors import UserError
from dinosr_plugin.units import features, store
from dinosr_plugin.units.batches import plan_batches, read_utterances
from dinosr_plugin.units.codes import write_codebook_units
from dinosr_plugin.units.features import extract, extract_acoustic, which_layers
from dinosr_plugin.units.long_recordings import read_long
from dinosr_plugin.units.store import FeatureFolder, layer_folders
from support import paths
from support.fairseq_models import MODELS, fairseq_checkpoint, fine_tuned_checkpoint
from support.training import train, write_corpus

GOLDEN = paths.GOLDEN / "official_format_tiny.pt"
LENGTHS = (9000, 16000, 9999, 400, 16000, 12345)
CLOSE = dict(rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A manifest of utterances of many lengths, one of them a single frame."""
    return write_corpus(tmp_path_factory.mktemp("corpus"), lengths=LENGTHS) / "train.tsv"


@pytest.fixture(scope="module", params=["golden", "base", *MODELS])
def checkpoint(request, tmp_path_factory) -> Path:
    """Models of this plug-in, with layer norm or group norm in the convolutions, and models of fairseq."""
    if request.param == "golden":
        return GOLDEN
    path = tmp_path_factory.mktemp("models") / f"{request.param}.pt"
    if request.param == "base":
        state = torch.load(GOLDEN, weights_only=True)
        state["cfg"]["model"]["extractor_mode"] = "default"
        weights = state["model"]
        for part in ("weight", "bias"):
            weights[f"feature_extractor.conv_layers.0.2.{part}"] = weights[
                f"feature_extractor.conv_layers.0.2.1.{part}"
            ]
        state["model"] = {
            name: tensor
            for name, tensor in weights.items()
            if not (name.startswith("feature_extractor") and ".2.1." in name)
        }
        torch.save(state, path)
    else:
        fairseq_checkpoint(path, request.param, normalize=request.param == "wav2vec2_large")
    return path


def waves(corpus: Path) -> list:
    return [soundfile.read(utterance.path, dtype="float32")[0] for utterance in read_utterances(corpus)]


def features_of_single_utterances(path: Path, corpus: Path, layer=None) -> list:
    """(F, D) of each utterance, computed separately through the Python interface."""
    model = dinosr_plugin.load(path)
    return [model.features(wave, layer).numpy() for wave in waves(corpus)]


def normalized(wave: np.ndarray, normalize: bool) -> torch.Tensor:
    tensor = torch.from_numpy(wave)
    return torch.nn.functional.layer_norm(tensor, tensor.shape) if normalize else tensor


def extract_error(*args, **settings) -> str:
    with pytest.raises(UserError) as error:
        extract(*args, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_samples", [1, 30000, 10**9])
def test_the_last_layer_does_not_depend_on_batches(checkpoint, corpus, tmp_path, batch_samples):
    done = extract(checkpoint, corpus, tmp_path, batch_samples=batch_samples)
    folder = FeatureFolder(tmp_path)
    assert done.folders == [tmp_path] and folder.rate == 50.0 and folder.width == 32 and folder.dtype == np.float32
    assert folder.utterances == [f"train{n}" for n in range(6)] and folder.lengths.tolist() == [27, 49, 30, 1, 49, 38]
    for (_, actual), expected in zip(folder, features_of_single_utterances(checkpoint, corpus), strict=True):
        np.testing.assert_allclose(actual, expected, **CLOSE)
    assert {key: folder.meta.source[key] for key in ("kind", "checkpoint", "weights", "layer")} == {
        "kind": "model",
        "checkpoint": checkpoint.name,
        "weights": "student",
        "layer": "last",
    }


def test_all_layers_in_one_pass(checkpoint, corpus, tmp_path):
    extract(checkpoint, corpus, tmp_path, layer="all")
    folders = layer_folders(tmp_path)
    assert len(folders) == open_reader(checkpoint).n_layers >= 3
    for number, folder in enumerate(folders):
        assert FeatureFolder(folder).meta.source["layer"] == number
        for (_, actual), expected in zip(
            FeatureFolder(folder), features_of_single_utterances(checkpoint, corpus, number), strict=True
        ):
            np.testing.assert_allclose(actual, expected, **CLOSE)


def test_one_layer(checkpoint, corpus, tmp_path):
    extract(checkpoint, corpus, tmp_path, layer="1")
    for (_, actual), expected in zip(
        FeatureFolder(tmp_path), features_of_single_utterances(checkpoint, corpus, 1), strict=True
    ):
        np.testing.assert_allclose(actual, expected, **CLOSE)


def test_features_equal_those_of_fairseq(corpus, tmp_path):
    """wav2vec 2.0, HuBERT and data2vec, loaded without this plug-in."""
    source = torch.from_numpy(waves(corpus)[0])[None]
    for kind in MODELS:
        model = fairseq_checkpoint(tmp_path / "model.pt", kind)
        reader = open_reader(tmp_path / "model.pt")
        with torch.no_grad():
            expected = model.extract_features(source, None)
        ours = reader.read([source[0]], ["last"])[0].layers[0]
        torch.testing.assert_close(ours, (expected[0] if kind == "hubert" else expected["x"])[0])


@pytest.mark.parametrize(
    "kind, pads", [("wav2vec2", False), ("wav2vec2_large", True), ("hubert", False), ("data2vec_audio", False)]
)
def test_pads_says_whether_the_model_supports_padding(tmp_path, kind, pads):
    fairseq_checkpoint(tmp_path / "model.pt", kind)
    reader = open_reader(tmp_path / "model.pt")
    short, long = torch.randn(9000), torch.randn(12000)
    together, by_itself = reader.read([short, long], ["last"])[0].layers[0], reader.read([short], ["last"])[0].layers[0]
    assert reader.pads == pads == torch.allclose(together, by_itself, **CLOSE)


# ---- weights and layers ----------------------------------------------------------------------------------------------


def test_features_of_the_teacher(corpus, tmp_path):
    extract(GOLDEN, corpus, tmp_path, layer="all", weights="teacher")
    model, cfg, *_ = load_model(GOLDEN)
    wave = normalized(waves(corpus)[0], cfg.task.normalize)[None]
    with torch.no_grad():
        _, results = model.teacher.model(model.encoder_inputs(wave, model.frame_padding(wave, None)), None)
    for folder, (expected, _, _) in zip(layer_folders(tmp_path), results, strict=True):
        np.testing.assert_allclose(FeatureFolder(folder)["train0"], expected[:, 0], **CLOSE)
        assert FeatureFolder(folder).meta.source["weights"] == "teacher"
    student = open_reader(GOLDEN).read([wave[0]], [0])[0].layers[0]
    assert not np.allclose(FeatureFolder(layer_folders(tmp_path)[0])["train0"], student, atol=1e-3)


def test_random_weights_are_the_same_every_time(checkpoint):
    one, again, trained = open_reader(checkpoint, "random"), open_reader(checkpoint, "random"), open_reader(checkpoint)
    assert one.fingerprint == again.fingerprint != trained.fingerprint


def test_models_without_a_teacher(tmp_path, corpus):
    fairseq_checkpoint(tmp_path / "model.pt", "hubert")
    message = extract_error(tmp_path / "model.pt", corpus, tmp_path / "out", weights="teacher")
    assert "model.pt: contains HubertModel, which has no teacher; give a DinoSR" in message
    assert "weights both: choose one of student, teacher, random" in extract_error(
        GOLDEN, corpus, tmp_path / "out", weights="both"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("layer", ["4", 4, "-1", "first", "1.5", ""])
def test_invalid_layers(corpus, tmp_path, layer):
    assert f"--layer {layer}: the model has layers 0 to 3; give one of these, last, or all" == extract_error(
        GOLDEN, corpus, tmp_path, layer=layer
    )


def test_which_layers():
    reader = open_reader(GOLDEN)
    assert which_layers("all", reader) == [0, 1, 2, 3] and which_layers("last", reader) == ["last"]
    assert which_layers("2", reader) == which_layers(2, reader) == [2]


def test_checkpoints_with_argparse_options(tmp_path, corpus):
    """The options of fairseq's first wav2vec 2.0 models are an ``argparse.Namespace``, which may be loaded."""
    model = fairseq_checkpoint(tmp_path / "new.pt", "wav2vec2")
    state = torch.load(tmp_path / "new.pt", weights_only=True)
    options = dict(
        arch="wav2vec2",
        task="audio_pretraining",
        criterion="binary_cross_entropy",
        optimizer="adam",
        lr_scheduler="polynomial_decay",
    )
    options |= dict(
        data="/a/folder",
        normalize=False,
        min_lr=-1.0,
        lr=[0.0005],
        lazy_load=False,
        no_progress_bar=False,
        adam_betas="(0.9, 0.98)",
    )
    options |= dict(
        log_keys=None,
        max_sample_size=250000,
        min_sample_size=32000,
        enable_padding=False,
        total_num_update=400000,
        latent_temp="(2.0, 0.5, 0.999995)",
    )
    state["args"], state["cfg"] = (
        argparse.Namespace(**options, **{k: v for k, v in state["cfg"]["model"].items() if k != "_name"}),
        None,
    )
    torch.save(state, tmp_path / "old.pt")
    old, new = open_reader(tmp_path / "old.pt"), open_reader(tmp_path / "new.pt")
    assert old.fingerprint == new.fingerprint and type(old.model) is type(model)


# ---- files, shards, interruptions ------------------------------------------------------------------------------------


def test_shards_give_the_same_features(corpus, tmp_path):
    extract(GOLDEN, corpus, tmp_path / "whole")
    for shard in (3, 1):
        extract(GOLDEN, corpus, tmp_path / "parts", shard=shard, shards=3)
    with pytest.raises(UserError, match="shard.s. 2 of 3 are missing"):
        FeatureFolder(tmp_path / "parts")
    extract(GOLDEN, corpus, tmp_path / "parts", shard=2, shards=3)
    for (name, one), (same, other) in zip(
        FeatureFolder(tmp_path / "whole"), FeatureFolder(tmp_path / "parts"), strict=True
    ):
        assert name == same
        np.testing.assert_allclose(one, other, **CLOSE)


def test_features_in_float16(corpus, tmp_path):
    extract(GOLDEN, corpus, tmp_path / "half", dtype="float16")
    for (_, half), expected in zip(
        FeatureFolder(tmp_path / "half"), features_of_single_utterances(GOLDEN, corpus), strict=True
    ):
        assert half.dtype == np.float16
        np.testing.assert_allclose(half, expected, rtol=1e-3, atol=1e-3)


def test_only_missing_features_are_computed(corpus, tmp_path, monkeypatch):
    """Only the missing layer is computed; if none is missing, nothing is."""
    extract(GOLDEN, corpus, tmp_path, layer="all")
    lost = store.shard_file(tmp_path / "layer_2", 1, 1, "npy")
    expected = np.load(lost)
    lost.unlink()
    written = store.shard_file(tmp_path / "layer_1", 1, 1, "npy").stat().st_mtime_ns
    assert "0.00 h were done before" not in extract(GOLDEN, corpus, tmp_path, layer="all").summary
    np.testing.assert_allclose(np.load(lost), expected, **CLOSE)
    assert store.shard_file(tmp_path / "layer_1", 1, 1, "npy").stat().st_mtime_ns == written
    monkeypatch.setattr(FrameReader, "read", lambda *_: pytest.fail("computed again"))
    assert extract(GOLDEN, corpus, tmp_path, layer="all").summary == "all 0.00 h of sound were done before"


def test_resumes_after_an_error(corpus, tmp_path, monkeypatch):
    real, lengths = FrameReader.read, []

    def read(self, batch, *rest):
        lengths.extend(len(wave) for wave in batch)
        if len(lengths) == 4:
            raise KeyboardInterrupt
        return real(self, batch, *rest)

    monkeypatch.setattr(FrameReader, "read", read)
    with pytest.raises(KeyboardInterrupt):
        extract(GOLDEN, corpus, tmp_path, batch_samples=1)
    extract(GOLDEN, corpus, tmp_path, batch_samples=1)
    assert lengths == [16000, 16000, 12345, 9999, 9999, 9000, 400]  # longest first; the interrupted one twice
    for (_, actual), expected in zip(
        FeatureFolder(tmp_path), features_of_single_utterances(GOLDEN, corpus), strict=True
    ):
        np.testing.assert_allclose(actual, expected, **CLOSE)


SLOW = """
import sys, time
from dinosr_plugin.checkpoints.readers import FrameReader
from dinosr_plugin.units import batches, features, store
store.SAVE_SECONDS = 0
real, calls = FrameReader.read, []
def read(self, *args):
    calls.append(1)
    time.sleep(600 if len(calls) > 2 else 0)
    return real(self, *args)
FrameReader.read = read
features.extract(*sys.argv[1:4], layer="all", batch_samples=1)
"""


def test_resumes_after_a_kill(corpus, tmp_path, monkeypatch):
    with subprocess.Popen([sys.executable, "-c", SLOW, str(GOLDEN), str(corpus), str(tmp_path)]) as process:
        marks = tmp_path / "layer_3" / ".features_1_of_1.npy.done"
        deadline = time.monotonic() + 120
        while not (marks.is_file() and any(marks.read_bytes())) and time.monotonic() < deadline:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    real, computed = FrameReader.read, []
    monkeypatch.setattr(
        FrameReader, "read", lambda self, batch, *rest: (computed.extend(batch), real(self, batch, *rest))[1]
    )
    assert "h were done before" in extract(GOLDEN, corpus, tmp_path, layer="all", batch_samples=1).summary
    assert 4 <= len(computed) <= 5
    for number, folder in enumerate(layer_folders(tmp_path)):
        for (_, actual), expected in zip(
            FeatureFolder(folder), features_of_single_utterances(GOLDEN, corpus, number), strict=True
        ):
            np.testing.assert_allclose(actual, expected, **CLOSE)


def test_a_folder_of_another_model(corpus, tmp_path):
    extract(GOLDEN, corpus, tmp_path / "out")
    state = torch.load(GOLDEN, weights_only=True)
    state["model"]["post_extract_proj.bias"] += 1
    torch.save(state, tmp_path / GOLDEN.name)
    assert "contains features with fingerprint" in extract_error(tmp_path / GOLDEN.name, corpus, tmp_path / "out")
    assert "contains features with layer last, not 0; remove it, or give another folder with --out" in extract_error(
        GOLDEN, corpus, tmp_path / "out", layer=0
    )


def test_one_layer_and_all_layers_are_not_mixed(corpus, tmp_path):
    extract(GOLDEN, corpus, tmp_path / "one", layer=1)
    message = extract_error(GOLDEN, corpus, tmp_path / "one", layer="all")
    assert message == (
        f"{tmp_path / 'one'}: already contains features of one layer or kind, so it cannot contain a folder per layer; "
        "give another --out"
    )
    extract(GOLDEN, corpus, tmp_path / "all", layer="all")
    assert f"{tmp_path / 'all'}: contains a folder per layer, so it cannot contain other features" in extract_error(
        GOLDEN, corpus, tmp_path / "all", layer=1
    )
    with pytest.raises(UserError, match="contains a folder per layer"):
        extract_acoustic("mfcc", corpus, tmp_path / "all")
    assert not list(tmp_path.glob("one/layer_*")) and not (tmp_path / "all/meta.json").exists()


# ---- manifests and models --------------------------------------------------------------------------------------------


def test_plan_of_batches():
    utterances = [features.Utterance(str(samples), Path(), samples) for samples in (5, 9, 9, 3, 20, 4)]
    assert plan_batches(utterances, range(6), 18, padding=True) == [[4], [1, 2], [0, 5, 3]]
    assert plan_batches(utterances, range(6), 18, padding=False) == [[4], [1, 2], [0], [5], [3]]
    assert plan_batches(utterances, [], 18, padding=True) == []


def write_manifest(folder: Path, rows: list) -> Path:
    (folder / "one.tsv").write_text("\n".join([str(folder), *rows]) + "\n")
    return folder / "one.tsv"


def test_invalid_manifests(tmp_path):
    write_corpus(tmp_path, "a", [399, 16000])
    (tmp_path / "b").mkdir()
    message = extract_error(GOLDEN, tmp_path / "a.tsv", tmp_path / "out")
    assert "1 file(s) are shorter than one frame, 400 samples (sounds/a0.wav); remove them" in message
    wrong = write_manifest(tmp_path, ["sounds/a1.wav\t16001"])
    assert "a1.wav: 16000 samples, but 16001 in the manifest; make the manifest again" in extract_error(
        GOLDEN, wrong, tmp_path / "out"
    )
    with pytest.raises(UserError, match="same utterance id as sounds/a1.wav"):
        extract(GOLDEN, write_manifest(tmp_path, ["sounds/a1.wav\t16000", "b/a1.wav\t16000"]), tmp_path / "out")
    gone = write_manifest(tmp_path, ["sounds/a1.wav\t16000", "sounds/a2.wav\t16000"])
    message = extract_error(GOLDEN, gone, tmp_path / "out2")
    assert (
        message.startswith(f"{gone}: 1 of its 2 files are missing ({tmp_path / 'sounds/a2.wav'}); restore them")
        and not (tmp_path / "out2").exists()
    )
    assert "no such checkpoint" in extract_error(tmp_path / "none.pt", wrong, tmp_path / "out")


def test_long_recordings_are_read_in_chunks_and_the_others_as_before(tmp_path, monkeypatch):
    """With a context of the whole recording, so that the features must be equal."""
    monkeypatch.setattr(chunks, "CHUNK", 0.3)
    monkeypatch.setattr(chunks, "CONTEXT", 100.0)
    manifest = write_corpus(tmp_path, "a", [9600, 16000, 9601, 12345]) / "a.tsv"
    read = []
    monkeypatch.setattr(
        features, "read_long", lambda *arguments: read.append(arguments[1].name) or read_long(*arguments)
    )
    extract(GOLDEN, manifest, tmp_path / "whole", layer="all")
    write_codebook_units(GOLDEN, manifest, tmp_path / "whole units")
    assert read == []
    extract(GOLDEN, manifest, tmp_path / "chunks", layer="all", max_minutes=0.01)
    write_codebook_units(GOLDEN, manifest, tmp_path / "chunked units", max_minutes=0.01)
    assert read == ["a1", "a2", "a3"] * 2
    for layer in layer_folders(tmp_path / "whole"):
        for (_, expected), (_, found) in zip(
            FeatureFolder(layer), FeatureFolder(tmp_path / "chunks" / layer.name), strict=True
        ):
            np.testing.assert_allclose(found, expected, **CLOSE)
    for path in (tmp_path / "whole units").glob("*.units"):
        assert path.read_text() == (tmp_path / "chunked units" / path.name).read_text()


def test_acoustic_features_and_layers_of_a_long_recording_in_one_pass(tmp_path, monkeypatch):
    manifest = write_corpus(tmp_path, "a", [16000, 9600]) / "a.tsv"
    reader = open_reader(GOLDEN)
    rows = dict(features.read_rows(read_utterances(manifest), range(2), reader, ["last"], (), ["mfcc"], 0.011))
    whole = dict(features.read_rows(read_utterances(manifest), range(2), reader, ["last"], (), ["mfcc"]))
    for row in range(2):
        for found, expected in zip(rows[row], whole[row], strict=True):
            np.testing.assert_allclose(found, expected, **CLOSE)


def test_long_recordings_are_refused_where_a_model_must_read_them_as_a_whole(tmp_path):
    manifest = write_corpus(tmp_path, "a", [9600, 9601, 16000]) / "a.tsv"
    with pytest.raises(UserError) as error:
        read_utterances(manifest, max_minutes=0.01)
    expected = (
        "2 file(s) are longer than 0.01 minutes (sounds/a1.wav, sounds/a2.wav), and a model reads each as a whole"
    )
    assert f"{expected}; split them with `dinosr segment`" in str(error.value)
    assert len(read_utterances(manifest, max_minutes=1 / 60)) == 3
    assert cli.parsing.MAX_MINUTES == chunks.MAX_MINUTES


def test_nan_in_the_audio(tmp_path):
    wave = np.zeros(16000, dtype=np.float32)
    wave[500] = np.nan
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
    assert "a.wav: contains NaN or infinite samples; remove it" in extract_error(
        GOLDEN, write_manifest(tmp_path, ["a.wav\t16000"]), tmp_path / "out"
    )


def test_not_a_speech_model(tmp_path, corpus, monkeypatch):
    monkeypatch.setattr(opening, "load_model", lambda path: Loaded(torch.nn.Linear(2, 2), None, None))
    assert "contains Linear, which cannot be read" in extract_error(GOLDEN, corpus, tmp_path)


def test_damaged_weights(tmp_path, corpus):
    state = torch.load(GOLDEN, weights_only=True)
    state["model"]["post_extract_proj.bias"] *= np.nan
    torch.save(state, tmp_path / "nan.pt")
    message = extract_error(tmp_path / "nan.pt", corpus, tmp_path / "out")
    assert (
        "nan.pt: NaN or infinity in its weights (post_extract_proj.bias)" in message and not (tmp_path / "out").exists()
    )


@pytest.mark.parametrize("kind, width", [("mfcc", 39), ("fbank", 160)])
def test_acoustic_features(corpus, tmp_path, kind, width):
    extract_acoustic(kind, corpus, tmp_path / "whole")
    for shard in (1, 2):
        extract_acoustic(kind, corpus, tmp_path / "parts", shard=shard, shards=2)
    folder = FeatureFolder(tmp_path / "whole")
    assert folder.rate == 50.0 and folder.width == width and folder.meta.source == {"kind": kind}
    for (_, one), (_, other), wave in zip(folder, FeatureFolder(tmp_path / "parts"), waves(corpus), strict=True):
        np.testing.assert_array_equal(one, FEATURES[kind](wave))
        np.testing.assert_array_equal(one, other)
    with pytest.raises(UserError, match="features 'plp': unknown; choose one of mfcc, fbank"):
        extract_acoustic("plp", corpus, tmp_path / "plp")


def test_live_features(corpus, tmp_path):
    """Features without a folder equal those of a folder."""
    extract(GOLDEN, corpus, tmp_path / "layer", layer=2, weights="teacher")
    extract_acoustic("mfcc", corpus, tmp_path / "mfcc")
    layer = features.LiveFeatures.of_layer(GOLDEN, corpus, 2, "teacher")
    for live, folder in [
        (layer, tmp_path / "layer"),
        (features.LiveFeatures.of_sound("mfcc", corpus), tmp_path / "mfcc"),
    ]:
        stored = FeatureFolder(folder)
        assert (live.rate, live.width, live.source, live.utterances, len(live)) == (
            stored.rate,
            stored.width,
            stored.source,
            stored.utterances,
            6,
        )
        for (name, one), (same, other) in zip(live, stored, strict=True):
            assert name == same and name in live
            np.testing.assert_allclose(one, other, **CLOSE)
    with pytest.raises(UserError, match="'x': no such utterance in the manifest"):
        live["x"]
    with pytest.raises(UserError, match="--layer all: without feature folders one layer at a time"):
        features.LiveFeatures.of_layer(GOLDEN, corpus, "all")


def test_a_checkpoint_of_the_trainer(corpus, tmp_path):
    """With log-Mel input, directly from the trainer."""
    train(
        corpus.parent, tmp_path, "optimization.max_update=4", "model.front_end=fbank", "dataset.disable_validation=true"
    )
    extract(tmp_path / "checkpoint_last.pt", corpus, tmp_path / "features", layer="all")
    for number, folder in enumerate(layer_folders(tmp_path / "features")):
        for (_, actual), expected in zip(
            FeatureFolder(folder),
            features_of_single_utterances(tmp_path / "checkpoint_last.pt", corpus, number),
            strict=True,
        ):
            np.testing.assert_allclose(actual, expected, **CLOSE)


FINE_TUNED = [("golden", "dinosr_finetuning"), ("wav2vec2", "audio_finetuning"), ("data2vec_audio", "audio_finetuning")]
FINE_TUNED += [("hubert", "hubert_pretraining"), ("hubert", "audio_finetuning")]


@pytest.mark.parametrize("pretrained, task", FINE_TUNED)
def test_fine_tuned_checkpoints(corpus, tmp_path, pretrained, task):
    """Of this plug-in and of fairseq, without the pre-trained checkpoint and the training data."""
    if pretrained != "golden":
        fairseq_checkpoint(tmp_path / "pretrained.pt", pretrained)
    name = "hubert_ctc" if pretrained == "hubert" else "wav2vec_ctc"
    model = fine_tuned_checkpoint(
        tmp_path / "tuned.pt", GOLDEN if pretrained == "golden" else tmp_path / "pretrained.pt", task, name
    )
    (tmp_path / "pretrained.pt").unlink(missing_ok=True)
    extract(tmp_path / "tuned.pt", corpus, tmp_path / "features")
    for (_, actual), expected in zip(
        FeatureFolder(tmp_path / "features"), features_of_single_utterances(tmp_path / "tuned.pt", corpus), strict=True
    ):
        np.testing.assert_allclose(actual, expected, **CLOSE)
    source = normalized(waves(corpus)[-1], pretrained == "golden")
    with torch.no_grad():
        inside = model.w2v_encoder.w2v_model.extract_features(source[None], None, mask=False)
        inside = (inside[0] if pretrained == "hubert" else inside["x"])[0]
    np.testing.assert_allclose(actual, inside, **CLOSE)
    assert "has no teacher" in extract_error(tmp_path / "tuned.pt", corpus, tmp_path / "teacher", weights="teacher")


def test_hubert_without_dictionaries(corpus, tmp_path):
    """As in the first HuBERT checkpoints, for which fairseq opens dict.km.txt in the folder of their training."""
    model = fairseq_checkpoint(tmp_path / "new.pt", "hubert")
    state = torch.load(tmp_path / "new.pt", weights_only=True)
    state["cfg"]["task"]["label_dir"] = "/a/folder/of/other/people"
    del state["task_state"]
    torch.save(state, tmp_path / "old.pt")
    wave = torch.randn(9000)
    ours = open_reader(tmp_path / "old.pt").read([wave], ["last"])[0].layers[0]
    with torch.no_grad():
        torch.testing.assert_close(ours, model.extract_features(wave[None], None)[0][0])
    open_reader(tmp_path / "old.pt", "random")


def test_data2vec_is_registered_by_the_loader(tmp_path, corpus):
    """In a process that has not imported it."""
    fairseq_checkpoint(tmp_path / "data2vec.pt", "data2vec_audio")
    code = "import sys, dinosr_plugin; print(dinosr_plugin.load(sys.argv[1]).reader.path)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "data2vec.pt")], capture_output=True, text=True)
    assert done.returncode == 0 and "data2vec.pt" in done.stdout, done.stderr
