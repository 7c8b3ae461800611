"""Continued pre-training: a model goes on with other data, and is validated on old and new data side by side."""

import logging
import re
from pathlib import Path

import pytest
import torch

from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.training_log import loss_curve, read_training_log
from support.training import checkpoint, differences, train, write_corpus

SCHEDULE = ["lr_scheduler.phase_ratio=null", "+lr_scheduler.warmup_steps=1", "+lr_scheduler.hold_steps=100"]
SCHEDULE += ["+lr_scheduler.decay_steps=10"]
VALIDATION = ["dataset.disable_validation=false", "dataset.validate_interval_updates=2"]
UPDATES = [0, 2, 4]


@pytest.fixture(scope="module", autouse=True)
def logged():
    """What the plug-in logs is in training.log, as outside of pytest."""
    logger = logging.getLogger("dinosr_plugin")
    level = logger.level
    logger.setLevel(logging.INFO)
    yield
    logger.setLevel(level)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> tuple[Path, Path]:
    """Folders of the old audio and of the new; the latter has old.tsv, which lists the old validation audio."""
    old, new = (tmp_path_factory.mktemp(name) for name in ("old", "new"))
    for split, lengths in (("train", [16000] * 8), ("valid", [16000, 17000, 21000])):
        write_corpus(old, split, lengths)
    write_corpus(new, "train", [18000] * 8)
    write_corpus(new, "valid", [20000, 16000])
    (new / "old.tsv").write_text((old / "valid.tsv").read_text())
    return old, new


@pytest.fixture(scope="module")
def first(data, tmp_path_factory) -> Path:
    """The folder of the run that another one starts from."""
    folder = tmp_path_factory.mktemp("first")
    train(data[0], folder, *SCHEDULE, *VALIDATION, "optimization.max_update=2", "optimization.lr=[0.01]")
    return folder


def go_on(data, first: Path, folder: Path, updates: int, *more: str) -> None:
    start = [f"model.start_from={first}/checkpoint_last.pt", "dataset.valid_subset='valid,old'"]
    train(data[1], folder, *SCHEDULE, *start, f"optimization.max_update={updates}", *more)


def losses(folder: Path, subset: str) -> list[tuple[int, float]]:
    return loss_curve(read_training_log(folder / "training.log", subset))


@pytest.fixture(scope="module")
def whole(data, first, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    go_on(data, first, folder, 4, *VALIDATION)
    return folder


def test_old_and_new_audio_are_validated_from_the_start(first, whole):
    """... under two names; what the model could do before is what it had reached in its first run."""
    curves = {subset: losses(whole, subset) for subset in ("valid", "old")}
    assert [[update for update, _ in curve] for curve in curves.values()] == [UPDATES, UPDATES]
    assert not {loss for _, loss in curves["valid"]} & {loss for _, loss in curves["old"]}
    assert curves["old"][0][1] == losses(first, "valid")[-1][1] != curves["old"][-1][1]


def test_one_line_has_the_figures_of_both(whole):
    """Those of checkpoint_best.pt's metric, the sum of all losses."""
    metric = {name: dict(total_loss(whole, name)) for name in ("valid", "old")}
    lines = re.findall(
        r"update (\d+): loss on valid (\S+?)(?: \((.*)\))?, old (\S+?)(?: \((.*?)\))?(;.*)?\n", read(whole)
    )
    assert [int(line[0]) for line in lines] == UPDATES and lines[0][2] == lines[0][4] == lines[0][5] == ""
    for update, *figures, rest in lines[1:]:
        for name, (now, change) in {"valid": figures[:2], "old": figures[2:]}.items():
            assert float(now) == pytest.approx(metric[name][int(update)], abs=6e-4)
            assert float(change) == pytest.approx(metric[name][int(update)] - metric[name][0], abs=2e-3)
        assert rest == "; in brackets the change since update 0"


def read(folder: Path) -> str:
    return (folder / "training.log").read_text()


def total_loss(folder: Path, subset: str) -> list[tuple[int, float]]:
    return [(int(one["num_updates"]), one["loss"]) for one in read_training_log(folder / "training.log", subset)]


def test_the_best_checkpoint_is_that_of_the_new_audio(whole):
    state = torch.load(whole / "checkpoint_last.pt", weights_only=False)
    assert state["extra_state"]["val_loss"] == pytest.approx(total_loss(whole, "valid")[-1][1], abs=1e-3)


def test_a_resumed_run_has_the_same_figures_and_remembers_the_first_ones(data, first, whole, tmp_path):
    for end in (3, 4):
        go_on(data, first, tmp_path, end, *VALIDATION)
    for subset in ("valid", "old"):
        figures = dict(losses(tmp_path, subset))
        assert figures.pop(3) and list(figures.items()) == losses(whole, subset)
    last = [re.findall(r"update 4: loss on .*", read(folder))[-1] for folder in (whole, tmp_path)]
    assert last[0] == last[1] and not differences(checkpoint(whole), checkpoint(tmp_path))


def test_validation_changes_no_weights_and_no_codebooks(data, first, whole, tmp_path):
    go_on(data, first, tmp_path, 4, "dataset.disable_validation=true")
    assert not differences(checkpoint(tmp_path)["model"], checkpoint(whole)["model"])
    assert not losses(tmp_path, "old")


def test_new_codebooks_and_a_run_that_resumes(data, first, whole, tmp_path):
    """... and whose codewords are placed once. One subset: no line for both."""
    for folder, ends in (("whole", (3,)), ("parts", (1, 3))):
        for end in ends:
            go_on(data, first, tmp_path / folder, end, "model.start_codebooks=new")
    states = [checkpoint(tmp_path / folder) for folder in ("whole", "parts")]
    assert not differences(*states)
    assert differences(states[0]["model"], checkpoint(whole)["model"])
    assert "codebooks and prediction heads start untrained (model.start_codebooks=new)" in read(tmp_path / "whole")
    assert "update 0: loss on" not in read(tmp_path / "whole")


def test_new_codebooks_without_a_model_to_start_from(data, tmp_path):
    message = (
        "^model.start_codebooks=new: without model.start_from all codebooks are new; set model.start_from=FILE, or"
    )
    with pytest.raises(UserError, match=message):
        train(data[1], tmp_path, *SCHEDULE, "model.start_codebooks=new")
