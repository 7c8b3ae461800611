"""CPC and CPC+DeepCluster through fairseq's own trainer: ranks, interruptions, the log, and loading checkpoints."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from dinosr_plugin.api import load
from dinosr_plugin.checkpoints.load import load_model
from dinosr_plugin.checkpoints.opening import open_reader
from dinosr_plugin.errors import UserError
from dinosr_plugin.models.cpc import CPC
from dinosr_plugin.models.cpc_deepcluster import CPCDeepCluster
from dinosr_plugin.modules.frame_grid import FrameGrid
from support.cpc_audio_layout import linear_predictors, reference, save
from support.training import checkpoint, differences, train, train_on_two_ranks, write_corpus

LENGTHS = [7000, 10000, 3300, 3199, 12345, 8000]  # samples, of each speaker: 2 + 3 + 1 + 0 + 3 + 2 windows of 3200


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two speakers with 11 windows, so 6 batches of 2 each; one in validation; labels of 5 clusters at 100 Hz."""
    folder = tmp_path_factory.mktemp("data")
    rows = {"train": [], "valid": []}
    for split, speaker in (("train", "anna"), ("train", "bert"), ("valid", "cleo")):
        write_corpus(folder / speaker, split, LENGTHS)
        lines = (folder / speaker / f"{split}.tsv").read_text().splitlines()[1:]
        rows[split] += [f"{speaker}/{line.replace(split, speaker)}" for line in lines]
        for n in range(len(LENGTHS)):
            (folder / speaker / f"sounds/{split}{n}.wav").rename(folder / speaker / f"sounds/{speaker}{n}.wav")
    rng = np.random.default_rng(0)
    for split, lines in rows.items():
        (folder / f"{split}.tsv").write_text("\n".join([str(folder), *lines]) + "\n")
        frames = [int(line.split("\t")[1]) // 160 for line in lines]
        (folder / f"{split}.km").write_text(
            "".join(" ".join(map(str, np.repeat(rng.integers(5, size=n // 10 + 1), 10)[:n])) + "\n" for n in frames)
        )
    (folder / "dict.km.txt").write_text("".join(f"{label} 1\n" for label in range(5)))
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """A checkpoint of CPC after an epoch, with its log next to it."""
    folder = tmp_path_factory.mktemp("cpc")
    train(data, folder, "optimization.max_update=12", f"common.log_file={folder}/log", config="cpc_tiny")
    return folder / "checkpoint_last.pt"


def deepcluster(data, save_dir, cpc, *overrides):
    return train(
        data, save_dir, f"model.start_from={cpc}", "optimization.max_update=12", *overrides, config="deepcluster_tiny"
    )


def test_what_is_logged(trained):
    """... for training and validation: every step, and their mean; chance is ln 9 of 8 negatives."""
    lines = [json.loads(line) for line in trained.with_name("log").read_text().splitlines() if line.startswith('{"')]
    first, valid = lines[0], next(line for line in lines if "valid_loss" in line)
    assert float(first["anchors"]) == 2 * 16 and float(valid["valid_anchors"]) > 0 and "masked_frames" not in first
    for k in range(1, 5):
        assert (
            math.isclose(float(first[f"loss_{k}"]), math.log(9), rel_tol=0.02)
            and 0 <= float(first[f"accuracy_{k}"]) <= 1
        )
        assert f"valid_loss_{k}" in valid and f"valid_accuracy_{k}" in valid
    assert math.isclose(float(first["loss"]), sum(float(first[f"loss_{k}"]) for k in range(1, 5)), rel_tol=1e-3)
    assert math.isclose(
        float(valid["valid_accuracy"]), sum(float(valid[f"valid_accuracy_{k}"]) for k in range(1, 5)) / 4, abs_tol=1e-3
    )


@pytest.mark.parametrize(
    "setting",
    [
        [],
        ["model.predictor=transformer", "dataset.num_workers=1"],
        ["model.encoder_norm=batch", "task.negatives=mixed"],
    ],
)
def test_a_resumed_run_is_bit_identical(data, tmp_path, setting):
    """In the middle of an epoch, at its end, and just after it; with dropout and with running averages of norms."""
    setting = [*setting, "optimization.update_freq=[2]", "dataset.disable_validation=true"]
    train(data, tmp_path / "whole", *setting, "optimization.max_update=14", config="cpc_tiny")
    for end in (2, 6, 7, 14):
        train(data, tmp_path / "parts", *setting, f"optimization.max_update={end}", config="cpc_tiny")
    assert checkpoint(tmp_path / "parts")["updates"] == 14
    assert not differences(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts"))


@pytest.mark.parametrize("objective", ["cpc", "deepcluster"])
@pytest.mark.parametrize("size", ["small", "big", "tiny"])
def test_every_config_trains(data, trained, tmp_path, objective, size):
    """... with less of everything, on a CPU."""
    start = (
        []
        if objective == "cpc"
        else [f"model.start_from={trained}", *(["model.context_layers=2"] if size == "big" else [])]
    )
    here = [
        "common.cpu=true",
        "distributed_training.distributed_world_size=1",
        "distributed_training.distributed_backend=gloo",
    ]
    trainer = train(
        data,
        tmp_path,
        *here,
        *start,
        "optimization.max_epoch=1",
        "optimization.max_update=3",
        config=f"{objective}_{size}",
    )
    assert trainer.get_num_updates() == 3
    if (objective, size) == ("cpc", "big"):
        assert len(trainer.get_model().context.layers) == 4


def test_two_ranks_equal_one(data, tmp_path):
    """Two ranks with a batch each train as one rank with two batches per update.

    The negatives of an anchor are drawn from its own batch. The run has 5 updates and the end of an epoch of 12
    batches, with the smaller last batches of the speakers.
    """
    first, second = train_on_two_ranks(data, tmp_path / "two", "optimization.max_update=8", config="cpc_tiny")
    assert not differences(first, second)
    train(data, tmp_path / "one", "optimization.max_update=8", "optimization.update_freq=[2]", config="cpc_tiny")
    assert not differences(checkpoint(tmp_path / "one")["model"], first, rtol=1e-5, atol=1e-6)


def test_two_ranks_validate_the_same_model(data, tmp_path):
    """In training each rank has its own running averages of batch norm; for validation both take those of rank 0."""
    setting = ["model.encoder_norm=batch", "lr_scheduler.warmup_steps=0", "optimization.max_update=3"]
    first, second = train_on_two_ranks(data, tmp_path, *setting, config="cpc_tiny")
    assert first["encoder.norms.0.running_mean"].any() and not differences(first, second)
    assert not differences(first, checkpoint(tmp_path)["model"])


def test_deepcluster_goes_on_from_cpc(data, trained, tmp_path):
    """With all weights of CPC, predictors included; it resumes bit for bit, and loads without the CPC checkpoint."""
    moved = tmp_path / "cpc.pt"
    moved.write_bytes(trained.read_bytes())
    model = deepcluster(data, tmp_path / "start", moved, "optimization.lr=[0.0]").get_model()
    cpc, *_ = load_model(trained)
    assert type(model) is CPCDeepCluster and type(cpc) is CPC and model.classifier.out_features == 5
    state = model.state_dict()
    assert not differences(cpc.state_dict(), {name: state[name] for name in cpc.state_dict()})
    deepcluster(data, tmp_path / "whole", moved)
    for end in (5, 12):
        deepcluster(data, tmp_path / "parts", moved, f"optimization.max_update={end}")
    assert not differences(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts"))
    again = deepcluster(
        data, tmp_path / "again", tmp_path / "whole/checkpoint_last.pt", "optimization.lr=[0.0]"
    ).get_model()  # the next round
    assert not differences(again.state_dict(), checkpoint(tmp_path / "whole")["model"])
    moved.unlink()
    assert load_model(tmp_path / "whole/checkpoint_last.pt")[0].cfg.num_classes == [5]
    state = torch.load(tmp_path / "whole/checkpoint_last.pt", weights_only=False)
    state["cfg"]["model"]["cpc_path"] = state["cfg"]["model"].pop("start_from")  # the field's earlier name
    torch.save(state, tmp_path / "earlier.pt")
    assert not differences(load_model(tmp_path / "earlier.pt")[0].state_dict(), state["model"])


@pytest.mark.parametrize("norm, context", [("channel", "lstm"), ("batch", "gru")])
def test_deepcluster_goes_on_from_cpc_audio(data, tmp_path, norm, context):
    """With all weights of a checkpoint in its layout; with new predictors if ``cpc`` does not have their kind."""
    model = reference(norm, {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[context])
    setting = [
        "optimization.lr=[0.0]",
        f"model.encoder_norm={norm}",
        f"model.context={context}",
        "optimization.max_update=5",
    ]
    source = save(tmp_path, model, linear_predictors(steps=4))
    ours = deepcluster(data, tmp_path / "linear", source, *setting).get_model().eval()
    cpc, *_ = load_model(source)
    learned = {
        name: value for name, value in cpc.state_dict().items() if "running" not in name and "tracked" not in name
    }
    assert not differences(learned, {name: ours.state_dict()[name] for name in learned})
    source = save(tmp_path, model, {"wPrediction.predictors.0.weight_ih_l0": torch.zeros(64, 16)})
    ours = deepcluster(data, tmp_path / "other", source, *setting, "model.steps=3").get_model()
    learned = {name: value for name, value in learned.items() if not name.startswith("predictors.")}
    assert not differences(learned, {name: ours.state_dict()[name] for name in learned}) and ours.predictors.steps == 3
    with pytest.raises(UserError, match="model.context_layers=2, not 4; set model.context_layers=2"):
        deepcluster(data, tmp_path / "size", source, *setting, "model.context_layers=4")


def test_two_ranks_equal_one_in_deepcluster(data, trained, tmp_path):
    setting = [f"model.start_from={trained}", "optimization.max_update=5"]
    first, _ = train_on_two_ranks(data, tmp_path / "two", *setting, config="deepcluster_tiny")
    train(data, tmp_path / "one", *setting, "optimization.update_freq=[2]", config="deepcluster_tiny")
    assert not differences(checkpoint(tmp_path / "one")["model"], first, rtol=1e-5, atol=1e-6)


def test_training_ends_when_the_joint_loss_gets_no_better(data, trained, tmp_path):
    """A learning rate that spoils everything: after patience validations, not after 40 epochs."""
    setting = [
        "optimization.lr=[1.0]",
        "optimization.max_update=0",
        "optimization.max_epoch=40",
        "checkpoint.patience=2",
        "lr_scheduler.warmup_steps=0",
    ]
    trainer = deepcluster(data, tmp_path, trained, *setting)
    assert trainer.get_num_updates() < 12 * 20


@pytest.mark.parametrize(
    "setting, message",
    [
        ("model.context_dim=24", "model.context_dim=16, not 24; set model.context_dim=16"),
        ("model.encoder_norm=batch", "encoder_norm=channel, not batch"),
        ("model.steps=3", "steps=4, not 3"),
    ],
)
def test_a_cpc_checkpoint_of_another_size(data, trained, tmp_path, setting, message):
    with pytest.raises(UserError, match=message):
        deepcluster(data, tmp_path, trained, setting)


@pytest.mark.parametrize(
    "setting, message",
    [
        ("task.window_samples=null", "task.window_samples: not given"),
        ("task.window_samples=700", "task.window_samples=700: 4 frames"),
    ],
)
def test_windows_are_checked_before_anything_is_read(data, tmp_path, setting, message):
    """fairseq would leave a crash.pt."""
    with pytest.raises(UserError, match=message):
        train(data, tmp_path / "run", setting, "task.data=/nowhere", config="cpc_tiny")
    assert not list(tmp_path.rglob("*.pt"))


def test_a_checkpoint_of_another_model(data, tmp_path):
    other = write_corpus(tmp_path / "other")
    train(other, tmp_path / "dinosr", "optimization.max_update=10")
    with pytest.raises(UserError, match="contains DinoSR, which is not a CPC model"):
        deepcluster(data, tmp_path / "run", tmp_path / "dinosr/checkpoint_last.pt")
    with pytest.raises(UserError, match="no such checkpoint"):
        deepcluster(data, tmp_path / "run", tmp_path / "none.pt")
    with pytest.raises(UserError, match="model.start_from: not given; add model.start_from=FILE"):
        train(data, tmp_path / "run", config="deepcluster_tiny")


def test_layers_are_read_from_a_checkpoint(trained):
    """``dinosr features``: whole utterances, padded together or alone, at 100 frames per second, not normalised."""
    torch.manual_seed(0)
    waves = [torch.randn(n) for n in (4000, 159, 2560, 4001)]
    reader = open_reader(trained)
    assert (reader.n_layers, reader.width, reader.grid) == (2, 16, FrameGrid(field=159, hop=160))
    assert (reader.normalize, reader.pads, reader.layer_kind) == (False, True, "recurrent layers")
    assert reader.rate == 100 and 0.0049 < reader.first_centre < 0.005
    read = reader.read(waves, [0, 1, "last"])
    cpc, *_ = load_model(trained)
    for wave, (first, second, last) in zip(waves, (frames.layers for frames in read)):
        features = cpc.extract_features(wave.unsqueeze(0))
        assert len(first) == reader.frames(len(wave)) == (len(wave) + 1) // 160 and torch.equal(second, last)
        for ours, (theirs, *_) in zip((first, second), features["layer_results"]):
            assert torch.allclose(ours, theirs[:, 0], atol=1e-5)
    assert not torch.allclose(
        open_reader(trained, weights="random").read(waves[:1], [1])[0].layers[0], read[0].layers[1]
    )
    with pytest.raises(UserError, match="no teacher"):
        open_reader(trained, weights="teacher")
    assert torch.allclose(load(trained).features(waves[0], layer=0), read[0].layers[0], atol=1e-5)
