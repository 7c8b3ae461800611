"""Runs of days: validation, logging, early stopping, overflows, collapse, bad batches, signals, kills."""

import logging
import multiprocessing
import os
import random
import re
import signal
import struct
import subprocess
import time

import fairseq_cli.train
import numpy as np
import pytest
import soundfile
import torch
from fairseq.logging import progress_bar
from fairseq.trainer import Trainer

from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.training_log import read_training_log
from dinosr_plugin.runs import stopping
from support.training import (
    checkpoint,
    command,
    differences,
    start_two_ranks,
    tensors,
    train,
    train_on_two_ranks,
    write_corpus,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_corpus(tmp_path_factory.mktemp("data"))
    return write_corpus(folder, "valid", [16000, 17000, 21000, 30000, 16500])


def updates(n: int, *more: str) -> list[str]:
    return [
        f"optimization.max_update={n}",
        "lr_scheduler.phase_ratio=null",
        "+lr_scheduler.warmup_steps=2",
        "+lr_scheduler.hold_steps=300",
        "+lr_scheduler.decay_steps=10",
        *more,
    ]


# -- validation ------------------------------------------------------------------------------------------------------

VALIDATION = [
    "dataset.disable_validation=false",
    "dataset.validate_interval_updates=2",
    "checkpoint.save_interval_updates=2",
]


def test_validation_does_not_depend_on_batches_and_changes_nothing(data, tmp_path):
    """The same masks every time, whole utterances, no codeword moves; the best checkpoint has the lowest loss."""
    logs = []
    for size in (1, 5):
        run = tmp_path / str(size)
        train(data, run, *updates(6, *VALIDATION, f"+dataset.batch_size_valid={size}", f"common.log_file={run}.log"))
        logs.append(read_training_log(f"{run}.log", "valid"))
    train(data, tmp_path / "none", *updates(6))
    assert not differences(checkpoint(tmp_path / "none")["model"], checkpoint(tmp_path / "5")["model"])
    assert [record["num_updates"] for record in logs[0]] == [2, 4, 6]
    figures = {"loss", "loss_0", "accuracy_1", "target_ppl_0", "pred_ppl_1", "active_codes_0", "target_entropy"}
    for one, five in zip(*logs):
        assert figures <= one.keys()
        for name in figures:
            assert one[name] == pytest.approx(five[name], abs=2e-4), name
    best = min(logs[1], key=lambda record: record["loss"])
    assert checkpoint(tmp_path / "5", "checkpoint_best.pt")["updates"] == best["num_updates"]


LOSSES = [5.0, 4.0, 4.1, 3.5, 3.6, 3.7, 3.5, 3.4, 3.3, 3.2]
"""Of the validations after updates 2, 4, ...; with a patience of 3 the seventh, after update 14, is the last."""


@pytest.fixture
def start(data, monkeypatch):
    """``start(folder, *settings)`` makes a run with these losses and returns its updates.

    ``start.interrupt(n, function)``: the function is called in update n of the next run.
    """
    interrupts, train_step = {}, Trainer.train_step

    def step(self, *args):
        if interrupt := interrupts.pop(self.get_num_updates() + 1, None):
            interrupt()
        return train_step(self, *args)

    def run(folder, *settings):
        monkeypatch.setattr(stopping, "_received", None)
        patience = ["checkpoint.patience=3", "checkpoint.keep_interval_updates=1", *settings]
        return train(data, folder, *updates(100, *VALIDATION, *patience)).get_num_updates()

    monkeypatch.setattr(Trainer, "train_step", step)
    monkeypatch.setattr(
        fairseq_cli.train, "validate", lambda cfg, trainer, *_: [LOSSES[trainer.get_num_updates() // 2 - 1]]
    )
    run.interrupt = interrupts.__setitem__
    return run


class Killed(BaseException):
    """Like SIGKILL: nothing is saved any more."""


def kill():
    raise Killed


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_early_stopping_resumes(start, tmp_path):
    """However the run was interrupted, it ends after the same update as one that was not.

    Killed, stopped by a signal (in an update with validation and in one without), or ended by max_update.
    """
    assert start(tmp_path / "whole") == 14
    start.interrupt(7, kill)
    with pytest.raises(Killed):
        start(tmp_path / "parts")
    assert checkpoint(tmp_path / "parts")["updates"] == 6
    for update in (10, 13):
        start.interrupt(update, terminate)
        with pytest.raises(SystemExit):
            start(tmp_path / "parts")
        assert checkpoint(tmp_path / "parts")["updates"] == update
        if update == 10:
            assert start(tmp_path / "parts", "optimization.max_update=12") == 12
    assert start(tmp_path / "parts") == 14
    assert not differences(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts"))


def test_a_run_that_stopped_early_does_not_train_on(start, tmp_path):
    """Unless its patience is raised; and the next run in the same process counts from zero."""
    assert start(tmp_path / "run") == 14
    before = (tmp_path / "run/checkpoint_last.pt").read_bytes()
    assert start(tmp_path / "run") == 14
    assert (tmp_path / "run/checkpoint_last.pt").read_bytes() == before
    assert start(tmp_path / "other") == 14
    assert start(tmp_path / "run", "checkpoint.patience=4", "optimization.max_update=16") == 16
    assert start(tmp_path / "begun", f"checkpoint.finetune_from_model={tmp_path}/run/checkpoint_last.pt") == 14


# -- figures ---------------------------------------------------------------------------------------------------------


def test_figures_of_each_codebook_in_the_log_and_in_tensorboard(data, tmp_path):
    train(
        data,
        tmp_path / "run",
        *updates(
            4, f"common.log_file={tmp_path}/log", f"common.tensorboard_logdir={tmp_path}/tb", "common.log_interval=2"
        ),
    )
    each = ["loss", "accuracy", "target_ppl", "pred_ppl", "active_codes"]
    expected = {f"{name}_{k}" for name in each for k in range(2)} | {
        "loss",
        "accuracy",
        "target_ppl",
        "pred_ppl",
        "active_codes",
        "target_entropy",
    }
    expected |= {"pred_variance", "ema_decay", "codebook_decay", "lr", "gnorm", "audio_seconds_per_second"}
    records = read_training_log(tmp_path / "log")
    assert [record["num_updates"] for record in records] == [2, 4]
    assert expected <= records[1].keys()
    assert records[1]["accuracy"] == pytest.approx((records[1]["accuracy_0"] + records[1]["accuracy_1"]) / 2, abs=1e-4)
    progress_bar._close_writers()  # fairseq does so as its process ends; a thread writes
    (events,) = (tmp_path / "tb/train_inner").iterdir()
    scalars = read_scalars(events)
    assert expected <= scalars.keys()
    assert scalars["target_ppl_0"] == pytest.approx(records[1]["target_ppl_0"], abs=1e-3)


def read_scalars(path) -> dict[str, float]:
    """The last value of each in TensorBoard's file: records of length (8 bytes), checksum (4), event, checksum (4)."""
    from tensorboardX.proto.event_pb2 import Event

    content, scalars = path.read_bytes(), {}
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + length])
        scalars.update({value.tag: value.simple_value for value in event.summary.value})
        content = content[16 + length :]
    return scalars


# -- half precision --------------------------------------------------------------------------------------------------


def test_an_overflow_changes_nothing(data, tmp_path, monkeypatch):
    """fp16: a skipped update changes no parameter, codebook, teacher or counter, and adds nothing to the next one."""
    steps, train_step = [], Trainer.train_step  # steps: whether it was skipped, names of tensors that changed

    def recorded(self, *args):
        before = {name: value.clone() for name, value in state_of(self).items()}
        output = train_step(self, *args)
        changed = [name for name, value in state_of(self).items() if not torch.equal(value, before[name])]
        steps.append((output is None, changed))
        return output

    def state_of(trainer):
        return tensors({"model": trainer.get_model().state_dict(), "updates": trainer.get_num_updates()})

    monkeypatch.setattr(Trainer, "train_step", recorded)
    fp16 = ["common.fp16=true", "common.fp16_init_scale=67108864"]
    trainer = train(data, tmp_path, *updates(3, *fp16, "optimization.update_freq=[2]", "model.codebook_init=normal"))
    assert any(skipped for skipped, _ in steps) and trainer.get_num_updates() == 3
    for skipped, changed in steps:
        assert skipped == (not changed), changed
        assert skipped or {"/model/_codebook0", "/model/_ema/layers.0.fc1.weight", "/updates"} <= set(changed)
    model = trainer.get_model()
    assert model.codebooks.sums.dtype == model.codebooks.counts.dtype == torch.float32
    assert model.post_extract_proj.weight.dtype == torch.half
    assert all(value.dtype == torch.float32 for value in model.teacher.average().values())


def loss_after_200_updates(data, folder, precision: str) -> float:
    """On masked frames, in nats, over the last 50 updates."""
    log = folder / f"{precision}.log"
    train(
        data,
        folder / precision,
        *updates(200, f"common.{precision}=true", "common.log_interval=50", f"common.log_file={log}"),
    )
    return read_training_log(log)[-1]["loss_dinosr"]


@pytest.fixture(scope="module")
def loss_in_float32(data, tmp_path_factory):
    return loss_after_200_updates(data, tmp_path_factory.mktemp("fp32"), "cpu")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_as_float32_does(data, tmp_path, loss_in_float32, precision):
    assert loss_in_float32 < 1.9, "it learns: chance is ln 8 = 2.08"
    assert loss_after_200_updates(data, tmp_path, precision) == pytest.approx(loss_in_float32, abs=0.05)


# -- collapse and bad batches ----------------------------------------------------------------------------------------


@pytest.fixture
def silence(tmp_path):
    """Files without any differences: all frames of a batch are the same."""
    rows = [str(tmp_path)]
    for n in range(8):
        soundfile.write(tmp_path / f"s{n}.wav", np.zeros(16000), 16000)
        rows.append(f"s{n}.wav\t16000")
    (tmp_path / "train.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path


COLLAPSE = ["task.collapse_patience=3", "model.codebook_init=normal", "model.instance_norm_target_layer=false"]


def test_a_collapse_is_logged_or_stops_the_run(silence, tmp_path, caplog):
    train(silence, tmp_path / "warn", *updates(6, *COLLAPSE))
    lines = [record.getMessage() for record in caplog.records if "has collapsed" in record.getMessage()]
    assert len(lines) == 4  # 2 codebooks, after 3 and after 6 updates
    fault = r"update 3: codebook 0 has collapsed \(all frames have one code, for 3 updates\)"
    assert re.match(rf"{fault}; lower .*codebook 1: loss .*/s\d\.wav", lines[0])
    with pytest.raises(UserError, match=r"update 3: codebook 0 has collapsed .*task\.on_collapse=stop"):
        train(silence, tmp_path / "stop", *updates(6, *COLLAPSE, "task.on_collapse=stop"))
    assert checkpoint(tmp_path / "stop")["updates"] == 3


def test_ranks_stop_together(silence, tmp_path):
    """Exit status 1 on both, no hang."""
    with pytest.raises(RuntimeError, match=r"exit statuses \[1, 1\]"):
        train_on_two_ranks(silence, tmp_path / "two", *updates(6, *COLLAPSE, "task.on_collapse=stop"))
    assert checkpoint(tmp_path / "two")["updates"] == 3


def test_the_files_behind_a_nan_are_named(data, tmp_path, caplog):
    soundfile.write(tmp_path / "huge.wav", np.full(16000, 1e30, dtype=np.float32), 16000, subtype="FLOAT")
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\nhuge.wav\t16000\n")
    with pytest.raises(UserError, match="update 1: the gradients are NaN or infinite at the learning rate"):
        train(tmp_path, tmp_path / "run", *updates(2))
    lines = [record.getMessage() for record in caplog.records if "the loss is nan" in record.getMessage()]
    assert re.search(r"update 1: the loss is nan\. codebook 0: loss nan.* Files: .*huge\.wav; `dinosr check", lines[0])


def test_only_the_batch_with_the_nan_is_named(data, tmp_path, caplog):
    """The loss is checked after the update, for each of its two batches."""
    for name, loudness in (("huge", 1e30), ("sound", 0.1)):
        sound = np.random.default_rng(0).normal(0, loudness, 16000).astype(np.float32)
        soundfile.write(tmp_path / f"{name}.wav", sound, 16000, subtype="FLOAT")
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\nhuge.wav\t16000\nsound.wav\t16000\n")
    with pytest.raises(UserError, match="update 1: the gradients are NaN or infinite at the learning rate"):
        train(tmp_path, tmp_path / "run", *updates(2), "dataset.batch_size=1", "optimization.update_freq=[2]")
    lines = [record.getMessage() for record in caplog.records if "the loss is" in record.getMessage()]
    assert len(lines) == 1 and "huge.wav" in lines[0] and "sound.wav" not in lines[0]


def test_a_finished_run_makes_no_further_update(data, tmp_path):
    """fairseq makes one each time."""
    train(data, tmp_path / "run", *updates(3))
    before = checkpoint(tmp_path / "run")
    train(data, tmp_path / "run", *updates(3))
    assert not differences(before, checkpoint(tmp_path / "run"))


# -- signals and kills -----------------------------------------------------------------------------------------------


def test_a_signal_ends_a_run_with_a_checkpoint(data, tmp_path):
    """The same command resumes from it; the loader's workers end too."""
    log = tmp_path / "log"
    arguments = command(data, tmp_path / "run", *updates(10_000, f"common.log_file={log}", "dataset.num_workers=1"))
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path) as run:
        wait_for_updates(log, run.poll)
        run.send_signal(signal.SIGTERM)
        log_text = run.communicate(timeout=60)[0]
    assert run.returncode == 128 + signal.SIGTERM
    assert "SIGTERM: stopping after this update with a checkpoint" in log_text and "Traceback" not in log_text
    assert checkpoint(tmp_path / "run")["updates"] == last_update(log) >= 3


def test_a_signal_to_one_rank_ends_both(data, tmp_path):
    """After the same update, so that neither waits for the other."""
    setting = updates(10_000, f"common.log_file={tmp_path}/log")
    ranks = start_two_ranks(data, tmp_path / "two", *setting)
    wait_for_updates(tmp_path / "log", lambda: ranks[0].exitcode)
    os.kill(ranks[1].pid, signal.SIGUSR1)
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [128 + signal.SIGTERM, 128 + signal.SIGUSR1]
    assert checkpoint(tmp_path / "two")["updates"] == last_update(tmp_path / "log") >= 3


def wait_for_updates(log, ended) -> None:
    while not (log.exists() and last_update(log) >= 3):
        assert ended() is None, "the run ended by itself"
        time.sleep(0.1)


def last_update(log) -> int:
    return int(max((record["num_updates"] for record in read_training_log(log)), default=0))


def test_a_run_killed_twenty_times_is_the_same_run(data, tmp_path):
    """SIGKILL at random moments, with a checkpoint every fourth update.

    Weights, codebooks, teacher and optimiser are bit-identical at the end.
    """
    setting = updates(
        400, "checkpoint.save_interval_updates=4", "checkpoint.keep_interval_updates=1", "model.dropout=0.1"
    )
    fork, moments = multiprocessing.get_context("fork"), random.Random(0)

    def start(name: str):  # children with one thread each: sums over two threads are rounded differently
        run = fork.Process(target=quietly_train, args=(data, tmp_path / name, setting))
        run.start()
        return run

    start("whole").join()
    kills = 0
    while kills < 20:
        run = start("killed")
        run.join(moments.uniform(0.3, 0.8))
        if not run.is_alive():
            break
        os.kill(run.pid, signal.SIGKILL)
        run.join()
        kills += 1
    start("killed").join()
    assert kills == 20 and checkpoint(tmp_path / "killed")["updates"] == 400
    assert not differences(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "killed"))


def quietly_train(data, save_dir, setting):
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    train(data, save_dir, *setting)
