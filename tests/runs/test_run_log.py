"""The bar of a training on a terminal, and its log, ``save_dir/training.log``."""

import io
import json
import logging
import sys

import pytest
from fairseq.logging import progress_bar

from dinosr_plugin.evaluation.training_log import loss_curve, read_training_log
from dinosr_plugin.runs import ending, run_log
from support.training import train, write_corpus

STATS = {"loss": 1.25, "num_updates": 3, "lr": 0.01, "masked_frames": 500}
OF_TRAINING = {"epoch": 1, "log_interval": 1, "default_log_format": "tqdm"}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def log(tmp_path, caplog):
    """The log of a training in this process, and what fairseq logs at INFO."""
    caplog.set_level(logging.INFO, progress_bar.logger.name)
    run_log.open_log(tmp_path)
    yield tmp_path / run_log.NAME
    ending.at_end.close()


def figures(log) -> list[dict]:
    lines = log.read_text().splitlines()
    return [json.loads(line[line.index("{") :]) for line in lines if "{" in line]


def test_a_terminal_gets_a_bar_and_the_log_the_figures(log, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    bar = progress_bar.progress_bar([10, 20], None, **OF_TRAINING)
    assert [bar.log(STATS, tag="train_inner", step=3) or sample for sample in bar] == [10, 20]
    bar.print(STATS, tag="train")
    shown, printed = terminal.getvalue(), capsys.readouterr().out
    assert (
        "epoch 001:   0%" in shown
        and "loss=1.25" in shown
        and "update=3" in shown
        and "masked_frames" not in shown
        and "{" not in shown
    )
    assert printed == "epoch 001 | loss 1.25 | update 3 | lr 0.01 | masked_frames 500\n"
    one, other, epoch = figures(log)
    assert one["loss"] == other["loss"] == "1.25" and one["num_updates"] == "3" and epoch["train_loss"] == "1.25"
    assert "[train_inner][INFO] - {" in log.read_text() and progress_bar.logger.propagate


@pytest.mark.parametrize(
    "fields, terminal",
    [
        ({}, False),  # output to a file
        ({"default_log_format": "simple"}, True),  # common.no_progress_bar=true
        ({"log_format": "json"}, True),
    ],
)
def test_otherwise_lines_of_json_are_logged(log, monkeypatch, fields, terminal):
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    bar = progress_bar.progress_bar([10, 20], **{"log_format": None, **OF_TRAINING, **fields})
    assert isinstance(bar, progress_bar.JsonProgressBar)
    for _ in bar:
        bar.log(STATS, tag="train_inner", step=1)
    assert [one["loss"] for one in figures(log)] == ["1.25"] * 2


def test_bars_of_other_programs_stay(monkeypatch):
    """fairseq-generate's has no epochs."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    bar = progress_bar.progress_bar([1], log_format=None, log_interval=1, default_log_format="tqdm")
    assert isinstance(bar, progress_bar.TqdmProgressBar)


def test_a_resumed_epoch_continues_its_bar(monkeypatch, caplog):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    caplog.set_level(logging.INFO, progress_bar.logger.name)

    class Rest(list):
        n = 3

    list(progress_bar.progress_bar(Rest([1] * 4), None, **OF_TRAINING))
    assert "3/4" in terminal.getvalue()


def test_only_one_of_several_processes_shows_a_bar(monkeypatch, capsys, caplog):
    """fairseq sets the level of the others to WARNING."""
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    caplog.set_level(logging.WARNING, progress_bar.logger.name)
    bar = progress_bar.progress_bar([1, 2], None, **OF_TRAINING)
    assert list(bar) == [1, 2]
    bar.print(STATS, tag="train")
    assert terminal.getvalue() == capsys.readouterr().out == ""


def test_the_log_of_a_training_has_its_curve_and_is_continued(tmp_path, caplog):
    """It has everything that is logged at INFO, also what the plug-in says, and is closed when the training ends."""
    data = write_corpus(tmp_path, lengths=[16000] * 4)
    caplog.set_level(logging.INFO)
    for updates in (2, 3):
        train(data, tmp_path / "run", f"optimization.max_update={updates}")
    log = tmp_path / "run" / run_log.NAME
    assert [update for update, _ in loss_curve(read_training_log(log))] == [1, 2, 3]
    assert not any(getattr(handler, "baseFilename", "") == str(log) for handler in logging.getLogger().handlers)


def test_a_log_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / run_log.NAME).mkdir()
    with pytest.raises(ValueError, match="training.log: "):
        run_log.open_log(tmp_path)
