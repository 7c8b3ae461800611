"""DINO and SSRL through fairseq's trainer: pseudo-labels in updates, in checkpoints, over ranks; what stops it."""

import copy
import logging
import math
import os
import signal
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch.testing import assert_close

from dinosr_plugin.checkpoints.classifier import PSEUDO_LABELS
from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.training_log import read_training_log
from dinosr_plugin.models.dino_speaker import DinoSpeaker
from dinosr_plugin.models.ssrl_speaker import SsrlSpeaker
from dinosr_plugin.modules.dino_loss import DinoLoss
from dinosr_plugin.tasks.speakers import DinoSRSpeakerConfig, DinoSRSpeakerTask
from support.ssrl import K, N, ssrl, write_ssrl_corpus
from support.training import checkpoint, differences, train, train_on_two_ranks

HEAD = ["model.head_hidden=[16,16]", "model.head_bottleneck=8", "model.head_outputs=16"]
HEAD += ["lr_scheduler.warmup_updates=1", "lr_scheduler.phase_updates=[5]", "model.freeze_last_layer_updates=1"]
HEAD += ["model.ema_anneal_end_step=10"]
SGD = ["optimizer._name=dino_sgd", "~optimizer.adam_betas", "~optimizer.adam_eps"]  # as in dino_speaker_ecapa
SGD += ["+optimizer.momentum=0.9", "+optimizer.clip_each=3.0", "optimization.lr=[0.05]"]
CROPS = "task.views=crop0.8+augment/crop0.8+augment/crop0.4+augment"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_ssrl_corpus(tmp_path_factory.mktemp("data"))


def dino(data: Path, save_dir: Path, updates: int, *overrides: str, run=train):
    settings = [CROPS, *HEAD, *SGD, f"optimization.max_update={updates}"]
    return run(data, save_dir, *settings, *overrides, config="dino_speaker_tiny")


def task_state(folder: Path, name: str = "checkpoint_last.pt") -> dict:
    return torch.load(folder / name, weights_only=False)["task_state"][PSEUDO_LABELS]


# ---- DINO ------------------------------------------------------------------------------------------------------------


def test_dino_moves_student_teacher_and_centre_and_holds_the_last_layer_at_first(data, tmp_path):
    last_layers = []
    for updates in (1, 2):
        model = dino(data, tmp_path / str(updates), updates, "checkpoint.no_save=true").get_model()
        last_layers.append(model.student.head.last_layer.weight.detach().clone())
    torch.manual_seed(1)
    assert model.criterion.centre.abs().sum() > 0
    teacher = model.teacher.model
    for name, ours in model.student.state_dict().items():
        if ours.is_floating_point() and "last_layer" not in name and "window" not in name and "filters" not in name:
            assert not torch.equal(ours, teacher.state_dict()[name]), name
    assert not torch.equal(*last_layers)  # the second update moves it
    first = dino(data, tmp_path / "more", 1, "model.freeze_last_layer_updates=2", "checkpoint.no_save=true").get_model()
    assert torch.equal(first.student.head.last_layer.weight, last_layers[0])


@pytest.mark.parametrize("half", ["false", "true"])
@pytest.mark.parametrize("stop", [1, 3])
def test_dino_resumes_exactly(data, tmp_path, stop, half):
    """Also while the last layer is not trained, and in half precision."""
    setting = ["optimizer.clip_each=0.05", "model.freeze_last_layer_updates=2", f"common.fp16={half}"]
    dino(data, tmp_path / "whole", 4, *setting)
    dino(data, tmp_path / "parts", stop, *setting)
    dino(data, tmp_path / "parts", 4, *setting)
    whole, parts = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")
    assert not differences(whole, parts)


