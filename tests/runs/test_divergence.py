"""A run that diverges ends with one line, on all ranks, and leaves its checkpoints as they are."""

import math
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from fairseq.trainer import Trainer

from dinosr_plugin.errors import UserError
from dinosr_plugin.runs.divergence import EXPLODED, FIRST, PATIENCE, LossWatch, divergence_error
from dinosr_plugin.runs.updates import loss_per_unit
from support.training import train, train_on_two_ranks, write_corpus

SCHEDULE = ["optimization.max_update=4", "lr_scheduler.phase_ratio=[0,0,1]", "lr_scheduler.final_lr_scale=1"]
DIVERGES = [*SCHEDULE, "optimization.lr=[1e9]", "checkpoint.save_interval_updates=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("data"))


def names(folder):
    return sorted(path.name for path in folder.glob("*.pt"))


def test_a_learning_rate_that_is_too_high(data, tmp_path):
    with pytest.raises(UserError) as error:
        train(data, tmp_path, *DIVERGES)
    assert str(error.value) == (
        "update 2: the gradients are NaN or infinite at the learning rate 1e+09; lower optimization.lr, lengthen the "
        "warm-up, or clip gradients (optimization.clip_norm); earlier checkpoints are unchanged"
    )
    assert names(tmp_path) == ["checkpoint_1_1.pt", "checkpoint_last.pt"]  # of the update before


def test_with_two_ranks(data, tmp_path, capfd):
    """fairseq would blame the ranks for different gradients."""
    with pytest.raises(RuntimeError, match=r"exit statuses \[1, 1\]"):
        train_on_two_ranks(data, tmp_path, *DIVERGES)
    assert (
        capfd.readouterr().err.count("UserError: update 2: the gradients are NaN or infinite at the learning rate") == 2
    )
    assert "crash.pt" not in names(tmp_path)


def test_the_scale_of_fp16_reaches_its_minimum(data, tmp_path):
    scale = ["common.fp16=true", "common.fp16_init_scale=4", "common.min_loss_scale=1"]
    with pytest.raises(
        UserError, match="^update [0-9]: the loss scale of fp16 fell to common.min_loss_scale=1.0 at the "
    ):
        train(data, tmp_path, *DIVERGES, *scale)
    assert "crash.pt" not in names(tmp_path)


@pytest.mark.parametrize(
    "norms, message",
    [
        (
            [1.0, 2.0],
            "update 8: the gradients differ between the ranks; set distributed_training.ddp_backend=legacy_ddp",
        ),
        ([float("nan")] * 2, "update 8: the gradients are NaN or infinite at the learning rate 0.5; lower"),
    ],
)
def test_norms_of_two_ranks(norms, message):
    trainer = SimpleNamespace(
        _grad_norm_buf=torch.zeros(2),
        data_parallel_rank=0,
        data_parallel_process_group=None,
        cfg=SimpleNamespace(common=SimpleNamespace(amp=False)),
        get_num_updates=lambda: 7,
        get_lr=lambda: 0.5,
    )

    def all_reduce(buffer, group):
        buffer.copy_(torch.tensor(norms))

    with mock.patch("fairseq.trainer.distributed_utils.all_reduce", all_reduce), pytest.raises(UserError) as error:
        Trainer._check_grad_norms(trainer, torch.tensor(norms[0]))
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def losses(*values):
    """What is logged of updates with these losses."""
    watch = LossWatch()
    for number, loss in enumerate(values, start=1):
        watch.update(loss, number)


def test_a_loss_that_explodes_is_reported_every_so_many_updates(caplog):
    losses(*[5.0] * FIRST, *[4.0] * 5, *[EXPLODED * 5.0 + 1] * (2 * PATIENCE))
    number = FIRST + 5 + PATIENCE
    assert caplog.messages[0] == (
        f"update {number}: the loss is 51, and was 5 in the first updates, so the run diverges; lower "
        "optimization.lr, lengthen the warm-up, or clip gradients (optimization.clip_norm)"
    )
    assert len(caplog.messages) == 2 and caplog.messages[1].startswith(f"update {number + PATIENCE}: ")


@pytest.mark.parametrize(
    "values",
    [
        [5.0] * 100,
        [5.0] * FIRST + [1000.0, 4.0] * 100,  # single batches
        [5.0] * FIRST + [math.nan] * 100,  # reported elsewhere
        [-5.0] * FIRST + [-1.0] * 100,  # a loss that may be negative
        [0.0] * FIRST + [1.0] * 100,
    ],
)
def test_other_losses_are_not_reported(values, caplog):
    losses(*values)
    assert not caplog.records


def test_the_loss_of_an_update_is_that_of_all_micro_batches():
    ctc = [{"loss": 6.0, "sample_size": 2, "ntokens": 30}, {"loss": 3.0, "sample_size": 1, "ntokens": 30}]
    assert loss_per_unit(ctc) == 3.0
    assert loss_per_unit([{"loss": torch.tensor(6.0), "ntokens": 3}]) == 2.0
    assert loss_per_unit([{"loss": 0.0, "ntokens": 0}]) == 0.0


@pytest.mark.parametrize("zero_infinity", [False, True])
def test_transcripts_that_are_too_long_may_be_the_cause(zero_infinity):
    criterion = SimpleNamespace(zero_infinity=zero_infinity)
    trainer = SimpleNamespace(get_num_updates=lambda: 7, get_lr=lambda: 0.5, criterion=criterion)
    message = str(divergence_error(trainer, "the gradients are NaN or infinite"))
    assert ("set criterion.zero_infinity=true, which transcripts with too few frames need, or" in message) is not (
        zero_infinity
    )
