"""The pseudo-labels of a training over its epochs: figures, rows without labels, bad input."""

import json
import shutil

import pytest
import torch

from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.measures.speaker_clusters import cluster_figures
from dinosr_plugin.evaluation.speakers.label_history import mean_weights, measure_labels
from dinosr_plugin.evaluation.training_log import read_training_log
from support.ssrl import N, write_ssrl_run

SPEAKERS = ["anna", "anna", "ben", "ben", "cleo"]
LABELS = {0: [0, 1, 1, 2, 2], 1: [0, 0, 1, 2, 2], 2: [0, 0, 1, 1, 2], 10: [0, 0, 1, 1, 3]}


@pytest.fixture
def work(tmp_path, monkeypatch):
    """The current folder, with ``train.tsv``, its first labels, and ``run`` with those of three epochs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "audio").mkdir()
    rows = [f"{speaker}/{n}.wav\t{16000 + n}" for n, speaker in enumerate(SPEAKERS)]
    (tmp_path / "train.tsv").write_text("\n".join([str(tmp_path / "audio"), *rows]) + "\n")
    (tmp_path / "run/labels").mkdir(parents=True)
    for epoch, labels in LABELS.items():
        name = f"run/labels/epoch{epoch}.groups" if epoch else "train.groups"
        (tmp_path / name).write_text("".join(f"{label}\n" for label in labels))
    return tmp_path


@pytest.fixture(scope="module")
def ssrl_run(shared_folder):
    return shared_folder(write_ssrl_run)


def test_every_epoch_is_compared_with_the_speakers_and_with_the_epoch_before(work):
    rows = measure_labels("run", "train.tsv")
    assert [row["epoch"] for row in rows] == [0, 1, 2, 10]
    for row in rows:
        assert {**row, **cluster_figures(LABELS[row["epoch"]], SPEAKERS)} == row
    assert [row["clusters"] for row in rows] == [3, 3, 3, 3] and [row["accuracy"] for row in rows] == [0.6, 0.8, 1, 1]
    assert [row["labels_changed"] for row in rows] == [None, 0.2, 0.2, None]


def test_a_training_has_the_figures_of_its_log(ssrl_run):
    """Clusters in use and changed labels."""
    log = read_training_log(ssrl_run / "train.log", "train")
    logged = {int(record["epoch"]): record for record in log if "clusters" in record}
    rows = measure_labels(ssrl_run / "run", ssrl_run / "train.tsv")
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4] and logged.keys() == {1, 2, 3, 4}
    assert rows[0]["files"] == N and rows[0]["speakers"] == 4
    for row in rows[1:]:
        assert row["clusters"] == logged[row["epoch"]]["clusters"]
        assert row["labels_changed"] == pytest.approx(logged[row["epoch"]]["labels_changed"], abs=1e-4)
    assert len({row["labels_changed"] for row in rows}) == 3


def test_rows_that_are_too_short_for_the_training_have_no_labels(ssrl_run, tmp_path):
    """Its checkpoints say what is too short. The first labels have a line for each row."""
    for name in ("train.tsv", "train.clusters"):
        shutil.copy(ssrl_run / name, tmp_path / name)
    shutil.copytree(ssrl_run / "run", tmp_path / "run")
    lines = (tmp_path / "train.tsv").read_text().splitlines()
    lines.insert(3, "s9/short.wav\t7999")
    (tmp_path / "train.tsv").write_text("\n".join(lines) + "\n")
    labels = (tmp_path / "train.clusters").read_text().splitlines()
    labels.insert(2, "0")
    (tmp_path / "train.clusters").write_text("\n".join(labels) + "\n")
    expected = measure_labels(ssrl_run / "run", ssrl_run / "train.tsv")
    assert measure_labels(tmp_path / "run", tmp_path / "train.tsv") == expected
    (tmp_path / "run/checkpoint_last.pt").unlink()
    assert measure_labels(tmp_path / "run", tmp_path / "train.tsv") == expected
    for epoch in range(1, 5):
        (tmp_path / f"run/checkpoint{epoch}.pt").unlink()
    with pytest.raises(UserError, match="labels/epoch1.clusters: 8 lines for the 9 rows of .*train.tsv; give the mani"):
        measure_labels(tmp_path / "run", tmp_path / "train.tsv")


def test_the_number_of_rows_that_are_long_enough_is_named(ssrl_run, tmp_path):
    lines = (ssrl_run / "train.tsv").read_text().splitlines()
    (tmp_path / "train.tsv").write_text("\n".join([*lines[:-1], "s9/short.wav\t7999"]) + "\n")
    shutil.copy(ssrl_run / "train.clusters", tmp_path)
    with pytest.raises(UserError, match="epoch1.clusters: 8 lines for the 7 rows of .*tsv with at least 8000 samples;"):
        measure_labels(ssrl_run / "run", tmp_path / "train.tsv")


# ---- the log ---------------------------------------------------------------------------------------------------------


def test_mean_weights_belong_to_the_epoch_they_are_logged_with(tmp_path):
    records = [
        {"epoch": 1, "train_num_updates": "2", "train_loss": "3"},
        {"epoch": 2, "train_num_updates": "4", "train_mean_weight": "1"},
        {"epoch": 3, "train_num_updates": "6", "train_mean_weight": "0.25"},
        {"epoch": 3, "num_updates": "7", "mean_weight": "9"},  # of train_inner
        {"epoch": 4, "train_num_updates": "8", "train_mean_weight": "nan"},
        {"epoch": 1e999, "train_num_updates": "9", "train_mean_weight": "1"},
    ]
    (tmp_path / "log").write_text("".join(f"[train][INFO] - {json.dumps(record)}\n" for record in records))
    assert mean_weights(tmp_path / "log") == {2: 1.0, 3: 0.25}


def test_mean_weights_of_a_training(ssrl_run):
    weights = mean_weights(ssrl_run / "train.log")
    assert weights.keys() == {1, 2, 3, 4}
    state = torch.load(ssrl_run / "run/checkpoint4.pt", weights_only=False)["task_state"]["pseudo_labels"]
    assert state["epoch"] == 4 and weights[4] == pytest.approx(float(state["weights"].mean()), abs=1e-4)


def test_a_log_without_mean_weights(tmp_path):
    (tmp_path / "log").write_text('{"epoch": 1, "train_num_updates": "2", "train_loss": "3"}\n')
    with pytest.raises(UserError, match="log: contains no mean weights of pseudo-labels.*omit --log"):
        mean_weights(tmp_path / "log")


# ---- bad input -------------------------------------------------------------------------------------------------------


def test_folders_without_labels(work):
    with pytest.raises(UserError, match="^nowhere: no such folder; give the checkpoint.save_dir of a training"):
        measure_labels("nowhere", "train.tsv")
    (work / "empty").mkdir()
    with pytest.raises(
        UserError, match=r"^empty/labels: contains no labels \(epoch1.clusters ...\); give .*omit --mani"
    ):
        measure_labels("empty", "train.tsv")
    (work / "run/labels/epoch1.others").touch()
    with pytest.raises(UserError, match=r"labels: contains labels of several trainings \(groups, others\); remove"):
        measure_labels("run", "train.tsv")


def test_labels_of_another_manifest(work):
    (work / "run/labels/epoch2.groups").write_text("0\n1\n")
    with pytest.raises(UserError, match="epoch2.groups: 2 lines for the 5 rows of train.tsv; give the manifest of the"):
        measure_labels("run", "train.tsv")
    (work / "run/labels/epoch2.groups").write_text("0\n1\nx\n0\n0\n")
    with pytest.raises(UserError, match="epoch2.groups line 3: 'x' is not one integer from 0; give the manifest"):
        measure_labels("run", "train.tsv")


def test_a_manifest_without_rows(work):
    (work / "train.tsv").write_text(f"{work}/audio\n")
    for name in ("train.groups", *(f"run/labels/epoch{epoch}.groups" for epoch in (1, 2, 10))):
        (work / name).write_text("")
    with pytest.raises(UserError, match="^train.tsv: no rows, or none with at least 0 samples; give the manifest of"):
        measure_labels("run", "train.tsv")


def test_first_labels_that_are_missing(work):
    (work / "train.groups").unlink()
    with pytest.raises(UserError, match="train.groups: no such file"):
        measure_labels("run", "train.tsv")


def test_speakers_that_are_not_known(work):
    rows = (work / "train.tsv").read_text()
    (work / "train.tsv").write_text(rows.replace("ben/", "anna/").replace("cleo/", "anna/"))
    with pytest.raises(UserError, match="^train.tsv: all files are of speaker anna; omit --manifest"):
        measure_labels("run", "train.tsv")
    (work / "train.tsv").write_text(rows.replace("cleo/", ""))
    with pytest.raises(UserError, match=r"^train.tsv: 1 file\(s\) are in no folder \(4.wav\).*omit --manifest"):
        measure_labels("run", "train.tsv")
