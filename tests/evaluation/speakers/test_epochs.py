"""Verification with the checkpoint of each epoch: figures, resuming, bad input."""

import shutil

import pytest

from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.speakers import extraction
from dinosr_plugin.evaluation.speakers.epochs import measure_epochs
from dinosr_plugin.evaluation.speakers.extraction import embed_manifest
from dinosr_plugin.evaluation.speakers.scores import score_list
from dinosr_plugin.evaluation.speakers.trials import make_trials, write_trials
from dinosr_plugin.evaluation.speakers.verification import verify
from support.checkpoints import cut
from support.ssrl import write_ssrl_run


@pytest.fixture(scope="module")
def ssrl_run(shared_folder):
    return shared_folder(write_ssrl_run)


@pytest.fixture(scope="module")
def trials(ssrl_run):
    return make_trials(ssrl_run / "train.tsv").trials


@pytest.fixture
def two_epochs(ssrl_run, tmp_path):
    """A run with the checkpoints of two epochs, the later one first by name."""
    (tmp_path / "run").mkdir()
    shutil.copy(ssrl_run / "run/checkpoint1.pt", tmp_path / "run/checkpoint2.pt")
    shutil.copy(ssrl_run / "run/checkpoint4.pt", tmp_path / "run/checkpoint10.pt")
    shutil.copy(ssrl_run / "run/checkpoint4.pt", tmp_path / "run/checkpoint_10_99.pt")
    return tmp_path / "run"


def test_each_epoch_has_the_figures_of_its_checkpoint(two_epochs, ssrl_run, trials, tmp_path):
    rows = measure_epochs(two_epochs, ssrl_run / "train.tsv", trials, "t", tmp_path / "work", 20, 3)
    assert [row["epoch"] for row in rows] == [2, 10]
    write_trials(tmp_path / "trials.txt", trials)
    for row, name in zip(rows, ("checkpoint1.pt", "checkpoint4.pt")):
        embed_manifest(ssrl_run / "run" / name, ssrl_run / "train.tsv", tmp_path / name)
        expected, _ = verify(score_list(tmp_path / name, tmp_path / "trials.txt"), 20, 3, "t")
        assert row == {"epoch": row["epoch"], **expected.figures, "intervals": expected.intervals}
    assert any(rows[0][name] != rows[1][name] for name in (*expected.figures, "intervals"))


def test_a_second_call_embeds_nothing(two_epochs, ssrl_run, trials, tmp_path, monkeypatch):
    arguments = (ssrl_run / "train.tsv", trials, "t", tmp_path / "work", 20, 3)
    first = measure_epochs(two_epochs, *arguments)
    embedded = []
    monkeypatch.setattr(extraction, "embed_rows", lambda *arguments: embedded.extend(arguments[2]) or ())
    assert measure_epochs(two_epochs, *arguments) == first and embedded == []
    shutil.copy(two_epochs / "checkpoint10.pt", two_epochs / "checkpoint2.pt")  # of another training
    with pytest.raises(UserError, match="work/epoch2: contains features with fingerprint .*; remove it"):
        measure_epochs(two_epochs, *arguments)


def test_one_checkpoint_is_no_curve(two_epochs, trials, tmp_path):
    (two_epochs / "checkpoint2.pt").unlink()
    with pytest.raises(
        UserError, match=r"run: 1 checkpoint\(s\) of whole epochs .*save_interval=1, or omit --recordings"
    ):
        measure_epochs(two_epochs, "train.tsv", trials, "t", tmp_path / "work", 20, 3)


def test_a_checkpoint_that_cannot_be_read_is_refused_before_the_work(two_epochs, ssrl_run, trials, tmp_path):
    cut(two_epochs / "checkpoint10.pt")
    with pytest.raises(UserError, match="checkpoint10.pt: truncated; give a checkpoint that a training saved"):
        measure_epochs(two_epochs, ssrl_run / "train.tsv", trials, "t", tmp_path / "work", 20, 3)
    assert not (tmp_path / "work").exists()


def test_trials_of_other_recordings(two_epochs, ssrl_run, trials, tmp_path):
    lines = (ssrl_run / "train.tsv").read_text().splitlines()
    (tmp_path / "some.tsv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(
        UserError, match=r"^t: 1 file\(s\) are not in the manifest \(s3/7.wav\); give the manifest that"
    ):
        measure_epochs(two_epochs, tmp_path / "some.tsv", trials, "t", tmp_path / "work", 20, 3)
