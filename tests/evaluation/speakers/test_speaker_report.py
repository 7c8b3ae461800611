"""`dinosr speaker report`: its page, its data, and the parts that are left out."""

import base64
import json
import re
import sys

import numpy as np
import pytest

from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.speakers import speaker_map
from dinosr_plugin.evaluation.speakers.embeddings import Embeddings
from dinosr_plugin.evaluation.speakers.extraction import embed_manifest
from dinosr_plugin.evaluation.speakers.report import write_speaker_report
from dinosr_plugin.evaluation.speakers.scores import score_list
from dinosr_plugin.evaluation.speakers.trials import make_trials, write_trials
from dinosr_plugin.evaluation.speakers.verification import verify
from support.html_pages import Page
from support.speakers import write_embeddings
from support.ssrl import write_ssrl_run

PNG = "data:image/png;base64,"


@pytest.fixture
def work(tmp_path, monkeypatch):
    """The current folder, with ``e``, embeddings of ten speakers with four recordings each, and trials of them."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    voices = rng.normal(size=(10, 6))
    write_embeddings(tmp_path / "e", {f"s{n % 10}/{n}.wav": voices[n % 10] + rng.normal(0, 0.5, 6) for n in range(40)})
    lines = [f"1 s{n % 10}/{n}.wav s{n % 10}/{n + 10}.wav\n" for n in range(30)]
    lines += [f"0 s{n % 10}/{n}.wav s{(n + 3) % 10}/{n + 3}.wav\n" for n in range(30)]
    (tmp_path / "trials.txt").write_text("".join(lines))
    return tmp_path


@pytest.fixture(scope="module")
def trained(shared_folder, tmp_path_factory):
    """(folder of ``write_ssrl_run``, folder with ``embeddings`` and ``trials.txt``)."""
    run, folder = shared_folder(write_ssrl_run), tmp_path_factory.mktemp("trained")
    embed_manifest(run / "run/checkpoint_last.pt", run / "train.tsv", folder / "embeddings")
    write_trials(folder / "trials.txt", make_trials(run / "train.tsv").trials)
    return run, folder


def read_page(path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def pictures(page: Page) -> list[bytes]:
    return [base64.b64decode(image["src"].removeprefix(PNG), validate=True) for image in page.images]


# ---- without a training ----------------------------------------------------------------------------------------------


def test_the_page_has_the_figures_of_eval(work):
    write_speaker_report("e", "trials.txt", "page.html", resamples=50, seed=1, data="page.json")
    page, data = read_page(work / "page.html"), json.loads((work / "page.json").read_text())
    assert page.sections == ["verification", "map", "conventions"]
    expected, _ = verify(score_list("e", "trials.txt"), 50, 1, "t")
    assert page.rows[1:] == [[row["figure"], row["value"], row["interval"]] for row in expected.rows()]
    assert data["verification"] == json.loads(json.dumps(expected.to_json())) and data["labels"] == data["epochs"] == []
    assert (data["speakers"], data["recordings"], data["width"]) == (10, 40, 6)
    text = (work / "page.html").read_text(encoding="utf-8")
    assert f"<b>{expected.rows()[0]['value']}</b>" in text and "t-SNE (scikit-learn)" in text
    assert sorted(path.name for path in work.iterdir()) == ["e", "page.html", "page.json", "trials.txt"]


def test_the_page_has_no_external_resources(work):
    write_speaker_report("e", "trials.txt", "page.html", resamples=5)
    page, text = read_page(work / "page.html"), (work / "page.html").read_text(encoding="utf-8")
    assert not page.tags & {"script", "iframe", "object", "embed", "audio", "video"}
    assert all(link.startswith("data:") for link in page.links) and "default-src 'none'" in text
    assert not re.search(r"https?:|url\(|@import", text)
    assert len(page.images) == 2 and all(data.startswith(b"\x89PNG") for data in pictures(page))
    assert all(image["alt"] for image in page.images)


def test_the_curve_of_the_data_has_the_eer(work):
    write_speaker_report("e", "trials.txt", "page.html", resamples=5, data="page.json")
    data = json.loads((work / "page.json").read_text())
    false_alarm, miss = (np.array(data["det"][name]) for name in ("false_alarm", "miss"))
    assert (np.diff(miss) >= 0).all() and (np.diff(false_alarm) <= 0).all()
    crossing = int(np.argmax(miss >= false_alarm))
    low, high = (max(miss[k], false_alarm[k]) for k in (crossing, crossing - 1))
    assert min(low, high) >= data["verification"]["figures"]["eer"] >= min(miss[crossing], false_alarm[crossing])


def test_the_same_input_gives_the_same_page(work):
    for name in ("a.html", "b.html"):
        write_speaker_report("e", "trials.txt", name, resamples=5)
    assert (work / "a.html").read_bytes() == (work / "b.html").read_bytes()


def test_without_scikit_learn_the_map_is_made_by_pca(work, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    write_speaker_report("e", "trials.txt", "page.html", resamples=5, data="page.json")
    assert json.loads((work / "page.json").read_text())["map"] == {"method": "PCA", "recordings": 40, "speakers": 10}
    text = (work / "page.html").read_text(encoding="utf-8")
    assert "PCA: the two directions" in text and "PCA map of recordings" in text


def test_the_map_is_balanced_over_speakers(work, monkeypatch):
    monkeypatch.setattr(speaker_map, "RECORDINGS", 20)
    drawn = speaker_map.speaker_map(Embeddings("e"))
    assert np.unique(drawn.speakers, return_counts=True)[1].tolist() == [2] * 10
    assert drawn.projection.points.shape == (20, 2) and drawn.method == "t-SNE"
    write_embeddings(work / "flat", {"a.wav": [1, 2], "b/b.wav": [2, 1]})
    flat = speaker_map.speaker_map(Embeddings("flat"))
    assert flat.speakers.tolist() == ["", ""] and flat.method == "PCA"


def test_names_are_text_in_the_page(work):
    hostile = "<script>alert(1)<|script>&\x1b[2J\u202e"
    rng = np.random.default_rng(0)
    write_embeddings(work / hostile, {f"{hostile}{n % 2}/{n}.wav": rng.normal(size=3) for n in range(8)})
    lines = [f"{int(n == 2)} {hostile}0/0.wav {hostile}{n % 2}/{n}.wav\n" for n in (1, 2)]
    (work / f"{hostile}.txt").write_text("".join(lines))
    write_speaker_report(hostile, f"{hostile}.txt", "page.html", resamples=5)
    text = (work / "page.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;" in text and not set("\x1b\u202e") & set(text) and "script" not in Page(text).tags


def test_missing_embeddings_are_an_error_or_a_note(work):
    with open(work / "trials.txt", "a") as file:
        file.write("1 s0/0.wav x/x.wav\n")
    with pytest.raises(UserError, match=r"^trials.txt: 1 file\(s\) have no embedding in e \(x/x.wav\)"):
        write_speaker_report("e", "trials.txt", "page.html")
    said = []
    write_speaker_report("e", "trials.txt", "page.html", skip_missing=True, resamples=5, say=said.append)
    (note,) = said
    assert note.startswith("note: trials.txt: 1 file(s) have no embedding")
    assert note.removeprefix("note: ") in (work / "page.html").read_text(encoding="utf-8")


# ---- with a training -------------------------------------------------------------------------------------------------


def test_the_course_of_a_training(trained, tmp_path):
    run, folder = trained
    arguments = [folder / "embeddings", folder / "trials.txt", tmp_path / "page.html", run / "run", run / "train.tsv"]
    arguments += [run / "train.tsv", run / "train.log", tmp_path / "page.json"]
    write_speaker_report(*arguments, resamples=10)
    page, data = read_page(tmp_path / "page.html"), json.loads((tmp_path / "page.json").read_text())
    assert page.sections == ["verification", "epochs", "labels", "map", "conventions"] and len(page.images) == 8
    assert [row["epoch"] for row in data["labels"]] == [0, 1, 2, 3, 4] and data["notes"] == []
    weights = [row["mean_weight"] for row in data["labels"]]
    assert weights[0] is None and all(0 < weight <= 1 for weight in weights[1:])
    assert [row["epoch"] for row in data["epochs"]] == [1, 2, 3, 4]
    assert data["epochs"][-1]["eer"] == data["verification"]["figures"]["eer"]  # the embeddings are of the last one
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"<b>{data['labels'][-1]['clusters']}</b><h3>clusters in use</h3>" in text
    assert sorted(path.name for path in (tmp_path / "page.html.work").iterdir()) == [f"epoch{n}" for n in range(1, 5)]


def test_parts_of_a_training(trained, tmp_path):
    """Labels alone, with a note about the checkpoints; checkpoints alone."""
    run, folder = trained
    said: list[str] = []
    inputs = (folder / "embeddings", folder / "trials.txt", tmp_path / "page.html", run / "run")
    write_speaker_report(*inputs, manifest=run / "train.tsv", resamples=5, say=said.append)
    page = read_page(tmp_path / "page.html")
    assert page.sections == ["verification", "labels", "map", "conventions"] and len(page.images) == 5
    (note,) = said
    assert note.startswith("note: ") and note.endswith("--recordings adds verification with each of them")
    write_speaker_report(*inputs, recordings=run / "train.tsv", resamples=5)
    assert read_page(tmp_path / "page.html").sections == ["verification", "epochs", "map", "conventions"]
