"""``dinosr report``: content of the page, no external resources, and messages about invalid input."""

import base64
import io
import json
import re
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import soundfile
import torch

from dinosr_plugin import cli
from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation import measuring
from dinosr_plugin.evaluation import report as report_module
from dinosr_plugin.evaluation.measures.abx.items import make_items, write_items
from dinosr_plugin.evaluation.phones import PhoneAlignment
from dinosr_plugin.evaluation.report import frame_map
from dinosr_plugin.evaluation.report.page import COLUMNS, page, round_as
from dinosr_plugin.evaluation.report.pictures import choose_stretch, run_lengths, runs
from dinosr_plugin.evaluation.report.words import key_figures
from dinosr_plugin.evaluation.speech import Speech, manifest_speakers
from dinosr_plugin.evaluation.web_page import Picture
from dinosr_plugin.units.batches import read_utterances
from support import paths
from support.fairseq_models import fairseq_checkpoint
from support.html_pages import Page

GOLDEN = paths.GOLDEN / "official_format_tiny.pt"  # 3 layers, 2 codebooks of 8
PITCH = {"AA": 300, "IY": 1200, "S": 4000, "SIL": 0}


@pytest.fixture(scope="module", autouse=True)
def small_map():
    """t-SNE of 3,000 frames is slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame_map, "FRAMES", 200)
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """dev.tsv, dev.phones.tsv and log: a tone of 120 ms for each phone, by two speakers."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    manifest, rows = [str(folder)], ["utt\tstart\tend\tphone"]
    for number in range(8):
        speaker = f"s{number % 2}"
        phones = ["SIL", *rng.choice(["AA", "IY", "S"], 30), "SIL"]
        tone = np.repeat([PITCH[phone] * (1 + 0.1 * (number % 2)) for phone in phones], 1920)
        wave = 0.3 * np.sin(2 * np.pi * np.cumsum(tone) / 16000) + rng.normal(0, 0.01, len(tone))
        (folder / speaker).mkdir(exist_ok=True)
        soundfile.write(folder / speaker / f"u{number}.wav", wave, 16000)
        manifest.append(f"{speaker}/u{number}.wav\t{len(wave)}")
        rows += [f"u{number}\t{0.12 * i:.2f}\t{0.12 * (i + 1):.2f}\t{phone}" for i, phone in enumerate(phones)]
    (folder / "dev.tsv").write_text("\n".join(manifest) + "\n")
    (folder / "dev.phones.tsv").write_text("\n".join(rows) + "\n")
    constant = {
        "target_entropy": "2.0",
        "lr": "0.1",
        "accuracy": "0.5",
        "active_codes": "7.5",
        "active_codes_0": "8",
        "active_codes_1": "7",
        "target_ppl": "6.5",
    }
    records = [{"num_updates": str(n), "loss": str(3 - n / 20), **constant} for n in range(1, 9)]
    (folder / "log").write_text("\n".join(map(json.dumps, records)) + "\n")
    return folder


def report(corpus: Path, out: Path, *more: str, checkpoint: Path = GOLDEN) -> int:
    tsv = str(corpus / "dev.tsv")
    return cli.main(
        [
            "report",
            str(checkpoint),
            "--manifest",
            tsv,
            "--train",
            tsv,
            "--phones",
            str(corpus / "dev.phones.tsv"),
            "--out",
            str(out),
            *more,
        ]
    )


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory) -> tuple:
    """(folder, figures, page) of a report."""
    out = tmp_path_factory.mktemp("report")
    assert report(corpus, out, "--log", str(corpus / "log")) == 0
    return out, json.loads((out / "figures.json").read_text()), Page((out / "report.html").read_text(encoding="utf-8"))


def test_the_head_describes_the_model_and_the_speech(finished):
    _, figures, _ = finished
    assert figures["updates"] == 3 and figures["checkpoint"] == GOLDEN.name
    assert {key: figures["model"][key] for key in ("name", "codebooks", "codebook_size")} == {
        "name": "DinoSR",
        "codebooks": 2,
        "codebook_size": 8,
    }
    assert (
        figures["measured_on"]["speakers"],
        figures["measured_on"]["utterances"],
        figures["measured_on"]["phones"],
    ) == (2, 8, 4)
    assert [row["kind"] for row in figures["rows"]].count("teacher") == 2 and figures["notes"] == []