def test_updates_of_dino_equal_those_of_plain_pytorch(data, tmp_path):
    """Of two micro-batches each; gradients are clipped and decayed as in DINO's code."""
    start, batches, forward = [], [], DinoSpeaker.forward

    def recorded(self, source, **inputs):
        if self.training and not self.batch_skipped:
            start.extend([] if start else [copy.deepcopy(self)])
            batches.append([view.clone() for view in source])
        return forward(self, source, **inputs)

    setting = ["optimizer.clip_each=0.05", "optimizer.weight_decay=0.1", "optimization.update_freq=[2]"]
    with mock.patch.object(DinoSpeaker, "forward", recorded):
        trained = dino(data, tmp_path, 3, *setting, "checkpoint.no_save=true").get_model()
    (model,), clipped = start, []
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    vectors = [p for p in parameters.values() if p.dim() == 1]
    matrices = {"params": [p for p in parameters.values() if p.dim() > 1], "weight_decay": 0.1}
    sgd = torch.optim.SGD([matrices, {"params": vectors}], momentum=0.9)
    for number, rate in enumerate((1e-5, 0.05, 1e-5 + (0.05 - 1e-5) * (1 + math.cos(math.pi / 5)) / 2)):
        model.begin_update()
        model.set_num_updates(number)
        sgd.zero_grad()
        outputs = [model(views) for views in batches[2 * number : 2 * number + 2]]
        sum(output.losses["dino"] for output in outputs).backward()
        for name, p in parameters.items():
            p.grad /= sum(output.sample_size for output in outputs)
            if p.grad.norm() > 0.05:
                p.grad *= 0.05 / p.grad.norm()
                clipped.append(name)
            if number == 0 and "last_layer" in name:
                p.grad = None
        for group in sgd.param_groups:
            group["lr"] = rate
        sgd.step()
        model.end_update(number + 1)
    assert 0 < len(set(clipped)) < len(parameters)
    assert not differences(trained.state_dict(), model.state_dict(), rtol=1e-4, atol=1e-6)


