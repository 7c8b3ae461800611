"""`dinosr probe CHECKPOINT`: rows of every kind of model, what is written, and how an interrupted command resumes."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import soundfile

from dinosr_plugin.cli import main
from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.measures.probing import measure as measure_module
from dinosr_plugin.evaluation.measuring import Source, figures_of
from dinosr_plugin.evaluation.probes.inputs import NUMBERS, ProbeOptions, make_measures, read_inputs
from dinosr_plugin.evaluation.probes.results import probe_checkpoint
from dinosr_plugin.units import features as features_module
from dinosr_plugin.units.batches import read_utterances
from dinosr_plugin.units.features import LiveFeatures
from support import cpc_audio_layout, paths
from support.fairseq_models import fairseq_checkpoint
from support.spin import spin_checkpoint
from support.ssrl import write_ssrl_run

GOLDEN = paths.GOLDEN / "official_format_tiny.pt"
TASKS = ("phone", "speaker", "gender", "f0", "energy", "position", "word")


def arguments_of(corpus: Path, *tasks: str) -> list[str]:
    given = ["--train", corpus / "train.tsv", "--manifest", corpus / "test.tsv", "--task", *tasks]
    for task, option in (("phone", "phones"), ("word", "words")):
        given += (
            [f"--{option}", *(corpus / f"{part}.{option}.tsv" for part in ("train", "test"))] if task in tasks else []
        )
    given += ["--genders", corpus / "genders.tsv"] if "gender" in tasks else []
    return [str(one) for one in given]


def options_of(corpus: Path, *tasks: str) -> ProbeOptions:
    alignments = {
        option: tuple(corpus / f"{part}.{option}.tsv" for part in ("train", "test"))
        for task, option in (("phone", "phones"), ("word", "words"))
        if task in tasks
    }
    genders = corpus / "genders.tsv" if "gender" in tasks else None
    return ProbeOptions(corpus / "train.tsv", corpus / "test.tsv", tasks, genders=genders, **alignments)


@pytest.fixture(scope="module")
def probed(corpus, tmp_path_factory) -> tuple[Path, dict]:
    """All tasks of the golden model: the folder that was written, and what is in ``probes.json``."""
    pytest.importorskip("parselmouth")
    pytest.importorskip("sklearn")
    out = tmp_path_factory.mktemp("out")
    assert main(["probe", str(GOLDEN), *arguments_of(corpus, *TASKS), "--out", str(out)]) == 0
    return out, json.loads((out / "probes.json").read_text())


def test_rows(probed):
    out, found = probed
    layers = sum(row["kind"] == "layer" for row in found["rows"])
    kinds = ["mfcc", "fbank", *["untrained"] * layers, *["layer"] * layers, "weighted"]
    assert layers >= 2 and [row["kind"] for row in found["rows"]] == kinds
    for row in found["rows"]:
        for task in TASKS:
            assert row[task] <= 1 and row[f"{task}_low"] <= row[f"{task}_high"], (row["name"], task)
            assert (row[f"{task}_majority"] is None) == (task in NUMBERS)
            weights = row[f"{task}_weights"]
            assert (weights is None) == (row["kind"] != "weighted")
            assert weights is None or sum(weights) == pytest.approx(1, abs=1e-3)
    assert sorted(path.name for path in out.iterdir()) == ["probes.csv", "probes.json", "probes.png", "probing"]
    assert [path.name for path in (out / "probing").iterdir()] == ["rows.json"]  # no features are left


def test_acoustic_features_know_what_is_in_the_sound(probed):
    """Vowels of synthetic voices, which differ in F0; the level is that of all frames but silence."""
    mfcc, fbank = probed[1]["rows"][:2]
    for row in (mfcc, fbank):
        assert row["phone"] > 0.9 > row["phone_majority"] + 0.3 and row["word"] > 0.9 > row["word_majority"] + 0.3
        assert row["energy"] > 0.9 and abs(row["position"]) < 0.3 and row["f0"] > 0.5
    assert fbank["speaker"] == fbank["gender"] == 1


def test_files_and_text_agree(probed, corpus, capsys):
    out, found = probed
    lines = list(csv.DictReader((out / "probes.csv").read_text().splitlines()))
    assert len(lines) == len(found["rows"]) * len(TASKS)
    one = next(line for line in lines if line["name"] == "layer 1" and line["task"] == "f0")
    row = next(row for row in found["rows"] if row["name"] == "layer 1")
    assert float(one["score"]) == row["f0"] and float(one["control"]) == row["f0_control"] and one["majority"] == ""
    assert (out / "probes.png").read_bytes().startswith(b"\x89PNG")
    assert found["about"]["train_speakers"] == 3 and found["about"]["test_speakers"] == 2
    assert main(["probe", str(GOLDEN), *arguments_of(corpus, *TASKS), "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "2 speaker(s); intervals over so few are rough" in printed.err
    assert f"{row['f0']:.3f}" in printed.out and "weights of the layers in the weighted sum" in printed.out
    best = max((row for row in found["rows"] if row["kind"] == "layer"), key=lambda row: row["phone"])["name"]
    (last,) = [line for line in printed.out.splitlines() if line.startswith("best: ")]
    assert any(part.startswith(f"{best} for ") and "phone" in part for part in last.removeprefix("best: ").split("; "))


def test_a_complete_table_is_not_measured_again(probed, corpus, monkeypatch, tmp_path):
    out, found = probed
    shutil.copytree(out, tmp_path / "out")
    monkeypatch.setattr(features_module, "load_checked_wave", lambda *_: pytest.fail("computed again"))
    monkeypatch.setattr(measure_module, "fit_with_best_penalty", lambda *_: pytest.fail("fitted again"))
    again = probe_checkpoint(GOLDEN, options_of(corpus, *TASKS), tmp_path / "out")
    assert json.loads(json.dumps(again["rows"])) == found["rows"]


def test_an_interrupted_command_resumes_with_the_same_figures(probed, corpus, monkeypatch, tmp_path):
    fitted, fit, options = [], measure_module.fit_with_best_penalty, options_of(corpus, "energy", "position")

    def interrupted(*given):
        fitted.append(given)
        if len(fitted) == 6:
            raise KeyboardInterrupt
        return fit(*given)

    with monkeypatch.context() as patch:
        patch.setattr(measure_module, "fit_with_best_penalty", interrupted)
        with pytest.raises(KeyboardInterrupt):
            probe_checkpoint(GOLDEN, options, tmp_path)
    assert len(json.loads((tmp_path / "probing/rows.json").read_text())["rows"]) == 2
    again = probe_checkpoint(GOLDEN, options, tmp_path)["rows"]
    for row, other in zip(json.loads(json.dumps(again)), probed[1]["rows"], strict=True):
        assert other.items() >= row.items()  # the same figures as those of all tasks together


def test_the_sound_is_read_once_for_each_of_the_two_models(corpus, tmp_path, monkeypatch):
    read, load = [], features_module.load_checked_wave
    monkeypatch.setattr(features_module, "load_checked_wave", lambda one: read.append(one.name) or load(one))
    probe_checkpoint(GOLDEN, options_of(corpus, "position"), tmp_path)
    names = [one.name for part in ("train", "test") for one in read_utterances(corpus / f"{part}.tsv")]
    assert sorted(read) == sorted(names * 2)


def test_other_inputs_are_measured_again(corpus, tmp_path):
    first = probe_checkpoint(GOLDEN, options_of(corpus, "phone"), tmp_path)["rows"]
    other = tmp_path / "train.phones.tsv"
    other.write_text((corpus / "train.phones.tsv").read_text().replace("\tAA", "\tX").replace("\tIY", "\tAA"))
    options = ProbeOptions(corpus / "train.tsv", corpus / "test.tsv", ("phone",), (other, corpus / "test.phones.tsv"))
    second = probe_checkpoint(GOLDEN, options, tmp_path)["rows"]
    assert [row["phone"] for row in first] != [row["phone"] for row in second]


@pytest.mark.parametrize("kind", ["hubert", "wav2vec2", "data2vec_audio", "spin", "cpc_audio"])
def test_other_models(corpus, tmp_path, kind):
    checkpoint = tmp_path / "model.pt"
    if kind == "spin":
        spin_checkpoint(checkpoint)
    elif kind == "cpc_audio":
        checkpoint = cpc_audio_layout.save(tmp_path, cpc_audio_layout.reference(), cpc_audio_layout.linear_predictors())
    else:
        fairseq_checkpoint(checkpoint, kind)
    rows = probe_checkpoint(checkpoint, options_of(corpus, "energy"))["rows"]
    names = [row["name"] for row in rows]
    assert names[:2] == ["MFCC", "log-Mel"] and all(row["energy"] <= 1 for row in rows)
    assert ("projection" in names) == (kind == "spin")
    assert names[-1] == "weighted sum of layers" or sum(row["kind"] == "layer" for row in rows) == 1


@pytest.fixture(scope="module")
def speaker_run(shared_folder) -> Path:
    return shared_folder(write_ssrl_run)


def test_a_model_that_embeds_recordings(corpus, speaker_run, tmp_path, capsys):
    pytest.importorskip("sklearn")
    checkpoint = speaker_run / "run/checkpoint_last.pt"
    found = probe_checkpoint(checkpoint, options_of(corpus, "speaker", "gender"), tmp_path)
    assert [row["kind"] for row in found["rows"]] == ["mfcc", "fbank", "embedding"]
    assert found["rows"][1]["speaker"] == found["rows"][1]["gender"] == 1  # means of log-Mel
    assert main(["probe", str(checkpoint), *arguments_of(corpus, "speaker", "gender"), "--out", str(tmp_path)]) == 0
    assert "embedding" in capsys.readouterr().out and (tmp_path / "probes.png").exists()
    with pytest.raises(UserError, match="--task phone: checkpoint_last.pt embeds whole recordings and has no frames"):
        probe_checkpoint(checkpoint, options_of(corpus, "phone"))


def test_an_unknown_task_and_a_missing_model(corpus, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["probe", str(GOLDEN), *arguments_of(corpus, "pitch")])
    assert "invalid choice: 'pitch'" in capsys.readouterr().err
    assert main(["probe", str(tmp_path / "none.pt"), *arguments_of(corpus, "position")]) == 1
    assert "none.pt: no such checkpoint" in capsys.readouterr().err
    assert main(["probe", str(corpus / "genders.tsv"), *arguments_of(corpus, "position")]) == 1
    assert "genders.tsv" in capsys.readouterr().err


def test_figures_on_real_speech(librispeech_mini, tmp_path):
    """MFCC and log-Mel on unseen speakers: phones from a single frame, and the position, which they do not know."""
    parts = {"more": "train", "dev": "test"}
    for part, name in parts.items():
        files = sorted((librispeech_mini / part).rglob("*.flac"))[::4]
        rows = [f"{path.relative_to(librispeech_mini)}\t{soundfile.info(path).frames}" for path in files]
        (tmp_path / f"{name}.tsv").write_text("\n".join([str(librispeech_mini), *rows]) + "\n")
    phones = tuple(librispeech_mini / f"{part}.phones.tsv" for part in parts)
    tasks = ("phone", "energy", "position")
    options = ProbeOptions(tmp_path / "train.tsv", tmp_path / "test.tsv", tasks, phones, frames=8000)
    inputs = read_inputs(options, 400)
    assert len(inputs.classes["phone"]) >= 39
    for kind in ("mfcc_uncentred", "fbank_uncentred"):
        training, features = (dict(LiveFeatures.of_sound(kind, tmp_path / f"{name}.tsv")) for name in ("train", "test"))
        source = Source(kind, 50.0, 0.0125, features, training=training)
        row = figures_of(source, inputs.speech, make_measures(inputs, tmp_path))
        assert 0.33 < row["phone"] < 0.5 and 0.1 < row["phone_control"] < 0.22 and 0.12 < row["phone_majority"] < 0.22
        assert row["energy"] > 0.8 and abs(row["energy_control"]) < 0.1 and abs(row["position"]) < 0.03