def test_the_table_contains_the_figures(finished):
    _, figures, page = finished
    by_name = {row[0]: row[1:] for row in page.rows if len(row) == len(COLUMNS) + 1}
    assert len(by_name) == len(figures["rows"]) + 1  # including the header
    for row in figures["rows"]:
        shown = [cell.strip("\u2605\u00a0") for cell in by_name[row["name"]]]
        assert shown == ["-" if row[key] is None else format(row[key], spec) for key, _, _, spec, _ in COLUMNS]
    for place, (key, _, _, spec, better) in enumerate(COLUMNS):
        values = {row["name"]: round_as(row[key], spec) for row in figures["rows"] if row[key] is not None}
        stars = {name for name, cells in by_name.items() if cells[place].startswith("\u2605")}
        assert stars == (
            {name for name, value in values.items() if value == better(values.values())} if better else set()
        )


def test_key_figures_name_their_baselines(finished):
    out, figures, _ = finished
    text = (out / "report.html").read_text(encoding="utf-8")
    tiles = key_figures(figures)
    assert [title for title, _, _ in tiles] == [
        "phone information (PNMI)",
        "ABX error across speakers",
        "speaker information",
        "codes in use",
    ]
    teacher = [row for row in figures["rows"] if row["kind"] == "teacher"]
    assert tiles[0][1] == f"{max(row['pnmi'] for row in teacher):.3f}"
    untrained = max(row["pnmi"] for row in figures["rows"] if row["kind"] == "untrained")
    assert f"MFCC {figures['rows'][0]['pnmi']:.3f}" in tiles[0][2] and f"best layer {untrained:.3f}." in tiles[0][2]
    assert all(f"<b>{value}</b>" in text and words in text for _, value, words in tiles)


def test_the_page_has_no_external_resources(finished):
    out, _, page = finished
    assert not page.tags & {"script", "iframe", "object", "embed", "audio", "video"}
    assert all(link.startswith("data:") for link in page.links)
    assert not re.search(r"https?:|url\(|@import", (out / "report.html").read_text(encoding="utf-8"))
    assert "default-src 'none'" in (out / "report.html").read_text(encoding="utf-8")
    assert page.sections == [
        "layers",
        "table",
        "meaning",
        "example",
        "durations",
        "map",
        "training",
        "use",
        "conventions",
    ]


def test_names_are_text_in_the_page(finished):
    """Every text of ``figures.json``, names from outside included, is escaped."""
    hostile = "<script>alert(1)</script>\"'&\x1b[2J\u202e"

    def changed(value, key=""):
        if isinstance(value, dict):
            return {key: changed(one, key) for key, one in value.items()}
        if isinstance(value, list):
            return [changed(one) for one in value]
        return hostile if isinstance(value, str) and key != "kind" else value

    figures = changed(json.loads((finished[0] / "figures.json").read_text()))
    text = page(figures, {"layers": [Picture(finished[0] / "example.png", hostile)]})
    assert "&lt;script&gt;" in text and not set("\x1b\u202e") & set(text)
    assert "script" not in Page(text).tags


def test_every_picture_is_embedded_and_a_file(finished):
    out, _, page = finished
    files = {path.read_bytes() for path in out.glob("*.png")}
    inside = [
        base64.b64decode(image["src"].removeprefix("data:image/png;base64,"), validate=True) for image in page.images
    ]
    assert files == set(inside) and len(files) == len(inside) == 19
    for data, image in zip(inside, page.images):
        height, width, _ = matplotlib.image.imread(io.BytesIO(data)).shape
        assert min(height, width) > 300 and image["alt"]


def test_figures_of_the_pictures(finished, corpus):
    _, figures, _ = finished
    counts = np.array(figures["code_counts"])  # (K, V)
    assert counts.shape == (2, 8) and (counts.sum(axis=1) == figures["rows"][0]["frames"]).all()
    assert figures["durations"]["unit"]["count"] * figures["durations"]["unit"]["mean_ms"] == pytest.approx(
        counts[0].sum() * 20
    )
    best = max((row for row in figures["rows"] if row["kind"] == "teacher"), key=lambda row: row["pnmi"])
    assert figures["durations"]["codebook"] == best["index"]
    for name in ("unit", "phone"):
        assert figures["durations"][name]["mean_ms"] == pytest.approx(best[f"{name}_ms"])
    assert figures["training"]["last"]["num_updates"] == 8 and figures["training"]["records"] == 8