def test_dino_on_two_ranks_equals_one(data, tmp_path):
    """Batches of 4 on each of two ranks, and of 8 on one."""
    plain = ["task.views=crop0.8+peak/crop0.8+peak/crop0.4+peak", "optimizer.clip_each=0.05"]
    one = dino(data, tmp_path / "one", 4, *plain, "dataset.batch_size=8").get_model().state_dict()
    two = dino(data, tmp_path / "two", 4, *plain, run=train_on_two_ranks)
    assert not differences(two[0], two[1])
    assert not differences(two[0], one, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_last_layer_is_held_in_half_precision(data, tmp_path, precision):
    """Its float32 copy too, and it moves afterwards."""
    setting = [f"common.{precision}=true", "model.freeze_last_layer_updates=2", "checkpoint.no_save=true"]
    layers = []
    for updates in (1, 2, 3):
        trainer = dino(data, tmp_path, updates, *setting)
        names = [name for name, p in trainer.get_model().named_parameters() if p.requires_grad]
        copies = dict(zip(names, trainer.optimizer.fp32_params, strict=True))
        layers.append(copies["student.head.last_layer.weight"].detach().clone())
    assert torch.equal(layers[0], layers[1]) and not torch.equal(layers[1], layers[2])


def uniform(self, teacher):
    return torch.full_like(teacher.float(), 1 / teacher.size(-1))


def one_output(self, teacher):
    return F.one_hot(torch.zeros_like(teacher[..., 0]).long(), teacher.size(-1)).float()


def sure_of_one_output(self, student):
    return (50 * F.one_hot(torch.zeros_like(student[..., 0]).long(), student.size(-1)) + 0 * student).log_softmax(-1)


def even(self, student):
    return (0 * student).log_softmax(-1)


SAME = {"targets": one_output, "log_probs": sure_of_one_output}
FAULTS = [
    ({"targets": uniform}, "the targets are uniform (their entropy is 2.773 of at most ln 16 = 2.773, for 2 updates)"),
    (SAME, "the targets are the same for all utterances (the student's divergence from them is 0, with ln 16 = 2.773"),
    ({"log_probs": even}, "nothing is learned (the loss is 2.773; ln 16 = 2.773, that of guessing, for 2 updates)"),
]
STOP = ["task.on_collapse=stop", "task.collapse_patience=2"]


@pytest.mark.parametrize(("replaced", "message"), FAULTS)
def test_dino_stops_if_nothing_is_learned(data, tmp_path, replaced, message):
    """With a checkpoint, however the losses are weighted; the count starts again when the run resumes."""
    with mock.patch.multiple(DinoLoss, **replaced), pytest.raises(UserError) as error:
        dino(data, tmp_path, 9, *STOP, "+criterion.loss_weights={dino:3}")
    assert str(error.value).startswith(f"update 2: {message}") and str(error.value).endswith("task.on_collapse=stop")
    assert checkpoint(tmp_path)["updates"] == 2


def test_ranks_of_dino_stop_together(data, tmp_path):
    with mock.patch.multiple(DinoLoss, log_probs=even), pytest.raises(RuntimeError, match=r"exit statuses \[1, 1\]"):
        dino(data, tmp_path, 9, *STOP, run=train_on_two_ranks)
    assert checkpoint(tmp_path)["updates"] == 2


def test_dino_that_learns_is_not_stopped(data, tmp_path):
    setting = ["task.on_collapse=stop", "task.collapse_patience=1", "optimization.lr=[0.001]"]
    assert dino(data, tmp_path, 4, *setting).get_num_updates() == 4


# ---- SSRL ------------------------------------------------------------------------------------------------------------


def plain_label(queue: list[int], rule: str = "newest") -> int:
    counts = {label: queue.count(label) for label in queue}
    best = [label for label in queue if counts[label] == max(counts.values())]
    return best[-1] if rule == "newest" else best[0]


@pytest.fixture
def doubtful_teacher(monkeypatch):
    """Assigns clusters by the loudness of crops, which differ from epoch to epoch; untrained, it assigns one only."""

    def logits(self, source, labels, removed):
        waves = torch.sin(torch.arange(1.0, K + 1) * 500 * source.abs().mean(1, keepdim=True))  # (B, K)
        return 3 * waves.masked_fill(removed, -torch.inf)

    monkeypatch.setattr(SsrlSpeaker, "teacher_logits", logits)


def test_labels_follow_the_timeline_of_a_plain_implementation(data, tmp_path, doubtful_teacher):
    """Queues of 3, two fixed epochs: the teacher's labels count from the first epoch on."""
    ssrl(data, tmp_path, 4)
    first = [row % K for row in range(N)]
    queues, labels, history = [[label] for label in first], first, set()
    for epoch in range(1, 5):
        state = task_state(tmp_path, f"checkpoint{epoch}.pt")
        assert state["epoch"] == epoch and state["seen_label"].eq(-1).all()
        seen = state["queue"][:, -1].tolist()  # batches of 4 leave none of 8 utterances out
        queues = [[*queue, label][-3:] for queue, label in zip(queues, seen)]
        assert state["queue"].tolist() == [[-1] * (3 - len(queue)) + queue for queue in queues]
        if epoch >= 2:
            labels = [plain_label(queue) for queue in queues]
        assert state["labels"].tolist() == labels
        assert state["removed"].tolist() == [epoch >= 2 and label not in labels for label in range(K)]
        assert (tmp_path / f"labels/epoch{epoch}.clusters").read_text().split() == [str(label) for label in labels]
        history.add(tuple(labels))
    assert len(history) >= 3  # labels changed more than once


def test_an_update_equals_a_plain_one(data, tmp_path):
    """The loss of student and teacher from their embeddings, in float64."""
    model = ssrl(data, tmp_path, 1).get_model()
    torch.manual_seed(3)
    views = [torch.randn(4, 8000), torch.randn(4, 12800)]
    labels, weights, removed = (
        torch.tensor([0, 2, 2, 0]),
        torch.tensor([1.0, 0.5, 0.0, 0.25]),
        torch.tensor([0, 1, 0]) > 0,
    )
    plain = copy.deepcopy(model)
    output = model(views, torch.arange(4), labels=labels, weights=weights, removed=removed, teacher_active=True)

    def logits(network, wave):
        rows = F.normalize(network.head.weight.double())
        cosine = F.normalize(network.encoder(wave).double()) @ rows.t()
        angle = cosine.clamp(-1 + 1e-9, 1 - 1e-9).arccos()
        chosen = F.one_hot(labels, K).bool()
        return (32 * torch.where(chosen, (angle + 0.2).cos(), cosine)).masked_fill(removed, float("-inf"))

    nll = F.cross_entropy(logits(plain.student, views[0]), labels, reduction="none")
    assert_close(output.losses["aam"].double(), (weights * nll).sum(), rtol=1e-5, atol=1e-5)
    assert output.sample_size == 1.75
    assert_close(model.assignment.logits.double(), logits(plain.teacher.model, views[1]), rtol=1e-4, atol=1e-4)
    # the teacher follows, with the running averages of batch norm
    before = {name: value.clone() for name, value in model.teacher.average().items()}
    model.set_num_updates(5)
    decay = 0.99 + 0.009 * 6 / 12
    model.end_update(6)
    for name, value in model.student.state_dict().items():
        if name in before and value.is_floating_point():
            assert_close(model.teacher.average()[name], decay * before[name] + (1 - decay) * value)


@pytest.mark.parametrize("interrupted", ["inside an epoch", "between epochs"])
def test_a_run_resumes_exactly(data, tmp_path, interrupted, doubtful_teacher):
    """2 updates an epoch, so that update 5 is the first of the third."""
    ssrl(data, tmp_path / "whole", 4)
    stop = 5 if interrupted == "inside an epoch" else 4
    ssrl(data, tmp_path / "parts", 4, f"optimization.max_update={stop}")
    ssrl(data, tmp_path / "parts", 4)
    same_runs(tmp_path / "whole", tmp_path / "parts")


def same_runs(one: Path, other: Path) -> None:
    """The last checkpoints, pseudo-labels included, and the files of labels."""
    assert not differences(checkpoint(one), checkpoint(other))
    ours, theirs = task_state(one), task_state(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name])
    files = [{file.name: file.read_text() for file in (folder / "labels").iterdir()} for folder in (one, other)]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (["optimization.max_epoch=3"], ["optimization.max_epoch=4"]),
        (["optimization.max_update=6"], ["optimization.max_update=0"]),  # the same moment
        (["optimization.max_update=6"], ["optimization.max_update=7"]),
    ],
)
def test_the_last_epoch_is_finished_and_a_longer_run_continues_from_it(data, tmp_path, first, then, doubtful_teacher):
    """Two updates an epoch. Run again, a finished run changes nothing."""
    ssrl(data, tmp_path / "parts", 4, *first)
    assert task_state(tmp_path / "parts")["epoch"] == 3
    assert {file.name for file in (tmp_path / "parts/labels").iterdir()} == {f"epoch{n}.clusters" for n in (1, 2, 3)}
    before = checkpoint(tmp_path / "parts")
    ssrl(data, tmp_path / "parts", 4, *first)
    assert not differences(checkpoint(tmp_path / "parts"), before) and task_state(tmp_path / "parts")["epoch"] == 3
    ssrl(data, tmp_path / "parts", 4, *then)
    ssrl(data, tmp_path / "whole", 4, *then)
    same_runs(tmp_path / "whole", tmp_path / "parts")


