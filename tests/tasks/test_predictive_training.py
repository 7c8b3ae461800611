"""APC, MPC and CPC on log-Mel frames through fairseq's trainer: every config, the log, resuming, ranks, commands."""

from pathlib import Path

import pytest
import torch

from dinosr_plugin import cli
from dinosr_plugin.checkpoints.load import load_model
from dinosr_plugin.checkpoints.opening import open_reader
from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.training_log import read_training_log
from dinosr_plugin.units.store import FeatureFolder
from support.training import checkpoint, differences, train, train_on_two_ranks, write_corpus

LENGTHS = [16000, 17000, 21000, 16500, 18000, 16000]
ON_A_CPU = ["common.cpu=true", "distributed_training.distributed_backend=gloo"]
NINE = {
    "apc_fw_rnn": 16, "apc_fwbw_rnn": 32, "apc_fw_trf": 16, "apc_fwbw_trf": 32, "mpc_birnn": 16, "mpc_trf": 16,
    "cpc_mixed_rnn": 16, "cpc_within_rnn": 16, "cpc_within_cnn": 16,
}  # fmt: skip
"""Configs of the nine models -> width of a layer of their small versions."""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "valid"):
        write_corpus(folder, split, LENGTHS)
    return folder


def run(data, save_dir, config: str, updates: int, *more: str, ranks: int = 1):
    function = train if ranks == 1 else train_on_two_ranks
    return function(data, save_dir, *ON_A_CPU, f"optimization.max_update={updates}", *more, config=config)


@pytest.fixture(scope="module", params=NINE)
def trained(request, data, tmp_path_factory) -> tuple[str, Path]:
    """(name of a config, checkpoint after 3 updates of its small version, with its log beside it)."""
    folder = tmp_path_factory.mktemp(request.param)
    run(data, folder, request.param, 3, f"common.log_file={folder}/log")
    return request.param, folder / "checkpoint_last.pt"


def test_every_config_trains_and_its_checkpoint_is_read(trained):
    config, path = trained
    reader = open_reader(path)
    assert (reader.rate, reader.first_centre, reader.pads, reader.width) == (100, 0.0125, True, NINE[config])
    assert reader.n_layers == (3 if config.startswith("cpc") else 2) and reader.untrained().weights == "random"
    sounds = [torch.randn(n, generator=torch.Generator().manual_seed(n)) for n in (9000, 4000)]
    for sound, frames in zip(sounds, reader.read(sounds, range(reader.n_layers)), strict=True):
        n = 1 + (len(sound) - 400) // 160
        assert [x.shape for x in frames.layers] == [(n, reader.width)] * reader.n_layers
        for x, alone in zip(frames.layers, reader.read([sound], range(reader.n_layers))[0].layers, strict=True):
            torch.testing.assert_close(x, alone, rtol=0, atol=1e-4)


def test_what_is_logged(trained):
    """The losses, those that a model must be better than, and the number of predicted frames."""
    config, path = trained
    (first, *_), kind = read_training_log(path.with_name("log")), config[:3]
    if kind == "cpc":
        assert first["anchors"] == 2 * (18 - 4) and "accuracy_4" in first
        return
    assert 0.5 < first["mean_loss"] < 1 and 0.5 < first["loss"] < 1.5
    assert ("copy_loss" in first) == (kind == "apc") and ("backward_loss" in first) == ("fwbw" in config)
    if "fwbw" in config:
        assert first["loss"] == pytest.approx((first["forward_loss"] + first["backward_loss"]) / 2, abs=1e-3)
    if kind == "apc":  # of 2 of the 6 utterances, 98 to 129 frames each, all but the first 3
        assert 2 * 95 <= first["predicted_frames"] / (2 if "fwbw" in config else 1) <= 2 * 127
    else:
        assert 2 <= first["masked_frames"] <= 2 * 129 * 0.3


