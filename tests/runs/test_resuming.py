"""Which checkpoint a run goes on from where the last is damaged, and what stays where none can be written."""

import logging
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.dataclass.configs import CheckpointConfig
from fairseq.distributed import utils as distributed_utils
from omegaconf import OmegaConf

from dinosr_plugin.errors import UserError
from dinosr_plugin.runs import resuming as checkpoints
from dinosr_plugin.runs import stopping
from support import training as runs


def config(folder: Path, task: str = "dinosr_pretraining", **checkpoint):
    parts = {
        "checkpoint": {**vars(CheckpointConfig()), "save_dir": str(folder), "model_parallel_size": 1, **checkpoint}
    }
    parts |= {
        "task": {"_name": task},
        "model": {"_name": "dinosr"},
        "optimization": {"max_update": 8, "max_epoch": 0, "stop_time_hours": 0.0},
    }
    return OmegaConf.create(parts)


def state_of(updates: int, cfg) -> dict:
    cfg = OmegaConf.to_container(cfg)
    history = [{"num_updates": updates, "optimizer_name": "FairseqAdam", "lr_scheduler_state": {}}]
    return {"model": {"w": torch.randn(50, 50)}, "optimizer_history": history, "extra_state": {}, "cfg": cfg}


def put(path: Path, updates: int, **fields) -> Path:
    torch.save(state_of(updates, config(path.parent, **fields)), path)
    return path


@pytest.fixture
def run(tmp_path) -> Path:
    """Four updates of a run that saved every two, and the best."""
    for name, updates in {"_1_2": 2, "_1_4": 4, "_best": 2, "_last": 4}.items():
        put(tmp_path / f"checkpoint{name}.pt", updates)
    return tmp_path


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def punch_a_hole(path: Path) -> None:
    """What a power cut leaves: the right size, and zeros inside."""
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(4096))


FAULTS = {
    "cut short": (cut, "cut short"),
    "empty": (lambda path: path.write_bytes(b""), "zero bytes long"),
    "hole": (punch_a_hole, "damaged, its checksums do not match"),
    "text": (lambda path: path.write_text("hello " * 99), "unreadable"),
    "zeros": (lambda path: path.write_bytes(bytes(9999)), "unreadable"),
    "other": (lambda path: torch.save({"a": 1}, path), "no checkpoint of a training run"),
    "object": (
        lambda path: torch.save({"args": SimpleNamespace()}, path),
        "holds a Python object of types.SimpleNamespace, which is not loaded from files",
    ),
}


# -- resuming --------------------------------------------------------------------------------------------------------


def test_a_whole_last_checkpoint_is_fairseqs_affair(run, caplog):
    """Even where another has more updates: somebody went back to an older one and trained on from there."""
    put(run / "checkpoint_9_9.pt", 9)
    assert checkpoints.to_resume(config(run)) == {}
    assert checkpoints.to_resume(config(run, restore_file=str(run / "checkpoint_last.pt"))) == {}
    assert not caplog.messages


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_last_checkpoint_is_set_aside(run, fault, caplog):
    breaks, what = FAULTS[fault]
    last = run / "checkpoint_last.pt"
    breaks(last)
    broken = last.read_bytes()
    assert checkpoints.to_resume(config(run)) == {
        "restore_file": str(run / "checkpoint_1_4.pt"),
        "finetune_from_model": None,
    }
    found = f"going on from {run}/checkpoint_1_4.pt (4 updates), the newest whole checkpoint"
    assert caplog.messages == [f"{last}: {what}; kept as checkpoint_last.pt.broken, {found}"]
    assert not last.exists() and last.with_suffix(".pt.broken").read_bytes() == broken


def test_the_whole_one_with_most_updates_is_found(run, caplog):
    """Not a damaged one, nor one whose name or date only is newer, nor that of another task, nor an unfinished one."""
    (run / "checkpoint_last.pt").unlink()
    punch_a_hole(run / "checkpoint_1_4.pt")
    put(run / "checkpoint_1_6.pt", 6, task="dinosr_finetuning")
    put(run / "checkpoint_1_8.pt.tmp", 8)
    put(run / "checkpoint.best_loss_3.25.pt", 3)
    os.utime(run / "checkpoint_1_2.pt", (2e9, 2e9))
    put(run / "crash.pt", 9)
    assert checkpoints.to_resume(config(run))["restore_file"] == str(run / "checkpoint.best_loss_3.25.pt")
    (message,) = caplog.messages
    assert (
        message.startswith(f"{run}/checkpoint_last.pt: no such file; going on from")
        and "to train from the start give another" in message
    )