def test_a_signal_in_the_last_update_of_an_epoch_saves_its_labels(data, tmp_path, doubtful_teacher):
    optimizer_step = DinoSRSpeakerTask.optimizer_step

    def interrupted(self, optimizer, model, update_num):
        optimizer_step(self, optimizer, model, update_num)
        if update_num == 5:  # the sixth
            os.kill(os.getpid(), signal.SIGUSR1)

    with mock.patch.object(DinoSRSpeakerTask, "optimizer_step", interrupted), pytest.raises(SystemExit):
        ssrl(data, tmp_path / "parts", 4)
    assert task_state(tmp_path / "parts")["epoch"] == 3
    ssrl(data, tmp_path / "parts", 4)
    ssrl(data, tmp_path / "whole", 4)
    same_runs(tmp_path / "whole", tmp_path / "parts")


def test_epochs_may_be_counted_from_1_again(data, tmp_path):
    ssrl(data, tmp_path, 3)
    before = task_state(tmp_path)
    ssrl(data, tmp_path, 1, "checkpoint.reset_dataloader=true")
    after = task_state(tmp_path)
    assert after["epoch"] == 1 and after["labels"].tolist() == before["labels"].tolist()  # a fixed epoch
    assert after["queue"][:, :-1].tolist() == before["queue"][:, 1:].tolist()


