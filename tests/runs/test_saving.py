"""Checkpoints are written completely or not at all, and a run survives when one cannot be written."""

import logging
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager

from dinosr_plugin.errors import UserError
from dinosr_plugin.runs import resuming, stopping
from dinosr_plugin.runs.saving import NotSaved
from support.checkpoints import config, cut, state_of
from support.training import command, train, write_corpus


def save(cfg, updates: int, loss: float = 1.0, next_epoch: int = 1):
    """fairseq's save after so many updates, in the middle of an epoch: the path, or None if nothing was saved."""

    def write(path, extra_state):
        checkpoint_utils.torch_persistent_save(state_of(updates, cfg), path)
        return path

    trainer = SimpleNamespace(
        data_parallel_rank=0,
        should_save_checkpoint_on_current_rank=True,
        checkpoint_suffix="",
        cfg=cfg,
        task=None,
        consolidate_optimizer=lambda: None,
        get_num_updates=lambda: updates,
        save_checkpoint=write,
        cumulative_training_time=lambda: 1.0,
    )
    iterator = SimpleNamespace(epoch=1, next_epoch_idx=next_epoch, end_of_epoch=lambda: False, state_dict=dict)
    return checkpoint_utils.save_checkpoint(cfg.checkpoint, trainer, iterator, loss)


def updates_in(folder: Path) -> dict[str, int]:
    return {path.name: resuming.updates(torch.load(path)) for path in sorted(folder.glob("*.pt"))}


def test_a_kill_while_a_checkpoint_is_copied_leaves_the_older_one(tmp_path, monkeypatch):
    """fairseq copies the newest checkpoint to checkpoint_last.pt: it is replaced in one moment, or not at all."""
    new, last = tmp_path / "checkpoint_1_2.pt", tmp_path / "checkpoint_last.pt"
    new.write_text("new")
    last.write_text("old")

    def killed(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            PathManager.copy(str(new), str(last), overwrite=True)
    assert last.read_text() == "old"
    assert PathManager.copy(str(new), str(last), overwrite=True) and last.read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == [new.name, last.name]


AFTER_FAILURE = {  # file that cannot be written in the second save (4 updates, a better loss) -> updates in the folder
    "checkpoint_1_4.pt": {"_1_2": 2, "_best": 2, "_last": 2},
    "checkpoint_best.pt": {"_1_2": 2, "_1_4": 4, "_best": 2, "_last": 2},
    "checkpoint_last.pt": {"_1_2": 2, "_1_4": 4, "_best": 4, "_last": 2},
}


@pytest.mark.parametrize("full", AFTER_FAILURE)
def test_a_full_disk_costs_one_save(tmp_path, full, caplog):
    """The temporary name is a link to /dev/full: a real ENOSPC, while writing and while copying."""
    cfg = config(tmp_path, save_interval_updates=2, keep_interval_updates=1)
    assert save(cfg, 2, loss=1.0)
    (tmp_path / f"{full}.tmp").symlink_to("/dev/full")
    caplog.clear()
    assert save(cfg, 4, loss=0.5) is None
    assert updates_in(tmp_path) == {f"checkpoint{name}.pt": number for name, number in AFTER_FAILURE[full].items()}
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        f"{tmp_path}/{full}: cannot be written (No space left on device); free some disk space: "
        "training continues, older checkpoints are kept, and the next save tries again"
    ]
    assert save(cfg, 6, loss=0.75)
    best = 4 if full == "checkpoint_last.pt" else 6  # the best of the checkpoints on the disk
    assert updates_in(tmp_path) == {"checkpoint_1_6.pt": 6, "checkpoint_best.pt": best, "checkpoint_last.pt": 6}


def test_a_file_grows_too_large(tmp_path):
    """The system's limit on the size of files: torch.save raises an error of its own from this one."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
        with pytest.raises(NotSaved) as caught:
            checkpoint_utils.torch_persistent_save({"w": torch.randn(50, 50)}, str(tmp_path / "model.pt"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(tmp_path / "model.pt") and not list(tmp_path.iterdir())


def test_other_errors_while_saving_are_not_changed(tmp_path):
    with pytest.raises(AttributeError, match="local object"):  # the message of pickle
        checkpoint_utils.torch_persistent_save({"f": lambda: None}, str(tmp_path / "model.pt"))


LAST_SAVE = (
    r"/checkpoint_1_4\.pt: cannot be written \(No space left on device\); free some disk space, then run the same"
)


@pytest.mark.parametrize("limit", [{"max_update": 4}, {"max_update": 0, "max_epoch": 1}, {"stop_time_hours": 1e-6}])
def test_failure_of_the_last_save_is_an_error(tmp_path, limit):
    cfg = config(tmp_path, save_interval_updates=2)
    cfg.optimization.update(limit)
    (tmp_path / "checkpoint_1_4.pt.tmp").symlink_to("/dev/full")
    with pytest.raises(UserError, match=LAST_SAVE):
        save(cfg, 4, next_epoch=2)


def test_failure_of_the_save_of_a_run_that_stops_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(stopping, "agreed", lambda: SystemExit(143))
    (tmp_path / "checkpoint_1_4.pt.tmp").symlink_to("/dev/full")
    with pytest.raises(UserError, match=LAST_SAVE):
        save(config(tmp_path, save_interval_updates=2), 4)


# -- a whole run -----------------------------------------------------------------------------------------------------


def settings(max_update: int) -> list[str]:
    """Eight updates in an epoch, each on one file of 1 s."""
    return ["dataset.max_tokens=16000", "checkpoint.save_interval_updates=2", f"optimization.max_update={max_update}"]


def test_a_run_survives_a_damaged_checkpoint_and_a_full_disk(tmp_path, commands):
    corpus, folder = write_corpus(tmp_path / "data", lengths=[16000] * 8), tmp_path / "run"
    train(corpus, folder, *settings(4))
    assert updates_in(folder) == {"checkpoint_1_2.pt": 2, "checkpoint_1_4.pt": 4, "checkpoint_last.pt": 4}
    cut(folder / "checkpoint_1_4.pt")
    cut(folder / "checkpoint_last.pt")
    (folder / "checkpoint_1_4.pt.tmp").symlink_to("/dev/full")

    _, *arguments = command(corpus, folder, *settings(6))
    program = commands / "fairseq-hydra-train"
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    log = done.stdout + done.stderr
    assert done.returncode == 0, log
    for expected in (
        f"{folder}/checkpoint_last.pt: truncated; renamed to checkpoint_last.pt.broken, "
        f"resuming from {folder}/checkpoint_1_2.pt (2 updates)",
        f"Loaded checkpoint {folder}/checkpoint_1_2.pt (epoch 1 @ 2 updates)",
        f"{folder}/checkpoint_1_4.pt: cannot be written (No space left on device); free some disk space: training",
    ):
        assert expected in log
    (folder / "checkpoint_last.pt.broken").unlink()
    (folder / "checkpoint_1_4.pt").unlink()  # still the damaged one
    assert updates_in(folder) == {"checkpoint_1_2.pt": 2, "checkpoint_1_6.pt": 6, "checkpoint_last.pt": 6}

    (folder / "checkpoint_last.pt.tmp").symlink_to("/dev/full")  # the only file of a save at the end of an epoch
    message = r"checkpoint_last\.pt: cannot be written .* run the same command again to resume from the newest"
    with pytest.raises(UserError, match=message):
        train(corpus, folder, *settings(8))
