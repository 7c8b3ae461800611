"""Which checkpoint a run resumes from if the last one is damaged or missing."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fairseq import checkpoint_utils

from dinosr_plugin.errors import UserError
from dinosr_plugin.runs.resuming import checkpoint_changes
from support.checkpoints import Ranks, config, cut, punch_a_hole, put


@pytest.fixture
def run(tmp_path) -> Path:
    """Four updates of a run that saved every second one, and the best."""
    for name, updates in {"_1_2": 2, "_1_4": 4, "_best": 2, "_last": 4}.items():
        put(tmp_path / f"checkpoint{name}.pt", updates)
    return tmp_path


FAULTS = {
    "truncated": (cut, "truncated"),
    "empty": (lambda path: path.write_bytes(b""), "empty (0 bytes)"),
    "hole": (punch_a_hole, "damaged (checksums do not match)"),
    "text": (lambda path: path.write_text("hello " * 99), "not a PyTorch file"),
    "zeros": (lambda path: path.write_bytes(bytes(9999)), "not a PyTorch file"),
    "other": (lambda path: torch.save({"a": 1}, path), "not a checkpoint of a training run"),
    "object": (
        lambda path: torch.save({"args": SimpleNamespace()}, path),
        "contains a Python object of types.SimpleNamespace, which is not loaded from files",
    ),
}


def test_an_intact_last_checkpoint_is_left_to_fairseq(run, caplog):
    """Even if another has more updates: the user returned to an older one and continued training from there."""
    put(run / "checkpoint_9_9.pt", 9)
    assert checkpoint_changes(config(run)) == {}
    assert checkpoint_changes(config(run, restore_file=str(run / "checkpoint_last.pt"))) == {}
    link = run.with_name("link")
    link.symlink_to(run)
    assert checkpoint_changes(config(link, restore_file=str(run / "checkpoint_last.pt"))) == {}
    assert not caplog.messages


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_last_checkpoint_is_renamed(run, fault, caplog):
    damage, what = FAULTS[fault]
    last = run / "checkpoint_last.pt"
    damage(last)
    broken = last.read_bytes()
    changes = checkpoint_changes(config(run))
    assert changes == {"restore_file": str(run / "checkpoint_1_4.pt"), "finetune_from_model": None}
    choice = f"resuming from {run}/checkpoint_1_4.pt (4 updates), the newest intact checkpoint"
    assert caplog.messages == [f"{last}: {what}; renamed to checkpoint_last.pt.broken, {choice}"]
    assert not last.exists() and last.with_suffix(".pt.broken").read_bytes() == broken


def test_the_intact_checkpoint_with_most_updates_is_chosen(run, caplog):
    """Not a damaged one, one whose name or date alone is newer, one of another task, or an unfinished one."""
    (run / "checkpoint_last.pt").unlink()
    punch_a_hole(run / "checkpoint_1_4.pt")
    put(run / "checkpoint_1_6.pt", 6, task="dinosr_finetuning")
    put(run / "checkpoint_1_8.pt.tmp", 8)
    put(run / "checkpoint.best_loss_3.25.pt", 3)
    os.utime(run / "checkpoint_1_2.pt", (2e9, 2e9))
    put(run / "crash.pt", 9)
    assert checkpoint_changes(config(run))["restore_file"] == str(run / "checkpoint.best_loss_3.25.pt")
    (message,) = caplog.messages
    assert message.startswith(f"{run}/checkpoint_last.pt: no such file; resuming from")
    assert "to train from scratch use another checkpoint.save_dir" in message


def test_a_run_that_might_be_recovered_is_not_overwritten(run):
    for path in run.iterdir():
        cut(path)
    before = sorted(run.iterdir())
    message = (
        r"/checkpoint_last\.pt: truncated, and this run has no intact checkpoint in that folder; "
        r"copy one there, or use another checkpoint\.save_dir"
    )
    with pytest.raises(UserError, match=message):
        checkpoint_changes(config(run))
    assert sorted(run.iterdir()) == before
    (run / "checkpoint_last.pt").unlink()
    with pytest.raises(UserError, match=r"/checkpoint_1_2\.pt: truncated"):
        checkpoint_changes(config(run))


def test_an_empty_folder_starts_a_run(tmp_path, caplog):
    assert checkpoint_changes(config(tmp_path)) == {} == checkpoint_changes(config(tmp_path / "missing"))
    put(tmp_path / "checkpoint_1_6.pt", 6, task="dinosr_finetuning")
    assert checkpoint_changes(config(tmp_path)) == {} and not caplog.messages


@pytest.mark.parametrize("field", ["restore_file", "continue_once", "finetune_from_model"])
def test_the_checkpoint_that_a_run_starts_from_must_be_intact(tmp_path, field):
    start = put(tmp_path / "start.pt", 4)
    cfg = config(tmp_path / "new", **{field: str(start)})
    assert checkpoint_changes(cfg) == {}
    cut(start)
    message = rf"checkpoint\.{field}={start}: truncated; give the absolute path of an intact checkpoint$"
    with pytest.raises(UserError, match=message):
        checkpoint_changes(cfg)
    start.unlink()
    with pytest.raises(UserError, match=rf"checkpoint\.{field}={start}: no such file; give"):
        checkpoint_changes(cfg)


def test_the_same_command_again_keeps_the_progress(run, caplog):
    """A ``restore_file`` only starts the run; but a file that is named for the first time is loaded."""
    start = str(run / "checkpoint_1_2.pt")
    cfg = config(run, restore_file=start, reset_optimizer=True)
    assert checkpoint_changes(cfg) == {}
    assert caplog.messages == [
        f"checkpoint.restore_file={start} is loaded, and {run}/checkpoint_last.pt will be overwritten; "
        "to resume from the latter remove restore_file"
    ]
    last = put(run / "checkpoint_last.pt", 3, restore_file=start)
    changes = checkpoint_changes(cfg)
    assert changes["restore_file"] == str(last) and changes["reset_optimizer"] is False
    assert f"this run started from it and now resumes from {last}" in caplog.messages[-1]
    put(run / "checkpoint_2_3.pt", 3, restore_file=start)
    cut(last)
    assert checkpoint_changes(cfg)["restore_file"] == str(run / "checkpoint_2_3.pt")


def test_the_same_restore_file_by_another_name_keeps_the_progress(run, tmp_path_factory, monkeypatch):
    """Absolute instead of relative, or through a link; ``checkpoint_last.pt``, fairseq's default, is no such name."""
    start = put(tmp_path_factory.mktemp("other") / "checkpoint_last.pt", 1)
    put(run / "checkpoint_last.pt", 3, restore_file="start.pt")
    monkeypatch.chdir(start.parent)
    (start.parent / "start.pt").symlink_to(start)
    for name in ("start.pt", "./start.pt", str(start)):
        changes = checkpoint_changes(config(run, restore_file=name))
        assert changes["restore_file"] == str(run / "checkpoint_last.pt")
    put(run / "checkpoint_last.pt", 3)
    assert checkpoint_changes(config(run, restore_file=str(start))) == {}


def test_all_ranks_load_the_same_file(run, monkeypatch):
    """Rank 1 arrives after rank 0 has renamed the damaged file; later checkpoints contain the user's settings."""
    ranks, loaded, cfg = Ranks(monkeypatch), [], config(run, finetune_from_model="start.pt")
    cut(run / "checkpoint_last.pt")
    for ranks.rank in (0, 1):
        checkpoint_utils.load_checkpoint(cfg.checkpoint, ranks.trainer(cfg, loaded))
    assert loaded == [str(run / "checkpoint_1_4.pt")] * 2 and not ranks.sent
    assert cfg.checkpoint.restore_file == "checkpoint_last.pt" and cfg.checkpoint.finetune_from_model == "start.pt"


def test_all_ranks_stop_together(run, monkeypatch):
    ranks, loaded = Ranks(monkeypatch), []
    for path in run.iterdir():
        cut(path)
    for ranks.rank in (0, 1):
        with pytest.raises(UserError, match="truncated"):
            checkpoint_utils.load_checkpoint(config(run).checkpoint, ranks.trainer(config(run), loaded))
    assert not loaded and not ranks.sent
