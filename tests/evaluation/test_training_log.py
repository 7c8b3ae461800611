"""Reading fairseq's logs: JSON and TensorBoard files."""

import os
import sys

import pytest
from tensorboardX import SummaryWriter

from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.training_log import (
    NAME,
    curve,
    log_beside,
    read_pretraining_log,
    read_training_log,
    validation_losses,
)
from dinosr_plugin.runs import run_log
from support.limits import at_most

LOG = """Namespace {not json}
{"epoch": 1, "update": 0.5, "loss": "4.5", "num_updates": "10", "lr": "0.001", "clip": "no"}
[2026-01-01 00:00:00,000][train_inner][INFO] - {"epoch": 1, "loss": "4.25", "num_updates": "20"}
{"epoch": 1, "train_loss": "4.4", "train_num_updates": "20"}
{"epoch": 1, "dev_loss": "70.5", "dev_wer": "99.5", "dev_num_updates": "20"}
{"epoch": 1, "loss": "4.0", "num_upd"""

RESUMED = '\n{"epoch": 1, "loss": "4.3", "num_updates": "20"}\n{"epoch": 1, "loss": "4.1", "num_updates": "30"}\n'


def test_kinds_of_records(tmp_path):
    log = tmp_path / "train.log"
    log.write_text(LOG)
    assert curve(read_training_log(log), "loss") == [(10, 4.5), (20, 4.25)]
    assert curve(read_training_log(log, "train"), "loss") == [(20, 4.4)]
    assert curve(read_training_log(log, "dev"), "wer") == [(20, 99.5)]
    assert curve(read_training_log(log), "wer") == []
    assert read_training_log(log)[0]["lr"] == 0.001 and "clip" not in read_training_log(log)[0]


def test_losses_of_each_validation_subset(tmp_path):
    """... of a log and of TensorBoard's folder."""
    old = '{"old_loss_dinosr": "3.5", "old_loss": "5", "old_num_updates": "40"}'
    (tmp_path / "train.log").write_text(f"{LOG}\n{old}\n")
    expected = {"dev": [(20, 70.5)], "old": [(40, 3.5)]}
    assert validation_losses(tmp_path / "train.log") == expected
    for subset, points in {"train_inner": [(1, 9.0)], "train": [(2, 9.0)], **expected}.items():
        with SummaryWriter(str(tmp_path / "tb" / subset)) as writer:
            for update, value in points:
                writer.add_scalar("loss", value, update)
    assert validation_losses(tmp_path / "tb") == expected
    with pytest.raises(UserError, match="no such log"):
        validation_losses(tmp_path / "none")


def test_repeated_updates_of_a_resumed_run_count_once(tmp_path):
    log = tmp_path / "train.log"
    log.write_text(LOG + RESUMED)
    assert curve(read_training_log(log), "loss") == [(10, 4.5), (20, 4.3), (30, 4.1)]


def test_a_damaged_log_is_read_as_far_as_possible(tmp_path):
    log = tmp_path / "train.log"
    log.write_bytes(
        LOG.encode() + b"\n\0\0\0\n\xff\xfe\n" + b'{"loss": "4", "num_updates": "inf"}\n{"a":' * 3 + RESUMED.encode()
    )
    assert curve(read_training_log(log), "loss") == [(10, 4.5), (20, 4.3), (30, 4.1)]
    log.write_text(LOG, encoding="utf-16")  # of a shell on Windows
    assert curve(read_training_log(log), "loss") == [(10, 4.5), (20, 4.25)]


@pytest.mark.parametrize(
    "line", ['{"num_updates": "nan"}', '{"num_updates": 1' + "0" * 400 + "}", '{"a":' * 5000, "{1}"]
)
def test_a_line_that_is_no_record_is_ignored(line, tmp_path):
    (tmp_path / "train.log").write_text(f"{line}\n{LOG}")
    assert curve(read_training_log(tmp_path / "train.log"), "loss") == [(10, 4.5), (20, 4.25)]


def test_the_log_beside_a_checkpoint_is_used_if_it_has_a_loss(tmp_path):
    assert NAME == run_log.NAME
    checkpoint = tmp_path / "checkpoint_last.pt"
    assert log_beside(checkpoint) is None
    (tmp_path / NAME).write_text("nothing yet\n")
    assert log_beside(checkpoint) is None
    (tmp_path / NAME).write_text(LOG)
    assert log_beside(checkpoint) == tmp_path / NAME


def test_a_training_shorter_than_the_log_interval(tmp_path):
    """Only the record of the whole epoch has its loss."""
    (tmp_path / NAME).write_text('{"epoch": 1, "train_loss": "4.4", "train_num_updates": "3"}\n')
    assert curve(read_pretraining_log(tmp_path / NAME), "loss") == [(3, 4.4)]
    assert log_beside(tmp_path / "checkpoint_last.pt") == tmp_path / NAME
    write_events(tmp_path / "tb/train", 10, 10, offset=5)
    (tmp_path / "tb/train_inner").mkdir()
    assert curve(read_pretraining_log(tmp_path / "tb"), "loss") == [(10, pytest.approx(4.9))]


def test_missing_log(tmp_path):
    with pytest.raises(UserError, match="absent.log: no such log; give the training.log"):
        read_training_log(tmp_path / "absent.log")


def write_events(folder, first: int, last: int, offset: float) -> None:
    """Event files as written with common.tensorboard_logdir: one for each start of the run."""
    with SummaryWriter(str(folder), filename_suffix=f".{offset}") as writer:
        for update in range(first, last + 1, 10):
            writer.add_scalar("loss", offset - update / 100, update)
            writer.add_scalar("loss_0", offset, update)


def test_event_files_of_a_resumed_run(tmp_path):
    write_events(tmp_path / "train_inner", 10, 30, offset=5)
    write_events(tmp_path / "train_inner", 20, 40, offset=4)  # resumed from update 10
    write_events(tmp_path / "dev", 10, 10, offset=7)
    expected = [(10, 4.9), (20, 3.8), (30, 3.7), (40, 3.6)]
    for path in (tmp_path, tmp_path / "train_inner"):
        records = read_training_log(path)
        assert curve(records, "loss") == [(update, pytest.approx(value)) for update, value in expected]
        assert curve(records, "loss_0") == [(10, 5), (20, 4), (30, 4), (40, 4)]
    assert curve(read_training_log(tmp_path, "dev"), "loss_0") == [(10, 7)]
    (tmp_path / "empty").mkdir()
    assert read_training_log(tmp_path / "empty") == []


def test_a_pipe_among_event_files_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "events.out.tfevents.1.host")
    with at_most(10), pytest.raises(UserError, match="tfevents.1.host: is a pipe or a device"):
        read_training_log(tmp_path)


def test_event_files_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_accumulator", None)
    with pytest.raises(UserError, match="`pip install tensorboard`, or give the JSON log"):
        read_training_log(tmp_path)
