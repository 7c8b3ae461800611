"""``dinosr quality``, ``abx`` and ``report`` on a Spin checkpoint, and the speaker probe in the table."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dinosr_plugin import cli
from dinosr_plugin.checkpoints.opening import open_reader
from dinosr_plugin.evaluation.comparison import Comparison
from dinosr_plugin.evaluation.measures import speaker
from dinosr_plugin.evaluation.measures.abx.errors import abx
from dinosr_plugin.evaluation.measures.abx.items import make_items
from dinosr_plugin.evaluation.measures.speaker import SpeakerProbe
from dinosr_plugin.evaluation.measuring import Source
from dinosr_plugin.evaluation.phones import PhoneAlignment
from dinosr_plugin.evaluation.report import frame_map
from dinosr_plugin.evaluation.speech import Speech, manifest_speakers
from dinosr_plugin.units.features import LiveFeatures
from support.paths import GOLDEN
from support.spin import UPDATES, spin_checkpoint

RATE = 16_000
TONES = {"AA": 300.0, "IY": 1200.0, "S": 5000.0}


@pytest.fixture(scope="module", autouse=True)
def fast():
    """A map of few frames, and a probe without a choice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame_map, "FRAMES", 100)
        patch.setattr(speaker, "PENALTIES", (1.0,))
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """spin.pt, dev.tsv and dev.phones.tsv: two speakers with three utterances, a tone of 0.1 s for each phone."""
    folder = tmp_path_factory.mktemp("corpus")
    spin_checkpoint(folder / "spin.pt")
    time, manifest, rows = np.arange(RATE // 10) / RATE, [str(folder)], ["utt\tstart\tend\tphone"]
    for number in range(6):
        rng = np.random.default_rng(number)
        order = rng.permutation([*TONES] * 5)
        pitch = 1 + 0.3 * (number % 2)
        wave = np.concatenate([0.3 * np.sin(2 * np.pi * pitch * TONES[phone] * time) for phone in order])
        path = folder / f"speaker{number % 2}/u{number}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, wave + rng.normal(0, 0.002, len(wave)), RATE)
        manifest.append(f"{path.relative_to(folder)}\t{len(wave)}")
        rows += [f"u{number}\t{i / 10:.1f}\t{(i + 1) / 10:.1f}\t{phone}" for i, phone in enumerate(order)]
    (folder / "dev.tsv").write_text("\n".join(manifest) + "\n")
    (folder / "dev.phones.tsv").write_text("\n".join(rows) + "\n")
    return folder


def run(corpus: Path, command: str, *more) -> int:
    speech = ["--manifest", corpus / "dev.tsv", "--phones", corpus / "dev.phones.tsv"]
    return cli.main([str(word) for word in (command, *more, *speech)])


@pytest.fixture(scope="module")
def measured(corpus, tmp_path_factory) -> tuple[Path, list[dict]]:
    """The folder that `dinosr quality --train --abx --speakers` writes, and its rows."""
    out = tmp_path_factory.mktemp("quality")
    more = ["--train", corpus / "dev.tsv", "--abx", "--speakers", "--out", out]
    assert run(corpus, "quality", corpus / "spin.pt", *more) == 0
    return out, json.loads((out / "quality.json").read_text())["rows"]


def test_rows_of_quality(measured):
    out, rows = measured
    layers = [(kind, i) for kind in ("untrained", "layer") for i in range(3)]
    expected = [("mfcc", None), ("fbank", None), *layers, ("output", None), ("codebook", 0)]
    assert [(row["kind"], row["index"]) for row in rows] == expected
    assert [row["name"] for row in rows[-3:]] == ["layer 2", "projection", "codebook"]
    assert all(row["n_codes"] == 8 and row["unit_abx_across"] is not None for row in rows)
    assert [row["name"] for row in rows if row["abx_across"] is None] == ["codebook"]
    assert [row["name"] for row in rows if row["speaker_accuracy"] is None] == ["MFCC", "log-Mel", "codebook"]
    assert all(0 <= row["unit_speaker_accuracy"] <= 1 for row in rows)
    assert {(row["speaker_chance"], row["probed_speakers"], row["probed_utterances"]) for row in rows} == {(0.5, 2, 6)}
    history = json.loads((out / "quality.json").read_text())["history"]
    assert [list(entry) for entry in history] == [["updates", "codebook", "loss"]]
    assert history[0]["updates"] == UPDATES and (out / "curves.png").exists()


def test_figures_of_the_projection_equal_those_of_separate_steps(corpus, measured):
    row = measured[1][-2]
    features = LiveFeatures.of_layer(corpus / "spin.pt", corpus / "dev.tsv", "projection")
    items = make_items(PhoneAlignment.read(corpus / "dev.phones.tsv"), manifest_speakers(corpus / "dev.tsv"))
    errors = abx(features, items, 50.0, "angular").as_dict()
    assert (row["abx_within"], row["abx_across"]) == pytest.approx((errors["within"], errors["across"]))
    speech, _ = Speech.read(corpus / "dev.tsv", PhoneAlignment.read(corpus / "dev.phones.tsv"))
    figures = SpeakerProbe()(Source("projection", 50, 0.0125, features), speech)
    assert row["speaker_accuracy"] == figures["speaker_accuracy"]


def test_quality_of_the_codebook_alone_and_of_its_unit_file(corpus, measured, tmp_path, capsys):
    assert run(corpus, "quality", corpus / "spin.pt") == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table] == ["after", "units", "--------", "codebook"]
    assert "speaker probe" not in table[1]
    assert cli.main(["units", str(corpus / "spin.pt"), str(corpus / "dev.tsv"), "--out", str(tmp_path)]) == 0
    assert run(corpus, "quality", tmp_path / "codebook_0.units") == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[1:] == table[-1].split()[1:]
    assert run(corpus, "abx", tmp_path / "codebook_0.units", "--out", tmp_path / "abx") == 0
    (row,) = json.loads((tmp_path / "abx/abx.json").read_text())["rows"]
    assert row["across"] == pytest.approx(measured[1][-1]["unit_abx_across"])


