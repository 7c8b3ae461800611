"""Parameters, teacher, codebooks and optimiser do not depend on ranks, micro-batches and interruptions."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from dinosr_plugin.evaluation.training_log import read_training_log
from support.training import checkpoint, command, differences, train, train_on_two_ranks, write_corpus

# require_same_masks: the number of masked frames of a row depends on the other rows of its batch, and so on ranks
EXACT = ["task.max_sample_size=16000", "model.require_same_masks=false"]

SCHEDULE = [
    "lr_scheduler.phase_ratio=null",
    "+lr_scheduler.warmup_steps=2",
    "+lr_scheduler.hold_steps=3",
    "+lr_scheduler.decay_steps=6",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """7 batches: at the end of an epoch the second of two ranks has none."""
    return write_corpus(tmp_path_factory.mktemp("data"))


def updates(n: int, *more: str) -> list[str]:
    return [*EXACT, f"optimization.max_update={n}", *SCHEDULE, *more]


@pytest.mark.parametrize(
    "setting", [[], ["model.revive_after=2", "model.codebook_size=24"], ["model.freeze_teacher_step=6"]]
)
def test_two_ranks_equal_one(data, tmp_path, setting):
    first, second = train_on_two_ranks(data, tmp_path / "two", *updates(9, *setting))
    assert not differences(first, second)
    train(data, tmp_path / "one", *updates(9, *setting, "optimization.update_freq=[2]"))
    assert not differences(checkpoint(tmp_path / "one")["model"], first, rtol=1e-5, atol=1e-6)


def test_a_rank_without_a_batch_adds_nothing(data, tmp_path, monkeypatch):
    """If it did, the test above would fail."""
    monkeypatch.setattr("dinosr_plugin.models.dinosr.DinoSR.skip_batch", lambda self, skipped: None)
    first, _ = train_on_two_ranks(data, tmp_path / "two", *updates(5))
    train(data, tmp_path / "one", *updates(5, "optimization.update_freq=[2]"))
    changed = differences(checkpoint(tmp_path / "one")["model"], first, rtol=1e-5, atol=1e-6)
    assert {"/_codebook0", "/_codebook_cnts0"} <= set(changed)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_resumed_run_is_bit_identical(data, tmp_path, precision):
    """With micro-batches, dropout, LayerDrop, revival; in mid-epoch, across the teacher's freeze and fp16 overflows."""
    setting = [
        "optimization.update_freq=[2]",
        "model.freeze_teacher_step=7",
        "model.revive_after=2",
        "model.codebook_size=24",
        "model.dropout=0.1",
    ]
    setting += [
        "model.encoder_layerdrop=0.2",
        "dataset.num_workers=1",
        f"common.bf16={precision == 'bf16'}",
        f"common.fp16={precision == 'fp16'}",
    ]
    setting += ["common.fp16_init_scale=67108864", "common.fp16_scale_window=3"] if precision == "fp16" else []
    train(data, tmp_path / "whole", *updates(11, *setting))
    for end in (2, 5, 6, 11):
        train(data, tmp_path / "parts", *updates(11, *setting, f"optimization.max_update={end}"))
    assert checkpoint(tmp_path / "parts")["updates"] == 11
    assert not differences(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts"))


SPIN = ["optimization.update_freq=[2]", "model.dropout=0.1", "lr_scheduler.max_lr=0.01"]


@pytest.mark.parametrize("workers, precision", [(0, "fp32"), (2, "fp16")])
def test_a_resumed_spin_is_bit_identical(data, tmp_path, workers, precision):
    """With two views of each utterance; in mid-epoch, and in the next epoch, whose batches have the same utterances.

    The whole run reads its data itself, and so does the first part.
    """
    setting = [*SPIN, f"common.fp16={precision == 'fp16'}", "common.fp16_init_scale=4"]
    parts = [2, 5, 6] if workers == 0 else [2, 6]
    for folder, end in [("whole", 6), *(("parts", end) for end in parts)]:
        loader = f"dataset.num_workers={workers if (folder, end) == ('parts', 6) else 0}"
        train(data, tmp_path / folder, *setting, loader, f"optimization.max_update={end}", config="spin_tiny")
    assert checkpoint(tmp_path / "parts")["updates"] == 6
    assert not differences(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts"))


def test_two_ranks_of_spin_equal_one_with_a_collective_for_each_iteration_of_sinkhorns_algorithm(
    data, tmp_path, monkeypatch
):
    """One micro-batch of one rank has the frames of both ranks', the second of which has none in the fourth update.

    In validation, Sinkhorn's algorithm balances each batch: the figures do not depend on the number of ranks.
    """
    write_corpus(data, "valid", [16000, 17000, 21000, 30000, 16500])
    monkeypatch.setattr(torch.distributed, "all_reduce", noted(torch.distributed.all_reduce, tmp_path / "calls"))
    setting = ["dataset.curriculum=9", "optimizer.adam_eps=1e-5", "lr_scheduler.max_lr=0.01", "model.iterations=2"]
    setting += ["optimization.max_update=5", "lr_scheduler.lr_period_updates=10", "dataset.disable_validation=false"]
    setting += ["dataset.max_tokens_valid=32000", "dataset.validate_interval_updates=4"]
    log = f"common.log_file={tmp_path}/log"
    first, second = train_on_two_ranks(data, tmp_path / "two", *setting, f"{log}2", config="spin_tiny")
    calls = Counter((tmp_path / "calls").read_text().splitlines())
    assert not differences(first, second)
    train(data, tmp_path / "one", *setting, f"{log}1", "dataset.max_tokens=64000", config="spin_tiny")
    assert not differences(checkpoint(tmp_path / "one")["model"], first, rtol=1e-5, atol=1e-5)
    one, two = (read_training_log(f"{tmp_path}/log{number}") for number in (1, 2))
    assert [record["loss"] for record in one] == pytest.approx([record["loss"] for record in two], abs=2e-4)
    assert [record["frames"] for record in one] == [record["frames"] for record in two]
    assert len({record["loss"] for record in one}) == 5
    (one, two) = (read_training_log(f"{tmp_path}/log{number}", "valid")[0] for number in (1, 2))
    for name in ("loss", "accuracy", "target_ppl", "pred_ppl", "active_codes"):
        assert one[name] == pytest.approx(two[name], abs=2e-4), name
    assert calls["all_reduce from dinosr_plugin/models/spin.py"] == 2 * 5 * 2  # ranks, updates, iterations


def test_torchrun(data, tmp_path):
    """The command in the README, with the same result as two processes started by hand."""
    torchrun = [str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*torchrun, *command(data, tmp_path / "two", *updates(4))],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    train(data, tmp_path / "one", *updates(4, "optimization.update_freq=[2]"))
    assert not differences(
        checkpoint(tmp_path / "one")["model"], checkpoint(tmp_path / "two")["model"], rtol=1e-5, atol=1e-6
    )


def test_one_collective_an_update_for_all_codebooks(data, tmp_path, monkeypatch):
    """fairseq makes three: gradients, and the sample size with the values to log, on the host and on the device."""
    for name in ("all_reduce", "broadcast", "all_gather", "all_gather_object", "broadcast_object_list"):
        monkeypatch.setattr(torch.distributed, name, noted(getattr(torch.distributed, name), tmp_path / "calls"))
    setting = ["optimization.update_freq=[2]", "model.codebook_init=normal", "model.revive_after=2"]
    train_on_two_ranks(data, tmp_path / "two", *updates(4, *setting, "common.log_interval=2"))
    calls = Counter((tmp_path / "calls").read_text().splitlines())
    each_update = 2 * 4  # two ranks, 4 updates
    assert calls == {
        "all_reduce from dinosr_plugin/modules/codebook.py": each_update,
        "all_reduce from fairseq/distributed/legacy_distributed_data_parallel.py": each_update,
        "all_reduce from fairseq/distributed/utils.py": 2 * each_update,  # on updates that log and on others
        "broadcast from fairseq/distributed/utils.py": 2 * 4,  # at the start: which checkpoint to load
    }


def noted(function, path: Path):
    """``function``, which also writes its name and its caller's file to ``path``.

    If fairseq's helper of the same name is the caller, that helper's caller counts.
    """

    def wrapper(*args, **kwargs):
        frame = sys._getframe(1)
        if frame.f_code.co_name == function.__name__:
            frame = frame.f_back
        with open(path, "a") as file:
            file.write(f"{function.__name__} from {'/'.join(Path(frame.f_code.co_filename).parts[-3:])}\n")
        return function(*args, **kwargs)

    return wrapper


def test_two_ranks_resume_bit_for_bit(data, tmp_path):
    """Across the end of an epoch, where one of them has no batch."""
    setting = ["model.dropout=0.1", "model.revive_after=2", "model.codebook_size=24"]
    train_on_two_ranks(data, tmp_path / "whole", *updates(7, *setting))
    for end in (3, 7):
        train_on_two_ranks(data, tmp_path / "parts", *updates(7, *setting, f"optimization.max_update={end}"))
    assert checkpoint(tmp_path / "parts")["updates"] == 7
    assert not differences(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts"))


def test_ranks_stay_bit_identical(data, tmp_path):
    """50 updates with different numbers of masked frames and dropout, in which codewords die and are revived."""
    setting = [
        "model.dropout=0.1",
        "model.encoder_layerdrop=0.1",
        "model.revive_after=2",
        "model.codebook_size=24",
        "optimization.update_freq=[2]",
    ]
    first, second = train_on_two_ranks(data, tmp_path, *updates(50, *setting))
    assert not differences(first, second)
