"""Signals: every one that asks a training to stop leaves a checkpoint, and a second Ctrl-C does not wait for it."""

import logging
import multiprocessing
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fairseq.distributed import utils as distributed_utils
from fairseq.trainer import Trainer

from dinosr_plugin.data.dataset import SpeechDataset
from dinosr_plugin.errors import UserError
from dinosr_plugin.runs import stopping
from support.paths import CONFIGS
from support.training import checkpoint, differences, settings, train, train_on_two_ranks, write_corpus

SCHEDULE = ["lr_scheduler.phase_ratio=null", "+lr_scheduler.warmup_steps=2", "+lr_scheduler.hold_steps=300"]
SCHEDULE += ["+lr_scheduler.decay_steps=10", "model.dropout=0.1"]
WORKERS = ["dataset.num_workers=2", "dataset.data_buffer_size=0"]
"""Without a buffer the training notices at once that a worker has died."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_corpus(tmp_path_factory.mktemp("data"))
    return write_corpus(folder, "valid", [16000, 17000, 21000])


def run_alone(data: Path, folder: Path, overrides: list[str]) -> None:
    os.setpgid(0, 0)  # the processes that a terminal would send Ctrl-C to
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(f"{folder}.log", "a", buffering=1)  # noqa: SIM115  (until the process ends)
    os.dup2(sys.stderr.fileno(), 2)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, force=True)
    train(data, folder, *SCHEDULE, *overrides)


def start(data: Path, folder: Path, *overrides: str) -> multiprocessing.Process:
    """A training in another process; what it prints is in ``FOLDER.log``."""
    process = multiprocessing.get_context("fork").Process(target=run_alone, args=(data, folder, list(overrides)))
    process.start()
    return process


def status(data: Path, folder: Path, *overrides: str) -> int:
    """Exit status of a training, or minus the signal that killed it."""
    process = start(data, folder, *overrides)
    process.join(120)
    return process.exitcode


def log_of(folder: Path) -> str:
    return Path(f"{folder}.log").read_text()


@pytest.fixture
def in_update(monkeypatch):
    """``in_update(n, function)``: the function is called in the nth update of the next trainings."""
    train_step = Trainer.train_step

    def interrupt(n, function):
        def step(self, *args):
            if self.get_num_updates() == n - 1:
                function()
            return train_step(self, *args)

        monkeypatch.setattr(Trainer, "train_step", step)

    yield interrupt


def interrupt_all(number: int):
    """A signal to the training and its loader's workers, from another process: a terminal or a batch system."""
    group, sender = os.getpgid(0), os.fork()
    if sender == 0:
        os.setpgid(0, 0)
        os.killpg(group, number)
        os._exit(0)
    os.waitpid(sender, 0)
    time.sleep(0.2)  # a worker that was killed is noticed


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_a_signal_to_all_processes_leaves_a_checkpoint(data, tmp_path, in_update, number):
    in_update(3, lambda: interrupt_all(number))
    run = tmp_path / "run"
    assert status(data, run, *WORKERS, "optimization.max_update=6") == 128 + number
    assert checkpoint(run)["updates"] == 3
    log = log_of(run)
    assert "Traceback" not in log and "Error" not in log
    assert f"{number.name}: stopping with a checkpoint after this update or validation; once more ends" in log
    assert f"{number.name}: stopping after this update with a checkpoint; run the same command again to resume" in log


def test_a_run_that_ctrl_c_has_stopped_twice_is_the_same_run(data, tmp_path, in_update):
    """Bit for bit."""
    run = tmp_path / "run"
    for update in (2, 5):
        in_update(update, lambda: interrupt_all(signal.SIGINT))
        assert status(data, run, *WORKERS, "optimization.max_update=6") == 130
        assert checkpoint(run)["updates"] == update
    in_update(-1, None)
    assert status(data, run, *WORKERS, "optimization.max_update=6") == 0
    assert status(data, tmp_path / "whole", *WORKERS, "optimization.max_update=6") == 0
    assert not differences(checkpoint(run), checkpoint(tmp_path / "whole"))