def test_two_ranks_equal_one(data, tmp_path, doubtful_teacher):
    """Batches of 4 on each of two ranks, and of 8 on one: batch norm, weights and labels are those of all eight."""
    plain = ["optimizer.adam_eps=1e-3", "optimization.lr=[0.001,0.001]", "task.views=crop0.5+peak/crop0.8+peak"]
    one = ssrl(data, tmp_path / "one", 4, *plain, "dataset.batch_size=8").get_model().state_dict()
    two = ssrl(data, tmp_path / "two", 4, *plain, run=train_on_two_ranks)
    assert not differences(two[0], two[1])
    assert not differences(two[0], one, rtol=1e-3, atol=1e-4)
    for name, value in task_state(tmp_path / "one").items():
        found = task_state(tmp_path / "two")[name]
        assert_close(value, found, rtol=1e-2, atol=1e-3, equal_nan=True) if torch.is_tensor(value) else None
    assert len({*task_state(tmp_path / "two")["labels"].tolist()}) > 1


def test_the_log_has_the_figures_of_the_labels(data, tmp_path, doubtful_teacher):
    """Each with the epoch that led to them, the last one included."""
    ssrl(data, tmp_path, 3, f"common.log_file={tmp_path}/log")
    records = read_training_log(tmp_path / "log", "train")
    assert [record["epoch"] for record in records] == [1, 2, 3]
    for epoch, record in enumerate(records, 1):
        labels = (tmp_path / f"labels/epoch{epoch}.clusters").read_text().split()
        counts = [labels.count(label) for label in {*labels}]
        assert record["clusters"] == len(counts) and record["largest_cluster"] == pytest.approx(
            max(counts) / N, abs=1e-4
        )
        assert {"labels_changed", "labels_nmi", "mean_weight", "clean_share"} <= record.keys()


@pytest.mark.parametrize("run", [train, train_on_two_ranks])
def test_labels_that_collapse_stop_the_run_when_the_epoch_ends(data, tmp_path, run):
    """With the checkpoint of this epoch; in the fixed epochs before, labels are not updated."""

    def always_the_first(self, *inputs):
        return teacher_logits(self, *inputs).index_fill(1, torch.tensor([0]), 99.0)

    teacher_logits = SsrlSpeaker.teacher_logits
    error = RuntimeError if run is train_on_two_ranks else UserError
    with mock.patch.object(SsrlSpeaker, "teacher_logits", always_the_first), pytest.raises(error) as raised:
        ssrl(data, tmp_path, 4, "task.on_collapse=stop", "task.label_queue=1", run=run)
    if run is train:
        message = "epoch 2: the labels of utterances have collapsed (one cluster has all utterances); lower optim"
        assert str(raised.value).startswith(message)
    state = task_state(tmp_path)
    assert state["epoch"] == 2 and state["labels"].tolist() == [0] * N


# ---- what it starts from ---------------------------------------------------------------------------------------------


