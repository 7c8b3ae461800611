"""Refreshed labels: matched to the old ones, the same on any number of ranks, and unchanged by kills."""

import logging
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from dinosr_plugin.checkpoints.opening import open_reader
from dinosr_plugin.data.labels import read_labels
from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.training_log import read_training_log
from dinosr_plugin.modules.frame_labels import labels_of_frames
from dinosr_plugin.tasks import relabelling
from dinosr_plugin.tasks.checks import check_relabelling
from dinosr_plugin.tasks.pretraining import DinoSRPretrainingConfig
from dinosr_plugin.tasks.relabelling import draw_frames, frames_of_labels
from support.training import checkpoint, differences, train, train_on_two_ranks, write_corpus

CLASSES = 6
LENGTHS = [16000, 17000, 21000, 16500, 18000, 16000, 16000, 16000]  # 4 batches an epoch at 32000 samples a batch
SMALL = [
    "model.final_dim=8",
    "task.relabel_every=1",
    "task.relabel_layer=0",
    "task.max_sample_size=16000",
    "model.require_same_masks=false",
]
SCHEDULE = ["lr_scheduler.warmup_updates=2", "+lr_scheduler.total_num_update=40"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Tones with labels at 50 Hz that are random but for runs of the same."""
    folder = write_corpus(tmp_path_factory.mktemp("data"), lengths=LENGTHS)
    write_corpus(folder, "valid", LENGTHS[:3])
    for split, lengths in (("train", LENGTHS), ("valid", LENGTHS[:3])):
        rng = np.random.default_rng(0)
        rows = (np.repeat(rng.integers(CLASSES, size=n // 1600 + 1), 5)[: n // 320] for n in lengths)
        (folder / f"{split}.km").write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))
    (folder / "dict.km.txt").write_text("".join(f"{label} 1\n" for label in range(CLASSES)))
    return folder


def run(data, save_dir, updates: int, *more: str, ranks: int = 1):
    settings = [*SMALL, *SCHEDULE, f"optimization.max_update={updates}", *more]
    return (train if ranks == 1 else train_on_two_ranks)(data, save_dir, *settings, config="hubert_tiny")


# ---- frames and labels ---------------------------------------------------------------------------------------------


@given(st.integers(1, 200), st.sampled_from([50, 100]))
def test_labels_and_frames_find_each_other(n_frames, rate):
    n_labels = n_frames * rate // 50
    frames = frames_of_labels(n_labels, n_frames, rate, 320)
    back = labels_of_frames(torch.from_numpy(frames).view(1, 1, -1), torch.tensor([0]), rate, 320, n_frames)
    assert back.flatten().tolist() == list(range(n_frames))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=12), st.integers(1, 60), st.integers(0, 99))
def test_frames_are_drawn_without_replacement(counts, wanted, seed):
    rows, places = draw_frames(np.array(counts), wanted, [seed])
    drawn = [(row, int(position)) for row in rows for position in places[row][0]]
    assert len(drawn) == len(set(drawn)) == min(wanted, sum(counts)) and all(
        position < counts[row] for row, position in drawn
    )
    assert sorted(int(place) for row in rows for place in places[row][1]) == list(range(len(drawn)))


# ---- in training ---------------------------------------------------------------------------------------------------


def test_labels_are_the_clusters_of_the_layer_and_the_log_says_so(data, tmp_path, caplog):
    """Every frame has the label of its nearest centroid, so it is closer to the mean of its label than to others."""
    with caplog.at_level(logging.INFO):
        trainer = run(data, tmp_path, 6, "task.relabel_layer=1", f"common.log_file={tmp_path}/log")
    assert "new labels from layer 1: " in caplog.text
    known = checkpoint_state(tmp_path)["relabelled"]
    assert known["epoch"] == 2 and known["digests"].keys() == {"train"}
    labels = read_labels(tmp_path / "labels/train.epoch2.km", CLASSES, LENGTHS, 50)
    assert torch.equal(labels.values, trainer.task.dataset("train").labels[0].values)
    old = read_labels(data / "train.km", CLASSES, LENGTHS, 50)
    changed = float((labels.values != old.values).float().mean())
    assert 0 < changed < 1 - 1 / CLASSES  # no better than chance would be without matching, as good at least with it
    (record,) = [record for record in read_training_log(tmp_path / "log", "train") if "labels_changed" in record][:1]
    assert record["labels_changed"] == pytest.approx(changed, abs=1e-4) and 0 < record["labels_nmi"] < 1


def checkpoint_state(save_dir, name: str = "checkpoint_last.pt") -> dict:
    return torch.load(save_dir / name, weights_only=False)["task_state"]


@pytest.mark.parametrize("normalize", [False, True])
def test_features_are_those_that_the_tools_read(data, tmp_path, normalize):
    """In eval mode, of the whole utterance, whatever its batch."""
    trainer = run(data, tmp_path, 3)
    reader, dataset = open_reader(tmp_path / "checkpoint_last.pt"), trainer.task.dataset("train")
    found = dict(
        relabelling.layer_frames(trainer.get_model().eval(), dataset, range(len(dataset)), 1, normalize, "test")
    )
    for row, frames in found.items():
        (expected,) = reader.read([dataset[row]["source"]], [1])[0].layers
        expected = (
            (expected - expected.mean(0)) / (expected.var(0, correction=0) + 1e-5).sqrt() if normalize else expected
        )
        torch.testing.assert_close(torch.from_numpy(frames), expected, rtol=0, atol=1e-3 if normalize else 1e-4)
    assert sorted(found) == list(range(len(LENGTHS)))


def test_the_head_survives(data, tmp_path):
    """Labels that are refreshed repeatedly from the same model do not change."""
    trainer = run(data, tmp_path, 6)
    task, model = trainer.task, trainer.get_model()
    labels = task.dataset("train").labels[0].values
    relabelling.relabel(model, {"train": task.dataset("train")}, "train", 0, False, [1, 2])
    first = labels.clone()
    relabelling.relabel(model, {"train": task.dataset("train")}, "train", 0, False, [1, 2])
    assert torch.equal(labels, first) and model.training


@pytest.mark.parametrize("rate", [50, 100])
def test_kills_change_nothing(data, tmp_path, rate, monkeypatch):
    """Bit for bit the same if stopped before, during and after a refresh, at the end or in the middle of an epoch."""
    if rate == 100:
        shutil.copytree(data, tmp_path / "data", dirs_exist_ok=True)
        for split in ("train", "valid"):
            rows = (data / f"{split}.km").read_text().splitlines()
            (tmp_path / f"data/{split}.km").write_text(
                "".join(" ".join(label for label in row.split() for _ in "12") + "\n" for row in rows)
            )
    setting = ["model.dropout=0.1", "dataset.num_workers=1", f"task.label_rate={rate}", "task.relabel_every=2"]
    data = tmp_path / "data" if rate == 100 else data
    run(
        data, tmp_path / "whole", 19, *setting
    )  # epochs of 4 updates; relabelled at the start of the third and the fifth
    parts = tmp_path / "parts"
    run(data, parts, 8, *setting)
    for broken in ("new_centroids", "write_files"):
        with monkeypatch.context() as patch:
            patch.setattr(relabelling, broken, killed)
            with pytest.raises(KeyboardInterrupt):
                run(data, parts, 19, *setting)
    for end in (9, 12, 16, 17, 19):
        run(data, parts, end, *setting)
    assert checkpoint(parts)["updates"] == 19 and checkpoint_state(parts) == checkpoint_state(tmp_path / "whole")
    assert checkpoint_state(parts)["relabelled"]["epoch"] == 5
    assert not differences(checkpoint(tmp_path / "whole"), checkpoint(parts))


def killed(*_):
    raise KeyboardInterrupt


def test_two_ranks_equal_one(data, tmp_path):
    first, second = run(data, tmp_path / "two", 5, ranks=2)  # epochs of 2 updates
    assert not differences(first, second)
    run(data, tmp_path / "one", 5, "optimization.update_freq=[2]")
    assert checkpoint_state(tmp_path / "one") == checkpoint_state(tmp_path / "two")
    assert checkpoint_state(tmp_path / "two")["relabelled"]["epoch"] == 3
    assert not differences(checkpoint(tmp_path / "one")["model"], first, rtol=1e-4, atol=1e-5)


def test_two_ranks_resume_bit_for_bit(data, tmp_path):
    run(data, tmp_path / "whole", 6, ranks=2)
    for end in (3, 6):  # in the middle of an epoch with new labels
        run(data, tmp_path / "parts", end, ranks=2)
    assert not differences(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts"))


def test_validation_gets_labels_from_the_same_clusters(data, tmp_path):
    setting = ["dataset.disable_validation=false", "dataset.validate_interval_updates=4", "model.dropout=0.1"]
    trainer = run(data, tmp_path / "whole", 8, *setting)
    digests = checkpoint_state(tmp_path / "whole")["relabelled"]["digests"]
    assert digests.keys() == {"train", "valid"} and (tmp_path / "whole/labels/valid.epoch2.km").is_file()
    assert digests["valid"] == relabelling.digest(trainer.task.dataset("valid").labels[0])
    for end in (6, 8):  # the first in the middle of an epoch
        run(data, tmp_path / "parts", end, *setting)
    assert not differences(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts"))
    train_labels = read_labels(data / "train.km", CLASSES, LENGTHS, 50)
    assert relabelling.digest(train_labels) not in digests.values()


def test_unreadable_files_keep_their_labels(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data/sounds/train3.wav").write_bytes(b"no sound")
    manifest = tmp_path / "data/train.tsv"
    manifest.write_text(manifest.read_text().replace(str(data), str(tmp_path / "data")))
    trainer = run(tmp_path / "data", tmp_path / "run", 6, "task.skip_bad_audio=true")
    labels = trainer.task.dataset("train").labels[0]
    old = read_labels(data / "train.km", CLASSES, LENGTHS, 50)
    assert torch.equal(labels[3], old[3]) and not torch.equal(labels[2], old[2])


@pytest.mark.parametrize("moment", ["plan_batches", "cluster", "matching"])
def test_a_signal_interrupts_a_refresh(data, tmp_path, moment, monkeypatch):
    """With a checkpoint of the beginning of the epoch; the run that resumes from it is the same bit for bit."""
    run(data, tmp_path / "whole", 9)
    parts, broken_off = tmp_path / "parts", moment != "matching"  # after which no rank waits for another
    function = getattr(relabelling, moment)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(relabelling, moment, lambda *args: os.kill(os.getpid(), signal.SIGTERM) or function(*args))
        run(data, parts, 9, "checkpoint.save_interval=100")
    assert stop.value.code == 128 + signal.SIGTERM
    assert checkpoint(parts)["updates"] == (4 if broken_off else 5) and (parts / "labels").exists() != broken_off
    run(data, parts, 9)
    assert checkpoint_state(parts) == checkpoint_state(tmp_path / "whole")
    assert not differences(checkpoint(tmp_path / "whole"), checkpoint(parts))


def test_a_signal_to_one_rank_interrupts_a_refresh_on_both(data, tmp_path, monkeypatch):
    run(data, tmp_path / "whole", 5, ranks=2)
    parts, plan_batches = tmp_path / "parts", relabelling.plan_batches

    def interrupted(*args):
        if relabelling.rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return plan_batches(*args)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match=r"exit statuses \[143, 143\]"):
        patch.setattr(relabelling, "plan_batches", interrupted)
        run(data, parts, 5, ranks=2)
    assert checkpoint(parts)["updates"] == 2 and not (parts / "labels").exists()
    run(data, parts, 5, ranks=2)
    assert not differences(checkpoint(tmp_path / "whole"), checkpoint(parts))


# ---- what goes wrong -----------------------------------------------------------------------------------------------


def test_labels_that_are_gone_or_another_runs(data, tmp_path):
    run(data, tmp_path, 7)
    path = tmp_path / "labels/train.epoch2.km"
    text = path.read_text()
    path.write_text(text.replace("1", "2"))
    with pytest.raises(
        UserError, match=r"train\.epoch2\.km: not the labels that the checkpoint was trained on; put back"
    ):
        run(data, tmp_path, 8)
    path.unlink()
    with pytest.raises(UserError, match=r"train\.epoch2\.km: no such file; put back the labels"):
        run(data, tmp_path, 8)
    path.write_text(text)
    run(data, tmp_path, 8)


def test_a_new_run_from_an_old_checkpoint_starts_from_the_label_files(data, tmp_path):
    run(data, tmp_path / "old", 7)
    trainer = run(data, tmp_path / "new", 2, f"checkpoint.finetune_from_model={tmp_path}/old/checkpoint_last.pt")
    assert "relabelled" not in checkpoint_state(tmp_path / "new")
    old = read_labels(data / "train.km", CLASSES, LENGTHS, 50)
    assert torch.equal(trainer.task.dataset("train").labels[0].values, old.values)


@pytest.mark.parametrize("every", [0, 5])
def test_a_run_that_goes_on_keeps_its_labels(data, tmp_path, every):
    """... with another ``relabel_every`` too, whose last time would be before theirs: not those of the label files."""
    run(data, tmp_path, 7)
    trainer = run(data, tmp_path, 8, f"task.relabel_every={every}")
    assert checkpoint_state(tmp_path)["relabelled"]["epoch"] == 2
    labels = read_labels(tmp_path / "labels/train.epoch2.km", CLASSES, LENGTHS, 50)
    assert torch.equal(trainer.task.dataset("train").labels[0].values, labels.values)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"relabel_every": 1}, r"task\.relabel_layer=None: give the layer to cluster, 0 to 4"),
        ({"relabel_every": 1, "relabel_layer": 5}, r"task\.relabel_layer=5: give the layer"),
        (
            {"relabel_every": 1, "relabel_layer": 0, "labels": None},
            "there are no labels to start with; add task.labels=km",
        ),
        (
            {"relabel_every": 1, "relabel_layer": 0, "subsample": 0.5},
            "cannot be combined with task.multi_corpus_keys or task.subsample",
        ),
    ],
)
def test_settings_that_cannot_work(fields, message):
    cfg = OmegaConf.structured(DinoSRPretrainingConfig(**{"labels": "km", "tpu": False, **fields}))
    with pytest.raises(UserError, match=message):
        check_relabelling(cfg, 5)


def test_too_little_audio_for_the_clusters(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data/dict.km.txt").write_text("".join(f"{label} 1\n" for label in range(500)))
    with pytest.raises(UserError, match=r"42\d frames are too few for the 500 clusters"):
        run(tmp_path / "data", tmp_path / "run", 6)


def test_a_model_that_has_diverged(data, tmp_path):
    trainer = run(data, tmp_path, 2)
    model = trainer.get_model()
    with torch.no_grad():
        model.post_extract_proj.bias.fill_(float("nan"))
    with pytest.raises(UserError, match=r"task\.relabel_layer=0: returns NaN or infinity"):
        relabelling.relabel(model, {"train": trainer.task.dataset("train")}, "train", 0, False, [1])