def group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def twice(first: int, second: int, pause: float):
    os.kill(os.getpid(), first)
    time.sleep(pause)
    os.kill(os.getpid(), second)
    time.sleep(0.05)


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_run_at_once(data, tmp_path, in_update, monkeypatch, second):
    """Its workers, which ignore signals, find that it is gone."""
    monkeypatch.setattr(stopping, "SAME_EVENT", 0.02)
    in_update(3, lambda: twice(signal.SIGINT, second, 0.3))
    run = start(data, tmp_path / "run", *WORKERS, "optimization.max_update=6")
    run.join(120)
    assert run.exitcode == -second
    for _ in range(100):
        if not group_exists(run.pid):
            break
        time.sleep(0.1)
    assert not group_exists(run.pid)
    assert not (tmp_path / "run/checkpoint_last.pt").exists() and "Traceback" not in log_of(tmp_path / "run")


@pytest.mark.parametrize(
    "second, pause", [(signal.SIGINT, 0.0), (signal.SIGTERM, 0.0), (signal.SIGHUP, 0.3), (signal.SIGUSR1, 0.3)]
)
def test_a_signal_that_is_passed_on_or_only_announces_the_end_does_not_count_twice(
    data, tmp_path, in_update, monkeypatch, second, pause
):
    monkeypatch.setattr(stopping, "SAME_EVENT", 0.2)
    in_update(3, lambda: twice(signal.SIGINT, second, pause))
    assert status(data, tmp_path / "run", "optimization.max_update=6") == 130
    assert checkpoint(tmp_path / "run")["updates"] == 3


def test_ctrl_c_while_data_are_loaded_ends_silently(data, tmp_path, monkeypatch):
    load_rows = SpeechDataset.load_rows

    def interrupted(*args):
        interrupt_all(signal.SIGINT)
        load_rows(*args)

    with monkeypatch.context() as patch:
        patch.setattr(SpeechDataset, "load_rows", interrupted)
        assert status(data, tmp_path / "run", "optimization.max_update=1") == -signal.SIGINT
    assert "Traceback" not in log_of(tmp_path / "run") and not list((tmp_path / "run").glob("*.pt*"))
    assert status(data, tmp_path / "run", "optimization.max_update=1") == 0


def test_a_signal_during_a_validation_acts_after_it(data, tmp_path, monkeypatch):
    """The validation counts as in a run that is not interrupted: for checkpoint_best.pt and early stopping."""
    valid_step = Trainer.valid_step
    validation = ["dataset.disable_validation=false", "dataset.validate_interval_updates=3", "checkpoint.patience=9"]

    def interrupted(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGHUP)
        return valid_step(self, *args, **kwargs)

    run, settings = tmp_path / "run", [*validation, "optimization.max_update=6"]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "valid_step", interrupted)
        assert status(data, run, *settings) == 128 + signal.SIGHUP
    assert "SIGHUP: stopping after this validation with a checkpoint" in log_of(run)
    assert checkpoint(run)["updates"] == 3 == checkpoint(run, "checkpoint_best.pt")["updates"]
    assert status(data, run, *settings) == 0 == status(data, tmp_path / "whole", *settings)
    ours, theirs = (
        torch.load(folder / "checkpoint_last.pt", weights_only=True) for folder in (run, tmp_path / "whole")
    )
    assert ours["extra_state"]["early_stopping"] == theirs["extra_state"]["early_stopping"]
    assert not differences(checkpoint(run), checkpoint(tmp_path / "whole"))


def test_a_run_whose_terminal_is_closed_leaves_a_checkpoint(data, tmp_path):
    """SIGHUP, after which nothing can be printed any more."""
    run, log = tmp_path / "run", tmp_path / "log"
    process, terminal = pty.fork()
    if process == 0:
        try:
            sys.stdout = sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
            logging.basicConfig(stream=sys.stderr, level=logging.INFO, force=True)
            torch.set_num_threads(1)
            train(data, run, *SCHEDULE, "optimization.max_update=100000", f"common.log_file={log}")
        except SystemExit as stop:
            os._exit(stop.code)
        finally:
            os._exit(1)
    while not (log.exists() and '"num_updates": "3"' in log.read_text()):
        os.read(terminal, 1 << 16)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 128 + signal.SIGHUP
    assert checkpoint(run)["updates"] >= 3