def test_several_checkpoints(corpus, tmp_path, capsys):
    spin_checkpoint(tmp_path / "later.pt", seed=2)
    assert run(corpus, "quality", corpus / "spin.pt", tmp_path / "later.pt", "--out", tmp_path / "out") == 0
    history = json.loads((tmp_path / "out/quality.json").read_text())["history"]
    assert len(history) == 2 and history[0]["codebook"][0]["pnmi"] != history[1]["codebook"][0]["pnmi"]
    capsys.readouterr()
    assert run(corpus, "quality", corpus / "spin.pt", GOLDEN / "official_format_tiny.pt") == 1
    message = capsys.readouterr().err
    assert "contains DinoSR, but" in message and message.endswith("Spin; give checkpoints of one run\n")


def test_the_probe_requires_train_and_enough_utterances(corpus, tmp_path, capsys):
    assert run(corpus, "quality", corpus / "spin.pt", "--speakers") == 1
    assert capsys.readouterr().err == "error: --train is required with --speakers\n"
    lines = (corpus / "dev.tsv").read_text().splitlines()
    (tmp_path / "few.tsv").write_text("\n".join(lines[:4]) + "\n")
    speech = ["--manifest", tmp_path / "few.tsv", "--phones", corpus / "dev.phones.tsv", "--train", corpus / "dev.tsv"]
    arguments = ["quality", corpus / "spin.pt", *speech, "--speakers", "--out", tmp_path / "out"]
    assert cli.main([str(word) for word in arguments]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/few.tsv: the speaker probe requires at least two ")
    assert not (tmp_path / "out").exists()
    (tmp_path / "u.units").write_text("u0\t1 2\n")
    assert run(corpus, "quality", tmp_path / "u.units", "--speakers") == 1
    assert capsys.readouterr().err == "error: --speakers: only used with checkpoints; remove it\n"


def test_an_utterance_shorter_than_a_frame(corpus, tmp_path, capsys):
    soundfile.write(tmp_path / "short.wav", np.zeros(399), RATE)
    (tmp_path / "short.tsv").write_text(f"{tmp_path}\nshort.wav\t399\n")
    (tmp_path / "short.phones.tsv").write_text("utt\tstart\tend\tphone\nshort\t0\t0.02\tAA\n")
    speech = ["--manifest", tmp_path / "short.tsv", "--phones", tmp_path / "short.phones.tsv"]
    arguments = ["quality", corpus / "spin.pt", *speech, "--train", corpus / "dev.tsv"]
    assert cli.main([str(word) for word in arguments]) == 1
    message = "short.tsv: 1 file(s) are shorter than one frame, 400 samples (short); remove them from the manifest\n"
    assert capsys.readouterr().err == f"error: {tmp_path}/{message}"


def test_logits_are_kept_out_of_the_cache(corpus, tmp_path):
    """They would need more space than all layers, for a figure that those of projection and codebook imply."""
    speech, _ = Speech.read(corpus / "dev.tsv", PhoneAlignment.read(corpus / "dev.phones.tsv"))
    with Comparison(open_reader(corpus / "spin.pt"), corpus / "dev.tsv", speech, [], cache=tmp_path) as comparison:
        assert comparison.caches["measured"]["projection"].width == 6
        names = {path.name for path in comparison.caches["measured"].folder.iterdir()}
    assert names == {"layer_0", "layer_1", "layer_2", "projection", "codebook", "mfcc", "fbank"}


def test_the_report(corpus, measured, tmp_path):
    more = ["--train", corpus / "dev.tsv", "--no-abx", "--out", tmp_path]
    assert run(corpus, "report", corpus / "spin.pt", *more) == 0
    page = (tmp_path / "report.html").read_text()
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["model"]["name"] == "Spin" and (
        figures["model"]["codebooks"],
        figures["model"]["codebook_size"],
    ) == (1, 8)
    assert figures["model"]["code_sets"] == {"codebook": {"title": "the model's codebook", "layers": [2]}}
    assert [row["pnmi"] for row in figures["rows"]] == [row["pnmi"] for row in measured[1]]
    for text in (
        "width 16 (0.0 million parameters), 1 codebook of 8 codes. ",
        "k-means on other outputs of the trained model</th></tr>\n<tr><th scope=row>projection</th>",
        "the model&#x27;s codebook</th></tr>\n<tr><th scope=row>codebook</th>",
        "The codebook removes this share of the uncertainty about the phone.",
        "Codes that occur in the codebook; they carry",
        "Heat map of P(phone | code) of codebook",
    ):
        assert text in page, text
    assert {"code_by_phone_0.png", "durations.png", "example.png", "code_use.png"} < {
        path.name for path in tmp_path.iterdir()
    }
