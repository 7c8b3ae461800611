"""R-Spin through fairseq's trainer, with acoustic pieces of a model's units as labels and noise in both views."""

import math
from pathlib import Path

import pytest
import torch

from dinosr_plugin.cli import main
from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.training_log import read_training_log
from support.paths import GOLDEN
from support.training import checkpoint, differences, train, train_on_two_ranks, write_corpus

pytest.importorskip("sentencepiece", reason="pip install sentencepiece")
PIECES = 20


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """``train.tsv`` with pieces of the units of a tiny model, and ``noise.tsv``."""
    folder = write_corpus(tmp_path_factory.mktemp("data"), lengths=[16000, 12000, 17000, 9000, 16000, 11000])
    model = str(GOLDEN / "official_format_tiny.pt")
    command = ["units", model, str(folder / "train.tsv"), "--codebooks", "1", "--pieces", str(PIECES), "--out"]
    assert main([*command, str(folder / "train.ap")]) == 0
    return write_corpus(folder, "noise", [3000, 20000])


def settings(data: Path, updates: int) -> list[str]:
    noise = ["task.views=noise/equalizer+noise", f"task.noise={data}/noise.tsv", "task.max_sample_size=14000"]
    return [*noise, f"optimization.max_update={updates}", "lr_scheduler.warmup_updates=1", "model.trained_layers=[]"]


def r_spin(data: Path, save_dir: Path, updates: int, *overrides: str):
    return train(data, save_dir, *settings(data, updates), *overrides, config="r_spin_tiny")


def test_both_losses_fall_and_labels_are_predicted_above_chance(data, tmp_path):
    log = f"common.log_file={tmp_path}/log"
    model = r_spin(data, tmp_path, 60, log, "optimization.lr=[0.01]", "task.noise_snr=[20,30]").get_model()
    assert model.cfg.num_classes == [PIECES] and model.cfg.trained_layers == [0, 1]
    records = read_training_log(tmp_path / "log")
    first, last = (
        {name: sum(r[name] for r in part) / len(part) for name in part[0]} for part in (records[:6], records[-12:])
    )
    assert last["loss_spin"] < first["loss_spin"] and last["loss_aux"] < first["loss_aux"]
    assert first["loss_aux"] == pytest.approx(5 * math.log(PIECES), rel=0.3)
    labels = (data / "train.ap").read_text().split()
    chance = max(map(labels.count, set(labels))) / len(labels)  # always the most frequent label
    assert last["aux_accuracy"] > 1.2 * chance


def test_a_run_resumes_exactly_with_noise_and_labels(data, tmp_path):
    r_spin(data, tmp_path / "whole", 4)
    r_spin(data, tmp_path / "parts", 2, "+lr_scheduler.total_num_update=4")
    r_spin(data, tmp_path / "parts", 4)
    assert differences(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")) == []


def test_ranks_have_the_same_weights_also_after_a_dummy_batch(data, tmp_path):
    """Six utterances in batches of one or two: a rank has a batch less than the other."""
    one_each = ["dataset.max_tokens=24000", "dataset.batch_size=2"]
    ranks = train_on_two_ranks(data, tmp_path, *settings(data, 3), *one_each, config="r_spin_tiny")
    assert differences(*ranks) == [] and all(torch.isfinite(value).all() for value in ranks[0].values())


@pytest.mark.parametrize("setting", ["common.bf16=true", "model.checkpoint_activations=true"])
def test_other_precision_and_recomputed_activations(data, tmp_path, setting):
    model = r_spin(data, tmp_path, 2, setting).get_model()
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_it_starts_from_spin_or_itself_and_sizes_are_those_of_the_file(data, tmp_path):
    r_spin(data, tmp_path / "first", 1)
    start = f"model.start_from={tmp_path}/first/checkpoint_last.pt"
    model = r_spin(data, tmp_path / "second", 1, start, "optimization.lr=[0]", "++model.encoder_layers=5").get_model()
    first = checkpoint(tmp_path / "first")["model"]
    assert model.n_layers == 2 and differences(dict(model.state_dict()), dict(first), atol=1e-6) == []


@pytest.mark.parametrize(
    "setting, message",
    [
        ("task.labels=null", "task.labels: not given, but model=r_spin predicts labels"),
        ("task.views=noise", "task.views=noise: 1 view, but model=r_spin learns from 2 of each utterance"),
        ("task.noise=null", "task.views=noise/equalizer.noise: adds noise, but task.noise is not given"),
        ("model.num_classes=[5]", r"model.num_classes=\[5\]: the label sets of task.labels have \[20\] labels"),
        ("+task.relabel_every=1", "task.relabel_every=1: R-Spin learns from fixed labels"),
    ],
)
def test_data_that_is_missing(data, tmp_path, setting, message):
    with pytest.raises(UserError, match=message):
        r_spin(data, tmp_path, 1, setting)