def test_nothing_starts_over_a_run_that_may_be_mended(run):
    for path in run.iterdir():
        cut(path)
    before = sorted(run.iterdir())
    with pytest.raises(
        UserError, match=r"/checkpoint_last\.pt: cut short, and no other .* whole; put one there, or give another"
    ):
        checkpoints.to_resume(config(run))
    assert sorted(run.iterdir()) == before
    (run / "checkpoint_last.pt").unlink()
    with pytest.raises(UserError, match=r"/checkpoint_1_2\.pt: cut short"):
        checkpoints.to_resume(config(run))


def test_an_empty_folder_starts_a_run(tmp_path, caplog):
    assert checkpoints.to_resume(config(tmp_path)) == {} == checkpoints.to_resume(config(tmp_path / "missing"))
    put(tmp_path / "checkpoint_1_6.pt", 6, task="dinosr_finetuning")
    assert checkpoints.to_resume(config(tmp_path)) == {} and not caplog.messages


@pytest.mark.parametrize("field", ["restore_file", "continue_once", "finetune_from_model"])
def test_what_a_run_is_to_begin_from_must_be_whole(tmp_path, field):
    given = put(tmp_path / "given.pt", 4)
    cfg = config(tmp_path / "new", **{field: str(given)})
    assert checkpoints.to_resume(cfg) == {}
    cut(given)
    with pytest.raises(
        UserError, match=rf"checkpoint\.{field}={given}: cut short; give the absolute path of a whole checkpoint$"
    ):
        checkpoints.to_resume(cfg)
    given.unlink()
    with pytest.raises(UserError, match=rf"checkpoint\.{field}={given}: no such file; give"):
        checkpoints.to_resume(cfg)


def test_the_same_command_again_does_not_lose_the_progress(run, caplog):
    """... though it names a restore_file, which begins the run and no more. A file named for the first time is what is asked for."""
    given = str(run / "checkpoint_1_2.pt")
    cfg = config(run, restore_file=given, reset_optimizer=True)
    assert checkpoints.to_resume(cfg) == {}
    assert caplog.messages == [
        f"checkpoint.restore_file={given} is loaded, and {run}/checkpoint_last.pt will be overwritten; to go on from that leave restore_file out"
    ]
    last = put(run / "checkpoint_last.pt", 3, restore_file=given)
    changes = checkpoints.to_resume(cfg)
    assert changes["restore_file"] == str(last) and changes["reset_optimizer"] is False
    assert "began this run, which goes on from " + str(last) in caplog.messages[-1]
    put(run / "checkpoint_2_3.pt", 3, restore_file=given)
    cut(last)
    assert checkpoints.to_resume(cfg)["restore_file"] == str(run / "checkpoint_2_3.pt")


class Ranks:
    """fairseq's broadcast between two ranks that take turns in this process."""

    def __init__(self, monkeypatch):
        self.rank, self.sent = 0, []
        monkeypatch.setattr(distributed_utils, "get_rank", lambda group: self.rank)
        monkeypatch.setattr(distributed_utils, "broadcast", self.broadcast)

    def broadcast(self, tensor, src, group):
        if self.rank == src:
            self.sent.append(tensor.flatten().clone())
        else:
            tensor.view(-1).copy_(self.sent.pop(0))

    def trainer(self, cfg, loaded):
        parts = {
            "checkpoint_suffix": "",
            "tpu": False,
            "data_parallel_world_size": 2,
            "data_parallel_process_group": None,
        }
        parts |= {
            "data_parallel_rank": self.rank,
            "device": torch.device("cpu"),
            "cfg": cfg,
            "lr_step": lambda epoch: None,
        }
        parts |= {
            "load_checkpoint": lambda path, *_, **__: loaded.append(path),
            "get_train_iterator": lambda **_: SimpleNamespace(epoch=1),
        }
        return SimpleNamespace(**parts)