def test_a_second_report_measures_nothing(finished, corpus, monkeypatch):
    out, figures, _ = finished
    page = (out / "report.html").read_bytes()
    monkeypatch.setattr(measuring, "figures_of", lambda *_: pytest.fail("measured again"))
    assert report(corpus, out, "--log", str(corpus / "log")) == 0
    assert json.loads((out / "figures.json").read_text()) == figures and (out / "report.html").read_bytes() == page
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_a_model_without_codebooks(corpus, tmp_path, capsys):
    fairseq_checkpoint(tmp_path / "hubert.pt", "hubert")
    state = torch.load(tmp_path / "hubert.pt", weights_only=False)
    del state["optimizer_history"][-1]["num_updates"]  # as in old checkpoints
    torch.save(state, tmp_path / "hubert.pt")
    assert report(corpus, tmp_path / "out", "--no-abx", checkpoint=tmp_path / "hubert.pt") == 1
    assert "hubert.pt: has no codebooks; give the number of clusters" in capsys.readouterr().err
    assert report(corpus, tmp_path / "out", "--no-abx", "--clusters", "6", checkpoint=tmp_path / "hubert.pt") == 0
    page = Page((tmp_path / "out/report.html").read_text(encoding="utf-8"))
    assert page.sections == ["layers", "table", "map", "conventions"]
    assert json.loads((tmp_path / "out/figures.json").read_text())["updates"] is None
    assert not any("ABX" in cell for cell in page.rows[0]) and "no training log was given" in capsys.readouterr().err


def test_without_phones(corpus, finished, tmp_path, capsys):
    """What needs no alignment is the same, the rest is left out, and a note says what would add it."""
    tsv = str(corpus / "dev.tsv")
    arguments = ["report", str(GOLDEN), "--manifest", tsv, "--train", tsv, "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    of_phones = ("phone_purity", "cluster_purity", "pnmi", "phone_ms")
    for row, known in zip(figures["rows"], finished[1]["rows"], strict=True):
        without = {key for key in row if key in of_phones or "abx" in key}
        assert row == {key: None if key in without else value for key, value in known.items()}
    assert figures["code_counts"] == finished[1]["code_counts"]
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.sections == ["layers", "table", "example", "durations", "map", "use", "conventions"]
    assert [title for title, _, _ in key_figures(figures)] == ["speaker information", "codes in use"]
    assert not any(word in " ".join(page.rows[0]) for word in ("PNMI", "phone", "ABX"))
    notes = capsys.readouterr().err
    assert "Montreal Forced Aligner" in notes and "no ABX: without a phone alignment it requires items" in notes
    text = re.sub('base64,[^"]*', "", (tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "Montreal Forced Aligner" in text and "None" not in text and "nan" not in text
    assert not list(tmp_path.glob("code_by_phone*")) + list(tmp_path.glob("map_phones*"))


def test_items_for_abx(corpus, tmp_path, monkeypatch, capsys):
    """Instead of the triphones of the alignment; the page of a corpus without alignment then has ABX."""
    items = make_items(PhoneAlignment.read(corpus / "dev.phones.tsv"), manifest_speakers(corpus / "dev.tsv"))
    write_items(tmp_path / "dev.item", items)
    measured = []

    def stop(reader, train, speech, measures, *_):
        measured.extend(measures)
        raise UserError("stopped")

    monkeypatch.setattr(report_module, "Comparison", stop)
    arguments = ["report", str(GOLDEN), "--manifest", str(corpus / "dev.tsv"), "--train", str(corpus / "dev.tsv")]
    arguments += ["--items", str(tmp_path / "dev.item"), "--out", str(tmp_path / "out")]
    for phones in ([], ["--phones", str(corpus / "dev.phones.tsv")]):
        assert cli.main([*arguments, *phones]) == 1
        error = capsys.readouterr().err
        assert error.endswith("error: stopped\n") and "no ABX" not in error
        assert measured[1].items == items
        measured.clear()
    assert cli.main([*arguments, "--no-abx"]) == 1
    assert "--items: not used with --no-abx" in capsys.readouterr().err


@pytest.fixture
def one_speaker(corpus, tmp_path) -> Path:
    """The utterances of the first speaker, with every other phone removed, so that there are no triphones."""
    lines = (corpus / "dev.tsv").read_text().splitlines()
    (tmp_path / "dev.tsv").write_text("\n".join([lines[0], *(line for line in lines if line.startswith("s0/"))]) + "\n")
    rows = [row for row in (corpus / "dev.phones.tsv").read_text().splitlines()[1:] if int(row[1]) % 2 == 0]
    (tmp_path / "dev.phones.tsv").write_text(
        "\n".join(["utt\tstart\tend\tphone", *(row for i, row in enumerate(rows) if i % 2)]) + "\n"
    )
    return tmp_path


def test_one_speaker_and_nothing_to_compare(one_speaker, capsys):
    assert report(one_speaker, one_speaker / "out") == 0
    figures = json.loads((one_speaker / "out/figures.json").read_text())
    assert figures["measured_on"]["speakers"] == 1 and all(row["unit_abx_within"] is None for row in figures["rows"])
    assert any(note.startswith("no ABX: ") for note in figures["notes"]) and "note: no ABX: " in capsys.readouterr().err
    assert not (one_speaker / "out/layers_abx_across.png").exists()
    titles = [title for title, _, _ in key_figures(figures)]
    assert titles == ["phone information (PNMI)", "codes in use"]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--log", "none"], "none: no such log"),
        (["--log", "empty.log"], "empty.log: contains no training loss; give the training.log"),
        (["--log", "nothing"], "nothing: contains no training loss"),
        (["--phones", "other.tsv"], "other.tsv: 8 of 8 utterances have no alignment (u0, u1, u2, ...)"),
        (["--out", "/proc/nowhere"], "--out /proc/nowhere: cannot be written"),
        (["--clusters", "9"], "--clusters 9: the codebooks of"),
        (["--train", "absent.tsv"], "absent.tsv"),
    ],
)
def test_invalid_input_gives_one_line_before_any_computation(corpus, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measuring, "figures_of", lambda *_: pytest.fail("measured"))
    Path("empty.log").write_text('{"epoch": 1}\n')
    Path("nothing").mkdir()
    Path("other.tsv").write_text("utt\tstart\tend\tphone\nx\t0\t1\tAA\n")
    assert report(corpus, tmp_path / "out", *options) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "out/report.html").exists()