def test_handlers_are_those_of_before_when_a_training_has_ended(data, tmp_path):
    handlers = [signal.getsignal(number) for number in stopping.SIGNALS]
    train(data, tmp_path / "run", *SCHEDULE, "optimization.max_update=1")
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == handlers
    assert stopping.received() == 0


def test_what_is_ignored_stays_ignored(data, tmp_path, monkeypatch, in_update):
    """``nohup`` starts a command with SIGHUP ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        in_update(1, lambda: os.kill(os.getpid(), signal.SIGHUP))
        assert status(data, tmp_path / "run", "optimization.max_update=2") == 0
    finally:
        signal.signal(signal.SIGHUP, before)


# ---- ranks that fairseq starts -------------------------------------------------------------------------------------

TWO_RANKS = """\
import torch
from fairseq_cli.hydra_train import cli_main
import dinosr_plugin

if __name__ == "__main__":
    torch.cuda.device_count = lambda: 2  # fairseq starts as many ranks as there are GPUs; these use the CPU
    cli_main()
"""


@pytest.mark.parametrize("to_all", [True, False])
def test_ranks_that_fairseq_starts_save_before_their_parent_ends(data, tmp_path, to_all):
    """Ctrl-C in a terminal, which reaches all processes, and a signal to the command alone."""
    (tmp_path / "two_ranks.py").write_text(TWO_RANKS)
    overrides = [*SCHEDULE, "optimization.max_update=100000", "distributed_training.distributed_world_size=2"]
    overrides += ["distributed_training.distributed_backend=gloo", f"common.log_file={tmp_path}/log"]
    arguments = ["--config-dir", str(CONFIGS / "pretraining"), "--config-name", "dinosr_tiny"]
    arguments += settings(data, tmp_path / "run", *overrides)
    run = subprocess.Popen(
        [sys.executable, "two_ranks.py", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    with run:
        while not ((tmp_path / "log").exists() and '"num_updates": "3"' in (tmp_path / "log").read_text()):
            assert run.poll() is None, run.communicate()[0]
            time.sleep(0.1)
        (os.killpg if to_all else os.kill)(run.pid, signal.SIGINT if to_all else signal.SIGTERM)
        text = run.communicate(timeout=120)[0]
    assert run.returncode == 128 + (signal.SIGINT if to_all else signal.SIGTERM), text
    assert "Traceback" not in text and checkpoint(tmp_path / "run")["updates"] >= 3


def fail(rank: int):
    raise UserError("train.tsv: empty manifest; make it again")


def test_an_error_of_a_rank_that_fairseq_starts_is_one_line(monkeypatch):
    monkeypatch.setattr(distributed_utils, "distributed_main", fail)
    with pytest.raises(UserError) as caught:
        torch.multiprocessing.spawn(fail, nprocs=1)
    assert str(caught.value) == "train.tsv: empty manifest; make it again"


# ---- the folder of the checkpoints ---------------------------------------------------------------------------------


def test_a_folder_that_a_run_writes_into_is_refused_to_another(data, tmp_path, in_update):
    """At once, on one rank and on two; but not after the run was killed."""
    folder, reached = tmp_path / "run", tmp_path / "reached"

    def wait():
        reached.touch()
        time.sleep(60)

    in_update(3, wait)
    run = start(data, folder, "optimization.max_update=3", "checkpoint.save_interval_updates=1")
    try:
        while not reached.exists():
            assert run.is_alive()
            time.sleep(0.05)
        before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
        message = (
            rf"checkpoint.save_dir={folder}: another process \(process {run.pid} on .*\) is writing there; wait for"
        )
        with pytest.raises(UserError, match=message):
            train(data, folder, *SCHEDULE, "optimization.max_update=3")
        with pytest.raises(RuntimeError, match=r"exit statuses \[1, 1\]"):
            train_on_two_ranks(data, folder, *SCHEDULE, "optimization.max_update=3")
        assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != "meeting"} == before
    finally:
        run.kill()
        run.join()
    in_update(-1, None)
    (folder / "checkpoint_1_2.pt.tmp").write_bytes(b"half of a checkpoint")
    train(data, folder, *SCHEDULE, "optimization.max_update=3")
    assert checkpoint(folder)["updates"] == 3
    assert not [path.name for path in folder.iterdir() if path.name.endswith((".tmp", ".lock"))]
