"""Reading fairseq's JSON log."""

import pytest
from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.training_log import curve, read_training_log

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


def test_a_resumed_run_counts_once(tmp_path):
    log = tmp_path / "train.log"
    log.write_text(LOG + RESUMED)
    assert curve(read_training_log(log), "loss") == [(10, 4.5), (20, 4.3), (30, 4.1)]


def test_missing_log(tmp_path):
    with pytest.raises(UserError, match="absent.log.*log_file"):
        read_training_log(tmp_path / "absent.log")