def test_scikit_learn_is_missing(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert report(corpus, tmp_path / "out") == 1
    assert "pip install scikit-learn" in capsys.readouterr().err


# ---- parts -----------------------------------------------------------------------------------------------------------


def test_runs_of_units():
    units = np.array([3, 3, 3, 1, 3, 3])
    assert run_lengths(units).tolist() == [3, 1, 2] and run_lengths(units[:0]).tolist() == []
    segments = runs(units, 50, 0.0125)  # the centre of frame 0 is at 12.5 ms
    assert [unit for *_, unit in segments] == [3, 1, 3]
    times = [[0.0025, 0.0625], [0.0625, 0.0825], [0.0825, 0.1225]]
    np.testing.assert_allclose([segment[:2] for segment in segments], times)


def test_the_stretch_is_the_middle_of_an_utterance(corpus):
    phones, utterances = PhoneAlignment.read(corpus / "dev.phones.tsv"), read_utterances(corpus / "dev.tsv")
    codes = {u.name: np.arange(2 * ((u.samples - 400) // 320 + 1)).reshape(-1, 2) % 8 for u in utterances}  # (n, K)
    speech = Speech(phones, {u.name: "s" for u in utterances}, utterances)
    stretch = choose_stretch(speech, codes, 50, 0.0125)
    (chosen,) = (u for u in utterances if u.name == stretch.utt)
    length = chosen.samples / 16000
    shown = min(3.0, length)
    assert stretch.end - stretch.start == pytest.approx(shown) and stretch.start + stretch.end == pytest.approx(length)
    assert len(stretch.wave) == pytest.approx(shown * 16000, abs=1) and stretch.mel.shape[0] == 80
    for parts in (stretch.phones, *stretch.units):
        assert parts[0][0] <= stretch.start + 0.02 and parts[-1][1] >= stretch.end - 0.03
        assert all(end == pytest.approx(start) for (_, end, _), (start, _, _) in zip(parts, parts[1:]))