def test_ssrl_starts_with_the_teacher_of_dino(data, tmp_path):
    source = dino(data, tmp_path / "dino", 2).get_model()
    start = f"model.start_from={tmp_path}/dino/checkpoint_last.pt"
    model = ssrl(data, tmp_path / "ssrl", 1, start, "optimization.lr=[0,0]", "lr_scheduler.min_lr=0").get_model()
    theirs = source.teacher.model.encoder.state_dict()
    for name, value in model.student.encoder.state_dict().items():
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(value, theirs[name]), name


def test_a_frame_model_becomes_a_speaker_model(data, tmp_path):
    """``encoder=trunk``: the trunk keeps its weights unless it is trained."""
    frames = train(data, tmp_path / "frames", "optimization.max_update=4").get_model()
    start = [f"model.start_from={tmp_path}/frames/checkpoint_last.pt", "model.encoder=trunk", "task.normalize=true"]
    frozen, trained = (
        dino(data, tmp_path / setting, 2, *start, f"model.train_trunk={setting}").get_model().student.encoder.trunk
        for setting in ("false", "true")
    )
    assert not differences(frozen.encoder.state_dict(), frames.encoder.state_dict())
    assert differences(trained.encoder.state_dict(), frames.encoder.state_dict())


# ---- what stops it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.labels=null"], "task.labels: not given, but model=ssrl_speaker learns from clusters of utterances"),
        (["task.labels=other"], "dict.other.txt: no such file"),
        (["task.views=crop2"], "task.views=crop2: 1 view, but model=ssrl_speaker learns from 2 of each utterance"),
        (["task.views=clean/crop2"], "speaker models learn from crops of one length; begin every view with crop"),
        (
            ["lr_scheduler.phase_updates=[4]"],
            "lr_scheduler.phase_updates=.*: give one number of updates for",
        ),
        (["+task.subsample=0.5"], "task.labels=clusters: cannot be combined with task.multi_corpus_keys or task.subsa"),
        (["+task.collapse_patience=5"], "task.collapse_patience=5: model=ssrl_speaker is watched once an epoch; remo"),
        (["model.encoder=trunk"], "model.encoder=trunk needs a checkpoint with a Transformer of frames"),
        (["model.channels=[8,6,16]"], "model.channels=.*kernels"),
    ],
)
def test_what_cannot_be_trained_is_refused(data, tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        ssrl(data, tmp_path, 1, *overrides)


@pytest.mark.parametrize(
    ("clusters", "labels", "message"),
    [
        (
            12,
            range(N),
            r"train.clusters: 8 utterances are fewer than the 12 clusters; number clusters from 0",
        ),
        (1, [0] * N, r"dict.clusters.txt: one cluster only; give labels of two or more, as `dinosr kmeans apply`"),
        (3, [2] * N, r"train.clusters: all utterances are in one cluster; give labels of two or more"),
        (3, [0] * (N - 1), r"train.clusters: 7 lines for the 8 rows of train.tsv; give it one cluster"),
        (3, [3] * N, r"train.clusters line 1: there is no cluster 3; clusters are 0 to 2"),
    ],
)
def test_labels_that_cannot_be_learned(data, tmp_path, clusters, labels, message):
    with pytest.raises(UserError, match=f"{message}") as error:
        ssrl(with_labels(data, tmp_path / "data", clusters, labels), tmp_path / "run", 1)
    assert "\n" not in str(error.value)


def with_labels(data: Path, folder: Path, clusters: int, labels) -> Path:
    """The manifest of ``data`` with other labels."""
    folder.mkdir()
    (folder / "train.tsv").write_text((data / "train.tsv").read_text())
    (folder / "train.clusters").write_text("".join(f"{label}\n" for label in labels))
    (folder / "dict.clusters.txt").write_text("".join(f"{label} 1\n" for label in range(clusters)))
    return folder


def test_not_all_clusters_need_be_used(data, tmp_path):
    """A cluster without utterances at first may get some later."""
    other = with_labels(data, tmp_path / "data", 5, [0, 3] * (N // 2))
    trainer = ssrl(other, tmp_path / "run", 1)
    assert trainer.get_model().classifier.weight.size(0) == 5
    state = task_state(tmp_path / "run")
    assert state["initial"].tolist() == [True, False, False, True, False] and not state["removed"].any()


@pytest.mark.parametrize("run", [dino, ssrl])
def test_one_utterance_is_not_enough(data, tmp_path, run):
    root, first, *_ = (data / "train.tsv").read_text().splitlines()
    one = with_labels(data, tmp_path / "data", 2, [0])
    (one / "train.tsv").write_text(f"{root}\n{first}\n")
    with pytest.raises(UserError, match=r"train\.tsv: one utterance, but speaker models compare several; train on two"):
        run(one, tmp_path / "run", 1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["dataset.batch_size=1"],
            "dataset.batch_size=1: allows batches of one utterance, but batch norm need",
        ),
        (
            ["dataset.max_tokens=41599"],
            "dataset.max_tokens=41599: allows batches of one utterance, but batch norm ne",
        ),
    ],
)
def test_batches_of_one_utterance_are_refused(data, tmp_path, overrides, message):
    """A crop of 0.5 s and one of 0.8 s are 20800 samples."""
    with pytest.raises(UserError, match=f"^{message}"):
        ssrl(data, tmp_path, 1, *overrides)


def test_a_last_batch_that_is_not_full_is_left_out(data, tmp_path):
    """Also with batches of so many samples: 3 and 3 of 8 utterances, but not the other 2."""
    trainer = ssrl(data, tmp_path, 2, "dataset.max_tokens=70000", "task.fixed_epochs=1", "task.label_queue=1")
    assert trainer.get_num_updates() == 4
    assert task_state(tmp_path)["queue"].ge(0).sum() in range(6, N + 1)


def test_utterances_shorter_than_a_crop_are_counted_once(data, tmp_path, caplog):
    """Not again in the second epoch or by a worker."""
    with caplog.at_level(logging.INFO):
        ssrl(data, tmp_path, 2, "dataset.num_workers=1")
    lines = [message for message in caplog.messages if "shorter than" in message]
    assert lines == [f"{data}/train.tsv: 4 of 8 utterances are shorter than crop0.8 and are repeated to its length"]


@pytest.mark.parametrize("field", ["noise", "music", "babble", "rooms"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "empty manifest, no row after its first line; make it with `dinosr manifest`"),
        ("folder", "is a folder"),
        ("missing", "no such file"),
    ],
)
def test_sources_without_recordings(data, tmp_path, field, kind, message):
    source = tmp_path / field
    if kind == "empty":
        source.write_text(f"{tmp_path}\n")
    elif kind == "folder":
        source.mkdir()
    with pytest.raises(UserError, match=f"{field}.*{message}") as error:
        dino(data, tmp_path / "run", 1, f"+task.{field}={source}")
    assert "\n" not in str(error.value)


def test_ssrl_does_not_start_from_a_model_of_frames(data, tmp_path):
    train(data, tmp_path / "frames", "optimization.max_update=4")
    for run in (dino, ssrl):
        with pytest.raises(UserError, match="checkpoint_last.pt: contains DinoSR, not a speaker model; give a check"):
            run(data, tmp_path / "run", 1, f"model.start_from={tmp_path}/frames/checkpoint_last.pt")


def test_objectives_of_frames_are_refused(data):
    task = DinoSRSpeakerTask(OmegaConf.merge(OmegaConf.structured(DinoSRSpeakerConfig), {"data": str(data), "seed": 1}))
    with pytest.raises(UserError, match="model=dinosr: task=dinosr_speaker cannot train it; use task=dinosr_pretrain"):
        task.check_needs(task.objective_class("dinosr"), "dinosr")