def test_all_ranks_load_the_same_file(run, monkeypatch):
    """Rank 1 comes when rank 0 has renamed the damaged file; what is saved later still says what was asked for."""
    ranks, loaded, cfg = Ranks(monkeypatch), [], config(run, finetune_from_model="given.pt")
    cut(run / "checkpoint_last.pt")
    for ranks.rank in (0, 1):
        checkpoint_utils.load_checkpoint(cfg.checkpoint, ranks.trainer(cfg, loaded))
    assert loaded == [str(run / "checkpoint_1_4.pt")] * 2 and not ranks.sent
    assert cfg.checkpoint.restore_file == "checkpoint_last.pt" and cfg.checkpoint.finetune_from_model == "given.pt"


def test_all_ranks_stop_together(run, monkeypatch):
    ranks, loaded = Ranks(monkeypatch), []
    for path in run.iterdir():
        cut(path)
    for ranks.rank in (0, 1):
        with pytest.raises(UserError, match="cut short"):
            checkpoint_utils.load_checkpoint(config(run).checkpoint, ranks.trainer(config(run), loaded))
    assert not loaded and not ranks.sent


def test_a_loaded_checkpoint_reaches_the_other_ranks(run, monkeypatch):
    """torch >= 2.6 would refuse the placeholders that fairseq sends for tensors, and its config."""
    ranks, state = Ranks(monkeypatch), checkpoint_utils.load_checkpoint_to_cpu(str(run / "checkpoint_last.pt"))
    allowed = torch.serialization.get_safe_globals()
    distributed_utils.broadcast_object(state, 0, None, torch.device("cpu"))
    ranks.rank = 1
    received = distributed_utils.broadcast_object(None, 0, None, torch.device("cpu"))
    assert torch.equal(received["model"]["w"], state["model"]["w"]) and received["cfg"] == OmegaConf.to_container(
        state["cfg"]
    )
    assert torch.serialization.get_safe_globals() == allowed


# -- saving ----------------------------------------------------------------------------------------------------------


def save(cfg, updates: int, loss: float = 1.0, next_epoch: int = 1):
    """fairseq's saving after so many updates, in the middle of an epoch; the path, or None where nothing was saved."""

    def write(path, extra_state):
        checkpoint_utils.torch_persistent_save(state_of(updates, cfg), path)
        return path

    parts = {
        "data_parallel_rank": 0,
        "should_save_checkpoint_on_current_rank": True,
        "checkpoint_suffix": "",
        "cfg": cfg,
        "task": None,
    }
    parts |= {"consolidate_optimizer": lambda: None, "get_num_updates": lambda: updates, "save_checkpoint": write}
    parts |= {"cumulative_training_time": lambda: 1.0}
    iterator = SimpleNamespace(epoch=1, next_epoch_idx=next_epoch, end_of_epoch=lambda: False, state_dict=dict)
    return checkpoint_utils.save_checkpoint(cfg.checkpoint, SimpleNamespace(**parts), iterator, loss)


def updates_in(folder: Path) -> dict[str, int]:
    return {path.name: checkpoints.updates(torch.load(path)) for path in sorted(folder.iterdir())}


FULL = {  # which file finds no room at the second save (of 4 updates, with a better loss), and what lies there afterwards
    "checkpoint_1_4.pt": {"checkpoint_1_2.pt": 2, "checkpoint_best.pt": 2, "checkpoint_last.pt": 2},
    "checkpoint_best.pt": {
        "checkpoint_1_2.pt": 2,
        "checkpoint_1_4.pt": 4,
        "checkpoint_best.pt": 2,
        "checkpoint_last.pt": 2,
    },
    "checkpoint_last.pt": {
        "checkpoint_1_2.pt": 2,
        "checkpoint_1_4.pt": 4,
        "checkpoint_best.pt": 4,
        "checkpoint_last.pt": 2,
    },
}


