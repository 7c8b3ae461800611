"""Scores of trials, their normalisation by a cohort, their files, and the figures that are computed from them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.speakers import scores
from dinosr_plugin.evaluation.speakers.embeddings import Embeddings
from dinosr_plugin.evaluation.speakers.scores import read_scores, score_list, write_scores
from dinosr_plugin.evaluation.speakers.trials import Trial, write_trials
from dinosr_plugin.evaluation.speakers.verification import verify
from support.speakers import write_embeddings

WIDTH = 6


@pytest.fixture
def vectors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    voices = rng.normal(size=(8, WIDTH))
    return {f"s{n}/{k}.wav": voices[n] + 0.5 * rng.normal(size=WIDTH) for n in range(8) for k in range(3)}


@pytest.fixture
def folder(tmp_path, vectors):
    return write_embeddings(tmp_path / "embeddings", vectors)


@pytest.fixture
def trials(tmp_path, vectors):
    names = list(vectors)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    write_trials(tmp_path / "trials.txt", [Trial(a[:2] == b[:2], a, b) for a, b in pairs])
    return tmp_path / "trials.txt"


def cosine(x, y) -> float:
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def test_scores_are_cosines(folder, trials, vectors, monkeypatch):
    monkeypatch.setattr(scores, "CHUNK", 100)
    scored = score_list(folder, trials)
    assert len(scored.trials) == 24 * 23 // 2 and not scored.notes and scored.scores.dtype == np.float32
    expected = [cosine(vectors[trial.first], vectors[trial.second]) for trial in scored.trials]
    np.testing.assert_allclose(scored.scores, expected, atol=1e-6)


def test_neither_length_nor_its_range_changes_a_score(tmp_path, trials, vectors, folder):
    scaled = {name: vector * 10.0 ** (2 * i - 20) for i, (name, vector) in enumerate(vectors.items())}
    other = score_list(write_embeddings(tmp_path / "scaled", scaled), trials)
    np.testing.assert_allclose(other.scores, score_list(folder, trials).scores, atol=1e-6)


@pytest.mark.parametrize("top", [2, 5, 40, 300])
def test_adaptive_s_norm_equals_a_plain_loop(top, tmp_path, folder, trials, vectors, monkeypatch):
    monkeypatch.setattr(scores, "CHUNK", 100)
    rng = np.random.default_rng(1)
    cohort = {f"c{n}/0.wav": rng.normal(size=WIDTH) for n in range(40)}
    scored = score_list(folder, trials, write_embeddings(tmp_path / "cohort", cohort), top)

    def statistics(x) -> tuple[float, float]:
        nearest = sorted((cosine(x, other) for other in cohort.values()), reverse=True)[:top]
        return np.mean(nearest), np.std(nearest)

    for trial, score in zip(scored.trials[::20], scored.scores[::20]):
        sides = [statistics(vectors[name]) for name in trial[1:]]
        raw = cosine(vectors[trial.first], vectors[trial.second])
        assert score == pytest.approx(np.mean([(raw - mean) / deviation for mean, deviation in sides]), rel=1e-3)
    notes = [f"{tmp_path / 'cohort'}: contains 40 embeddings, so these are used instead of the top 300"]
    assert scored.notes == (notes if top == 300 else [])


def test_cohorts_that_cannot_be_used(tmp_path, folder, trials):
    cases = {
        "embeddings of width 3, those of .*embeddings have 6; make both": {"c/0.wav": [1, 2, 3], "c/1.wav": [1, 2, 2]},
        r"contains 1 file\(s\) of the trials \(s1/1.wav\); give": {"s1/1.wav": np.ones(6), "c/1.wav": np.ones(6)},
        "contains one embedding, and two are required": {"c/1.wav": np.ones(6)},
    }
    for number, (message, vectors) in enumerate(cases.items()):
        cohort = write_embeddings(tmp_path / f"cohort{number}", vectors)
        with pytest.raises(UserError, match=f"^--cohort {cohort}: {message}"):
            score_list(folder, trials, cohort)


def test_unknown_files(folder, trials):
    text = trials.read_text()
    trials.write_text(text + "0 x/1.wav s0/0.wav\n0 x/2.wav@0-9 x/3.wav\n1 x/3.wav x/4.wav\n")
    message = r"trials.txt: 4 file\(s\) have no embedding in .*embeddings \(x/1.wav, x/2.wav@0-9, x/3.wav, ...\)"
    with pytest.raises(UserError, match=f"{message}; embed them with .* --skip-missing"):
        score_list(folder, trials)
    scored = score_list(folder, trials, skip_missing=True)
    assert len(scored.trials) == 276 and "3 of 279 trials left out" in scored.notes[0]
    trials.write_text("1 x y\n")
    with pytest.raises(UserError, match=r"2 file\(s\) have no embedding"):
        score_list(folder, trials, skip_missing=True)


def test_folders_that_contain_no_embeddings(tmp_path):
    with pytest.raises(UserError, match="nothing: no such folder; create it with `dinosr speaker embed`"):
        Embeddings(tmp_path / "nothing")
    write_embeddings(tmp_path / "frames", {"a": np.ones(4)}, kind="mfcc")
    with pytest.raises(UserError, match="frames: contains features of frames, not embeddings of recordings; create it"):
        Embeddings(tmp_path / "frames")
    with pytest.raises(UserError, match="the embedding of b is 0 or not finite; remove the folder"):
        Embeddings(write_embeddings(tmp_path / "zero", {"a": [1, 0], "b": [0, 0]}))


# ---- files of scores, and figures ------------------------------------------------------------------------------------


def test_scores_from_a_file_are_those_that_were_written(tmp_path, folder, trials):
    scored = score_list(folder, trials)
    write_scores(tmp_path / "scores.txt", scored)
    read = read_scores(tmp_path / "scores.txt")
    assert read.trials == scored.trials and (read.scores.astype(np.float32) == scored.scores).all()
    from_file, in_memory = (verify(one, 20, 0, "x")[0] for one in (read, scored))
    assert from_file.threshold == pytest.approx(in_memory.threshold)
    assert replace(from_file, threshold=0) == replace(in_memory, threshold=0)


def test_lines_that_are_not_scores(tmp_path):
    path = tmp_path / "scores.txt"
    for line, message in (
        ("1 a b", "not `0|1 FILE FILE SCORE`; it is a trial list; make it with `dinosr speaker score`"),
        ("x a b 1", "not `0|1 FILE FILE SCORE`; make it"),
        ("", "not `0|1 FILE FILE SCORE`; make it"),
        ("1 a b nan", "the score must be a finite number"),
        ("1 a b 1,5", "the score must be a finite number"),
    ):
        path.write_text(f"1 a b 0.5\n{line}\n")
        with pytest.raises(UserError) as caught:
            read_scores(path)
        assert str(caught.value).startswith(f"{path} line 2: {message}")
    path.write_text("")
    with pytest.raises(UserError, match="scores.txt: empty; make it"):
        read_scores(path)


def test_figures_of_a_list(folder, trials):
    scored = score_list(folder, trials)
    figures, rates = verify(scored, 50, 0, "x")
    assert (figures.targets, figures.nontargets) == (24, 252)
    assert (figures.resampled, figures.units, figures.resamples) == ("speakers", 8, 50)
    targets, nontargets = scored.by_kind()
    assert len(targets) == 24 and targets.mean() > nontargets.mean()
    assert 0 < figures.figures["eer"] < 0.3 and figures.figures["min_dcf_0.01"] <= 1
    low, high = figures.intervals["eer"]
    assert 0 <= low <= figures.figures["eer"] <= high
    lines = figures.table().splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["EER", "minDCF(0.01)", "minDCF(0.05)"]
    assert f"{100 * figures.figures['eer']:.2f}" in lines[2] and "8 speakers" in lines[5]
    assert json.loads(json.dumps(figures.to_json()))["figures"] == figures.figures


def test_one_kind_of_trials(folder, trials):
    lines = trials.read_text().splitlines(keepends=True)
    for label, message in ((1, "target trials only.*that begin with 0"), (0, "nontarget trials only.*begin with 1")):
        trials.write_text("".join(line for line in lines if line.startswith(str(label))))
        with pytest.raises(UserError, match=f"^trials: contains {message}"):
            verify(score_list(folder, trials), 5, 0, "trials")
