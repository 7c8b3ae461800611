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


def test_a_report(shared_folder, work, capsys):
    trained = shared_folder(write_ssrl_run)
    assert dinosr("trials", trained / "train.tsv", "--out", "trials.txt") == 0
    assert dinosr("embed", "--mfcc", trained / "train.tsv", "--out", "e") == 0
    capsys.readouterr()
    (work / "page.html").write_text("an earlier page")
    options = ["--run", trained / "run", "--manifest", trained / "train.tsv", "--log", trained / "train.log"]
    options += ["--recordings", trained / "train.tsv", "--json", "new/page.json", "--resamples", 5, "--seed", 2]
    assert dinosr("report", "e", "trials.txt", "--out", "page.html", *options) == 0
    captured = capsys.readouterr()
    assert (
        captured.out == "page.html\n"
        and "8 recordings with 4 checkpoints; the results are kept in page.html.work" in captured.err
    )
    text = (work / "page.html").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>") and "embeddings of MFCC (26 dimensions)" in text
    data = json.loads((work / "new/page.json").read_text())
    assert [row["mean_weight"] is None for row in data["labels"]] == [True, *[False] * 4] and len(data["epochs"]) == 4
    assert data["verification"]["resamples"] == 5


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
    report = ["report", "e", "t", "--out", "p.html"]
    assert refused(capsys, *report, "--manifest", "m") == "--run is required with --manifest"
    assert refused(capsys, *report, "--recordings", "m") == "--run is required with --recordings"
    assert refused(capsys, *report, "--run", "r").startswith("--run: give --manifest, --recordings, or both")
    both = ["--run", "r", "--recordings", "m", "--log", "x"]
    assert refused(capsys, *report, *both) == "--manifest is required with --log"
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


def test_reports_that_cannot_be_made(work, capsys):
    names = [f"{speaker}/{n}.wav" for speaker in ("anna", "ben", "cleo") for n in range(3)]
    write_embeddings(work / "e", {name: [1, n] for n, name in enumerate(names)})
    (work / "others.txt").write_text("1 anna/0.wav anna/1.wav\n0 anna/0.wav dora/0.wav\n")
    (work / "trials.txt").write_text("1 anna/0.wav anna/1.wav\n0 anna/0.wav ben/0.wav\n")
    (work / "run/labels").mkdir(parents=True)
    (work / "speech.clusters").write_text("0\n" * 9)
    before = sorted(work.rglob("*"))

    def message(*options, trials="trials.txt", out="page.html") -> str:
        return refused(capsys, "report", "e", trials, "--out", out, *options)

    assert message(trials="others.txt").startswith("others.txt: 1 file(s) have no embedding in e (dora/0.wav)")
    assert message(out=work / "e") == f"--out {work}/e: is a folder; give the name of a file"
    assert message("--json", "e") == "--json e: is a folder; give the name of a file"
    labels, epochs = (["--run", "run", option, "speech.tsv"] for option in ("--manifest", "--recordings"))
    assert message(*labels).startswith("run/labels: contains no labels (epoch1.clusters ...); give the checkpoint.save")
    assert message(*epochs).startswith("run: 0 checkpoint(s) of whole epochs")
    assert sorted(work.rglob("*")) == before
    (work / "run/labels/epoch1.clusters").write_text("0\n1\n")
    assert message(*labels).startswith("run/labels/epoch1.clusters: 2 lines for the 9 rows of speech.tsv; give the man")
    for n in (1, 2):
        (work / f"run/checkpoint{n}.pt").write_text("text")
    assert message(*epochs).startswith("run/checkpoint1.pt: not a PyTorch file; give a checkpoint that a")
    assert not list(work.glob("page*"))


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
