"""`dinosr speaker`: from a manifest to figures and clusters, and bad input."""

import json

import numpy as np
import pytest

from dinosr_plugin.cli import main
from support.paths import GOLDEN
from support.speakers import write_embeddings, write_speech
from support.ssrl import K, N, write_ssrl_run


def dinosr(*arguments) -> int:
    return main(["speaker", *map(str, arguments)])


@pytest.fixture
def work(tmp_path, monkeypatch):
    """The current folder, with ``speech.tsv``: three speakers with three recordings."""
    monkeypatch.chdir(tmp_path)
    write_speech(tmp_path, {"anna": [8000, 9000, 7000], "ben": [8000, 6000, 9000], "cleo": [5000, 6000, 7000]})
    return tmp_path


def refused(capsys, *arguments) -> str:
    """The message of a command that fails with one line."""
    capsys.readouterr()
    assert dinosr(*arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("error: ")


# ---- from end to end -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [["--mfcc"], [GOLDEN / "official_format_tiny.pt", "--layer", 2]])
def test_all_steps(source, work, capsys):
    assert dinosr("trials", "speech.tsv", "--out", "trials.txt", "--halves", "--seconds", 0.1) == 0
    assert capsys.readouterr().out == "trials.txt: 9 target and 54 nontarget trials of 3 speakers\n"
    positional = [part for part in source if part not in ("--layer", 2)]
    options = ["--layer", 2] if "--layer" in source else []
    assert dinosr("embed", *positional, "speech.tsv", "--trials", "trials.txt", "--out", "parts", *options) == 0
    assert dinosr("score", "parts", "trials.txt", "--out", "scores.txt") == 0
    capsys.readouterr()
    assert dinosr("eval", "scores.txt", "--json", "--resamples", 50, "--plot", "det.png") == 0
    from_scores = json.loads(capsys.readouterr().out)
    assert (work / "det.png").read_bytes().startswith(b"\x89PNG")
    assert dinosr("eval", "parts", "trials.txt", "--json", "--resamples", 50) == 0
    from_embeddings = json.loads(capsys.readouterr().out)
    assert from_scores["figures"] == from_embeddings["figures"] and from_scores["targets"] == 9
    assert dinosr("eval", "scores.txt", "--resamples", 50) == 0
    assert f"{100 * from_scores['figures']['eer']:.2f}" in capsys.readouterr().out


def test_clusters(work, capsys):
    voices = 3 * np.eye(3)
    write_embeddings(work / "e", {f"s{n % 3}/{n}.wav": voices[n % 3] + 0.1 * n for n in range(9)})
    assert dinosr("cluster", "e", "--clusters", 3, "--speakers", "--out", "c.tsv") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "c.tsv: 9 recordings in 3 clusters" and out[3].split() == ["1.000"] * 3 + ["3", "3", "9"]
    assert dinosr("cluster", "e", "--threshold", 1, "--out", "c.tsv") == 0
    assert capsys.readouterr().out == "c.tsv: 9 recordings in 9 clusters\n"


def test_clusters_of_a_classifier(shared_folder, work, capsys):
    """They have the numbers of the training's labels; only those that occur are counted."""
    trained = shared_folder(write_ssrl_run)
    checkpoint = trained / "run/checkpoint_last.pt"
    assert dinosr("embed", checkpoint, trained / "train.tsv", "--out", "e") == 0
    capsys.readouterr()
    assert dinosr("cluster", "e", "--classifier", checkpoint, "--speakers", "--out", "c.tsv") == 0
    lines = [line.split("\t") for line in (work / "c.tsv").read_text().splitlines()]
    assert [name for name, _ in lines] == [f"s{n // 2}/{n}.wav" for n in range(N)]
    clusters = {number for _, number in lines}
    assert clusters <= {str(number) for number in range(K)}
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"c.tsv: {N} recordings in {len(clusters)} clusters"
    assert out[3].split()[3:] == [str(len(clusters)), "4", str(N)]
    other = ["cluster", "e", "--classifier", trained / "run/checkpoint1.pt", "--out", "c.tsv"]
    assert refused(capsys, *other).startswith(f"e: was not made with {other[3]}; make embeddings with")


def test_a_cohort_changes_the_scores(work, capsys):
    rng = np.random.default_rng(0)
    write_embeddings(work / "e", {f"s{n // 3}/{n}.wav": rng.normal(size=4) for n in range(9)})
    write_embeddings(work / "cohort", {f"c{n}/{n}.wav": rng.normal(size=4) for n in range(9)})
    (work / "trials.txt").write_text("1 s0/0.wav s0/1.wav\n0 s0/0.wav s1/3.wav\n1 x s0/1.wav\n")
    options = ["--cohort", "cohort", "--top", 5, "--skip-missing"]
    assert dinosr("score", "e", "trials.txt", "--out", "normalised.txt", *options) == 0
    captured = capsys.readouterr()
    assert captured.out == "normalised.txt: 2 scores\n"
    assert captured.err.startswith("note: trials.txt: 1 file(s) have no embedding in e (x); 1 of 3 trials left out")
    assert dinosr("score", "e", "trials.txt", "--out", "scores.txt", "--skip-missing") == 0
    assert (work / "scores.txt").read_text() != (work / "normalised.txt").read_text()


# ---- bad input -------------------------------------------------------------------------------------------------------


def test_options_that_do_not_go_together(work, capsys):
    assert refused(capsys, "embed", "speech.tsv", "--out", "e").startswith("CHECKPOINT: give either a checkpoint, or")
    both = ["embed", "x.pt", "speech.tsv", "--mfcc", "--out", "e"]
    assert refused(capsys, *both).startswith("CHECKPOINT: give either a checkpoint, or --mfcc")
    assert refused(capsys, "score", "e", "t", "--out", "s", "--top", 3) == "--cohort is required with --top"
    assert refused(capsys, "eval", "s", "--skip-missing").startswith("--skip-missing: only used with TRIALS")
    assert refused(capsys, "trials", "speech.tsv", "--out", "t", "--seed", -1).startswith("--seed -1: must be between")


def test_files_that_cannot_be_used(work, capsys):
    (work / "empty.txt").touch()
    assert "no such file" in refused(capsys, "trials", "nothing.tsv", "--out", "t")
    assert "no such checkpoint" in refused(capsys, "embed", "nothing.pt", "speech.tsv", "--out", "e")
    assert "empty list" in refused(capsys, "embed", "--mfcc", "speech.tsv", "--trials", "empty.txt", "--out", "e")
    assert "no such folder" in refused(capsys, "cluster", "e", "--clusters", 3, "--out", "c")
    assert "empty; make it" in refused(capsys, "eval", "empty.txt")
    (work / "some.txt").write_text("1 a b 0.5\n")
    assert "contains target trials only" in refused(capsys, "eval", "some.txt")
    (work / "some.txt").write_text("1 a b 0.5\n0 a c 0.5\n")
    assert refused(capsys, "eval", "some.txt", "--plot", work).startswith(f"--plot {work}: is a folder")
    assert sorted(path.name for path in work.iterdir()) == ["audio", "empty.txt", "some.txt", "speech.tsv"]


# ---- real speech -----------------------------------------------------------------------------------------------------


def test_mfcc_know_something_of_real_speakers(librispeech_mini, tmp_path, monkeypatch, capsys):
    """Random parts of 3 s of four speakers: far better than chance, far from good."""
    monkeypatch.chdir(tmp_path)
    assert main(["manifest", "folder", str(librispeech_mini / "dev"), "--out", ".", "--valid-share", "0"]) == 0
    assert dinosr("trials", "train.tsv", "--out", "trials.txt", "--per-speaker", 60, "--seconds", 3) == 0
    assert dinosr("embed", "--mfcc", "train.tsv", "--trials", "trials.txt", "--out", "parts") == 0
    capsys.readouterr()
    assert dinosr("eval", "parts", "trials.txt", "--json", "--resamples", 100) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["resampled"] == "speakers" and figures["units"] == 4
    assert 0.05 < figures["figures"]["eer"] < 0.3