@pytest.mark.parametrize("config, more", [
    ("apc_fwbw_trf", ["model.positions=convolution"]),
    ("apc_fwbw_rnn", ["model.dropout=0.1", "common.bf16=true"]),
    ("mpc_birnn", ["task.max_sample_size=12000"]),
    ("mpc_trf", []),
    ("cpc_within_cnn", ["task.negatives=mixed"]),
])  # fmt: skip
def test_a_resumed_run_is_bit_identical(data, tmp_path, config, more):
    setting = [*more, "optimization.update_freq=[2]", "dataset.disable_validation=true"]
    run(data, tmp_path / "whole", config, 4, *setting)
    for end in (1, 3, 4):
        run(data, tmp_path / "parts", config, end, *setting)
    assert checkpoint(tmp_path / "parts")["updates"] == 4
    assert not differences(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts"))


def test_two_ranks_are_one_with_twice_the_micro_batches(data, tmp_path):
    """Masks depend on the utterance, not on the rank."""
    setting = ["model.dropout=0.0", "dataset.disable_validation=true"]
    first, second = run(data, tmp_path / "ranks", "mpc_trf", 3, *setting, ranks=2)
    assert not differences(first, second)
    run(data, tmp_path / "one", "mpc_trf", 3, *setting, "optimization.update_freq=[2]")
    assert not differences(first, checkpoint(tmp_path / "one")["model"], rtol=1e-4, atol=1e-5)


def test_another_shift_does_not_resume_but_starts_a_run(data, tmp_path):
    run(data, tmp_path / "run", "apc_fw_rnn", 1)
    with pytest.raises(UserError, match="was made with model.shift=3, here 5"):
        run(data, tmp_path / "run", "apc_fw_rnn", 2, "model.shift=5")
    start = [f"model.start_from={tmp_path}/run/checkpoint_last.pt", "model.shift=5", "optimization.lr=[0.0]"]
    run(data, tmp_path / "other", "apc_fw_rnn", 1, *start)
    first, second = (load_model(tmp_path / name / "checkpoint_last.pt").model for name in ("run", "other"))
    assert not differences(first.state_dict(), second.state_dict())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_checkpoint_without_the_new_settings_of_cpc(data, tmp_path):
    """One of an earlier version: the defaults are what it was trained with."""
    trainer = train(data, tmp_path, "optimization.max_update=1", "task.negatives=mixed", config="cpc_tiny")
    state = torch.load(tmp_path / "checkpoint_last.pt", weights_only=False)
    for name in ("front_end", "n_mels"):
        del state["cfg"]["model"][name]
    state["extra_state"]["made_with"]["model"].pop("model.front_end")
    torch.save(state, tmp_path / "checkpoint_last.pt")
    model = load_model(tmp_path / "checkpoint_last.pt").model
    assert model.cfg.front_end == "waveform" and not differences(model.state_dict(), trainer.get_model().state_dict())
    train(data, tmp_path, "optimization.max_update=2", "task.negatives=mixed", config="cpc_tiny")
    assert checkpoint(tmp_path)["updates"] == 2


@pytest.mark.parametrize("trained", ["apc_fwbw_trf", "cpc_within_cnn"], indirect=True)
def test_features_and_clusters_of_a_checkpoint(trained, data, tmp_path):
    """By the commands."""
    config, path = trained
    manifest, out = str(data / "valid.tsv"), tmp_path
    assert cli.main(["features", str(path), manifest, "--layer", "all", "--out", str(out / "features")]) == 0
    folder = FeatureFolder(out / "features/layer_1")
    assert (folder.rate, folder.first_centre, folder.width) == (100, 0.0125, NINE[config])
    fit = ["kmeans", "fit", str(path), "--layer", "1", "--manifest", manifest, "--clusters", "3"]
    assert cli.main([*fit, "--out", str(out / "kmeans.npz")]) == 0
    assert cli.main(["kmeans", "apply", str(out / "kmeans.npz"), str(path), manifest, "--out", str(out / "km")]) == 0
    lengths = [len(line.split()) for line in (out / "km").read_text().splitlines()]
    assert lengths == folder.lengths.tolist() == [1 + (n - 400) // 160 for n in LENGTHS]