@pytest.mark.parametrize("full", FULL)
def test_a_full_disk_costs_one_save(tmp_path, full, caplog):
    """/dev/full behind the temporary name: a real ENOSPC, while writing and while copying."""
    cfg = config(tmp_path, save_interval_updates=2, keep_interval_updates=1)
    assert save(cfg, 2, loss=1.0)
    (tmp_path / f"{full}.tmp").symlink_to("/dev/full")
    caplog.clear()
    assert save(cfg, 4, loss=0.5) is None
    assert updates_in(tmp_path) == FULL[full]
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        f"{tmp_path}/{full}: cannot be written (No space left on device); make room there: "
        "training goes on, no older checkpoint is removed, and the next save tries again"
    ]
    assert save(cfg, 6, loss=0.75)
    best = 4 if full == "checkpoint_last.pt" else 6  # the best of those that are on the disk
    assert updates_in(tmp_path) == {"checkpoint_1_6.pt": 6, "checkpoint_best.pt": best, "checkpoint_last.pt": 6}


def test_a_file_grows_too_large(tmp_path):
    """The system's limit on the size of files: torch.save puts an error of its own on top of this one."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
        with pytest.raises(checkpoints.NotSaved) as caught:
            checkpoint_utils.torch_persistent_save({"w": torch.randn(50, 50)}, str(tmp_path / "model.pt"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(tmp_path / "model.pt") and not list(tmp_path.iterdir())


def test_other_errors_of_saving_stay_what_they_are(tmp_path):
    with pytest.raises(AttributeError, match="pickle"):
        checkpoint_utils.torch_persistent_save({"f": lambda: None}, str(tmp_path / "model.pt"))


@pytest.mark.parametrize("limit", [{"max_update": 4}, {"max_update": 0, "max_epoch": 1}, {"stop_time_hours": 1e-6}])
def test_the_last_save_must_not_be_lost_silently(tmp_path, limit):
    cfg = config(tmp_path, save_interval_updates=2)
    cfg.optimization.update(limit)
    (tmp_path / "checkpoint_1_4.pt.tmp").symlink_to("/dev/full")
    with pytest.raises(
        UserError,
        match=r"/checkpoint_1_4\.pt: cannot be written \(No space left on device\); make room there, then start",
    ):
        save(cfg, 4, next_epoch=2)


def test_nor_that_of_a_run_that_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(stopping, "agreed", lambda: SystemExit(143))
    (tmp_path / "checkpoint_1_4.pt.tmp").symlink_to("/dev/full")
    with pytest.raises(UserError, match="make room there, then start"):
        save(config(tmp_path, save_interval_updates=2), 4)


# -- a whole run -----------------------------------------------------------------------------------------------------


def settings(max_update: int) -> list[str]:
    """Eight updates in an epoch, of one sound of 1 s each."""
    return ["dataset.max_tokens=16000", "checkpoint.save_interval_updates=2", f"optimization.max_update={max_update}"]


def test_a_run_survives_a_damaged_checkpoint_and_a_full_disk(tmp_path):
    corpus, folder = runs.write_corpus(tmp_path / "data", lengths=[16000] * 8), tmp_path / "run"
    runs.train(corpus, folder, *settings(4))
    assert updates_in(folder) == {"checkpoint_1_2.pt": 2, "checkpoint_1_4.pt": 4, "checkpoint_last.pt": 4}
    cut(folder / "checkpoint_1_4.pt")
    cut(folder / "checkpoint_last.pt")
    (folder / "checkpoint_1_4.pt.tmp").symlink_to("/dev/full")

    done = subprocess.run(
        runs.command(corpus, folder, *settings(6)), capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert (
        f"{folder}/checkpoint_last.pt: cut short; kept as checkpoint_last.pt.broken, going on from {folder}/checkpoint_1_2.pt (2 updates)"
        in said
    )
    assert f"Loaded checkpoint {folder}/checkpoint_1_2.pt (epoch 1 @ 2 updates)" in said
    assert (
        f"{folder}/checkpoint_1_4.pt: cannot be written (No space left on device); make room there: training goes on"
        in said
    )
    (folder / "checkpoint_last.pt.broken").unlink()
    (folder / "checkpoint_1_4.pt").unlink()  # still the damaged one
    assert updates_in(folder) == {"checkpoint_1_2.pt": 2, "checkpoint_1_6.pt": 6, "checkpoint_last.pt": 6}

    (folder / "checkpoint_last.pt.tmp").symlink_to("/dev/full")  # the only file of a save at the end of an epoch
    with pytest.raises(
        UserError, match=r"checkpoint_last\.pt: cannot be written .* it resumes from the newest checkpoint"
    ):
        runs.train(corpus, folder, *settings(8))
