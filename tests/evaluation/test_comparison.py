"""The table of a model and its baselines: rows equal those of the separate steps, and nothing is computed twice."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from dinosr_plugin import cli
from dinosr_plugin.checkpoints import opening
from dinosr_plugin.checkpoints.opening import open_reader
from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation import comparison, measuring, model_rows
from dinosr_plugin.evaluation.comparison import RESTARTS, Comparison, measures_for
from dinosr_plugin.evaluation.history import measure_checkpoints
from dinosr_plugin.evaluation.measures.abx import measure as abx_measure
from dinosr_plugin.evaluation.measures.abx.errors import abx
from dinosr_plugin.evaluation.measures.abx.items import make_items, write_items
from dinosr_plugin.evaluation.measures.quality.units import count_units
from dinosr_plugin.evaluation.model_rows import random_hour
from dinosr_plugin.evaluation.phones import PhoneAlignment
from dinosr_plugin.evaluation.speech import Speech, librispeech_speaker, manifest_speakers
from dinosr_plugin.units import features as features_module
from dinosr_plugin.units.batches import read_utterances
from dinosr_plugin.units.codes import kmeans_units, write_codebook_units
from dinosr_plugin.units.features import LiveFeatures
from dinosr_plugin.units.kmeans import fit_kmeans
from dinosr_plugin.units.unit_files import read_units
from support import paths
from support.fairseq_models import fairseq_checkpoint

GOLDEN = paths.GOLDEN / "official_format_tiny.pt"
RATE = 16_000
TONES = {"AA": 300.0, "IY": 1200.0, "S": 5000.0}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """train.tsv, dev.tsv and dev.phones.tsv: two speakers, and a tone of 0.1 s for each phone, easy to cluster."""
    folder = tmp_path_factory.mktemp("corpus")
    time = np.arange(RATE // 10) / RATE
    for part in ("train", "dev"):
        manifest, rows = [str(folder)], ["utt\tstart\tend\tphone"]
        for number in range(4):
            rng = np.random.default_rng([number, len(part)])
            order = rng.permutation([*TONES] * 6)
            wave = np.concatenate([0.3 * np.sin(2 * np.pi * TONES[phone] * time) for phone in order]) + rng.normal(
                0, 0.002, 18 * len(time)
            )
            path = folder / f"speaker{number % 2}/{part}{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, wave, RATE)
            manifest.append(f"{path.relative_to(folder)}\t{len(wave)}")
            rows += [f"{part}{number}\t{i / 10:.1f}\t{(i + 1) / 10:.1f}\t{phone}" for i, phone in enumerate(order)]
        (folder / f"{part}.tsv").write_text("\n".join(manifest) + "\n")
        (folder / f"{part}.phones.tsv").write_text("\n".join(rows) + "\n")
    return folder


def speech_of(corpus: Path) -> Speech:
    return Speech.read(corpus / "dev.tsv", PhoneAlignment.read(corpus / "dev.phones.tsv"))[0]


def rows_of(corpus: Path, work: Path, with_abx: bool = False, checkpoint: Path = GOLDEN, **more) -> list[dict]:
    speech = more.pop("speech", None) or speech_of(corpus)
    reader, measures = open_reader(checkpoint), measures_for(speech, with_abx)
    with Comparison(reader, corpus / "train.tsv", speech, measures, work, **more) as comparison:
        return comparison.rows()


@pytest.fixture(scope="module")
def table(corpus, tmp_path_factory) -> tuple[list[dict], Path]:
    work = tmp_path_factory.mktemp("work")
    return rows_of(corpus, work, with_abx=True), work


def test_rows_of_the_table(table):
    rows, work = table
    layers, codebooks = (sum(row["kind"] == kind for row in rows) for kind in ("layer", "teacher"))
    assert [(row["kind"], row["index"]) for row in rows] == [
        ("mfcc", None), ("fbank", None),
        *(("untrained", i) for i in range(layers)), *(("layer", i) for i in range(layers)),
        *(("teacher", k) for k in range(codebooks)), *(("head", k) for k in range(codebooks)),
    ]  # fmt: skip
    assert [rows[0]["name"], rows[2]["name"], rows[-1]["name"]] == [
        "MFCC",
        "untrained layer 0",
        f"head {codebooks - 1}",
    ]
    assert len({row["n_codes"] for row in rows}) == len({row["frames"] for row in rows}) == 1
    assert all(0 <= row[f"unit_abx_{condition}"] <= 100 for row in rows for condition in ("within", "across"))
    assert all(
        (row["abx_within"] is None) == (row["abx_across"] is None) == (row["kind"] in ("teacher", "head"))
        for row in rows
    )
    assert rows[0]["pnmi"] > 0.7 and json.loads(json.dumps(rows)) == rows
    assert [path.name for path in work.iterdir()] == ["rows.json"]  # features are removed when all rows are complete


def figures_of(corpus: Path, units: dict, clusters: int) -> dict:
    phones = PhoneAlignment.read(corpus / "dev.phones.tsv")
    return count_units(units, phones, manifest_speakers(corpus / "dev.tsv"), 50.0, 0.0125, clusters).figures().as_dict()


def errors_of(corpus: Path, features, distance: str, prefix: str = "") -> dict:
    items = make_items(PhoneAlignment.read(corpus / "dev.phones.tsv"), manifest_speakers(corpus / "dev.tsv"))
    result = abx(features, items, 50.0, distance).as_dict()
    return {f"{prefix}abx_within": result["within"], f"{prefix}abx_across": result["across"]}


@pytest.mark.parametrize("kind", ["mfcc", "untrained", "layer"])
def test_rows_of_features_equal_those_of_separate_steps(corpus, table, kind):
    """As with `dinosr features`, `kmeans fit`, `kmeans apply` and `abx`; features for k-means are in float16."""
    row = [row for row in table[0] if row["kind"] == kind][-1]
    if kind == "mfcc":
        fit, dev = (LiveFeatures.of_sound("mfcc", corpus / f"{part}.tsv") for part in ("train", "dev"))
    else:
        weights = "random" if kind == "untrained" else "student"
        fit, dev = (
            LiveFeatures.of_layer(GOLDEN, corpus / f"{part}.tsv", row["index"], weights) for part in ("train", "dev")
        )
    compute = fit.compute
    fit.compute = lambda wave: compute(wave).astype(np.float16)
    kmeans = fit_kmeans(fit, row["n_codes"], seed=0, restarts=RESTARTS)
    units = {utt: kmeans.units(frames) for utt, frames in dev}
    assert row.items() >= figures_of(corpus, units, row["n_codes"]).items()
    assert (
        row.items() >= errors_of(corpus, dict(dev), "angular").items()
        and row.items() >= errors_of(corpus, units, "onehot", "unit_").items()
    )


@pytest.mark.parametrize("kind", ["teacher", "head"])
def test_rows_of_codebooks_equal_those_of_separate_steps(corpus, table, kind, tmp_path):
    row = [row for row in table[0] if row["kind"] == kind][-1]
    (path,) = write_codebook_units(
        GOLDEN, corpus / "dev.tsv", tmp_path, predicted=kind == "head", codebooks=[row["index"]]
    ).files
    units = read_units(path)
    assert row.items() >= figures_of(corpus, units, row["n_codes"]).items()
    assert row.items() >= errors_of(corpus, units, "onehot", "unit_").items()


def test_known_figures_on_real_speech(librispeech_mini, tmp_path):
    """MFCC, fitted and measured on the 20 minutes of dev, which is fast; fitted on train, PNMI is .35 as well."""
    files = sorted((librispeech_mini / "dev").rglob("*.flac"))
    (tmp_path / "dev.tsv").write_text(
        "\n".join(["/", *(f"{str(file)[1:]}\t{soundfile.info(file).frames}" for file in files)]) + "\n"
    )
    features = LiveFeatures.of_sound("mfcc", tmp_path / "dev.tsv")
    kmeans = fit_kmeans(features, 64, seed=0, restarts=RESTARTS)
    phones = PhoneAlignment.read(librispeech_mini / "dev.phones.tsv")
    speakers = {utt: librispeech_speaker(utt) for utt in features.utterances}
    figures = count_units(
        kmeans_units(features, kmeans), phones, speakers, features.rate, features.first_centre, 64
    ).figures()
    assert figures.quality.frames == 58_762 and figures.quality.active == 64 and 45 < figures.quality.perplexity < 62
    assert 0.33 < figures.quality.pnmi < 0.38 and 0.36 < figures.quality.phone_purity < 0.41
    assert 0.05 < figures.speaker_pnmi < 0.3 and 25 < figures.unit_ms < 45
    # 48 segments continue a segment of the same phone
    assert figures.phone_ms == pytest.approx(1000 * 1175.2 / (12_384 - 48), abs=0.01)


# ---- stored rows and features ----------------------------------------------------------------------------------------


def forbid_computation(monkeypatch) -> None:
    """Reading audio, k-means and ABX fail the test."""
    monkeypatch.setattr(features_module, "load_checked_wave", lambda *_: pytest.fail("computed again"))
    monkeypatch.setattr(comparison, "fit_kmeans", lambda *_, **__: pytest.fail("computed again"))
    monkeypatch.setattr(abx_measure, "abx", lambda *_, **__: pytest.fail("computed again"))


def test_a_complete_table_is_not_computed_again(corpus, table, monkeypatch):
    forbid_computation(monkeypatch)
    assert rows_of(corpus, table[1], with_abx=True) == table[0]


def test_an_interrupted_table_resumes(corpus, table, tmp_path, monkeypatch):
    """It continues after the stored rows, with the features of the interrupted pass."""
    rows, work = table
    shutil.copytree(work, tmp_path / "work")
    stored = json.loads((tmp_path / "work/rows.json").read_text())
    for name in ("layer 3", "head 1"):
        del stored["rows"][name]
    (tmp_path / "work/rows.json").write_text(json.dumps(stored))
    fitted = []

    def fit(features, *rest, **named):
        fitted.append(features.source)
        if len(fitted) == 1:
            raise KeyboardInterrupt
        return fit_kmeans(features, *rest, **named)

    monkeypatch.setattr(comparison, "fit_kmeans", fit)
    with pytest.raises(KeyboardInterrupt):
        rows_of(corpus, tmp_path / "work", with_abx=True)
    with monkeypatch.context() as patch:
        patch.setattr(features_module, "load_checked_wave", lambda *_: pytest.fail("the audio is read again"))
        assert rows_of(corpus, tmp_path / "work", with_abx=True) == rows
    assert [source["layer"] for source in fitted] == [3, 3] and fitted[0]["weights"] == "student"
    assert not (tmp_path / "work/cache").exists()


def test_the_checkpoint_is_loaded_once_and_audio_read_twice(corpus, tmp_path, monkeypatch):
    """For the trained and the untrained model; layers, codes, MFCC and log-Mel are computed together."""
    loaded, read = [], []
    load_model, load_wave = opening.load_model, features_module.load_checked_wave
    monkeypatch.setattr(opening, "load_model", lambda path: loaded.append(path) or load_model(path))
    monkeypatch.setattr(features_module, "load_checked_wave", lambda one: read.append(one.name) or load_wave(one))
    rows_of(corpus, tmp_path, with_abx=True)
    names = [f"{part}{n}" for part in ("train", "dev") for n in range(4)]
    assert len(loaded) == 1 and sorted(read) == sorted(names * 2)


@pytest.mark.parametrize("change", ["checkpoint", "train", "dev", "phones", "abx"])
def test_rows_of_other_inputs_are_not_used(corpus, table, tmp_path, monkeypatch, change):
    rows, work = table
    shutil.copytree(work, tmp_path / "work")
    for name in ("train.tsv", "dev.tsv", "dev.phones.tsv"):
        shutil.copy(corpus / name, tmp_path)
    shutil.copy(GOLDEN, tmp_path / "checkpoint.pt")
    same, checkpoint = tmp_path / "work", tmp_path / "checkpoint.pt"
    forbid_computation(monkeypatch)
    assert (
        rows_of(tmp_path, same, with_abx=True, checkpoint=checkpoint) == rows
    )  # inputs are compared by content, not by name
    if change == "checkpoint":
        state = torch.load(checkpoint, weights_only=True)
        state["model"]["post_extract_proj.bias"] += 1e-6
        torch.save(state, checkpoint)
    elif change == "phones":
        with open(tmp_path / "dev.phones.tsv", "a") as file:
            file.write("other\t0.0\t0.1\tAA\n")
    elif change != "abx":
        lines = (tmp_path / f"{change}.tsv").read_text().splitlines()
        (tmp_path / f"{change}.tsv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        rows_of(tmp_path, same, with_abx=change != "abx", checkpoint=checkpoint)


def test_kmeans_is_fitted_on_at_most_an_hour(corpus, monkeypatch):
    utterances = read_utterances(corpus / "train.tsv")
    assert random_hour(utterances) == utterances
    for limit, count in ((2 * utterances[0].samples, 2), (1, 1)):
        monkeypatch.setattr(model_rows, "FIT_SAMPLES", limit)
        chosen = random_hour(utterances)
        assert len(chosen) == count and chosen == sorted(chosen, key=utterances.index)


# ---- other requests --------------------------------------------------------------------------------------------------


def test_a_model_without_codebooks(corpus, tmp_path):
    fairseq_checkpoint(tmp_path / "hubert.pt", "hubert")
    with pytest.raises(UserError, match="hubert.pt: has no codebooks; give the number of clusters"):
        rows_of(corpus, tmp_path, checkpoint=tmp_path / "hubert.pt")
    with pytest.raises(UserError, match="hubert.pt: has no codebooks; give the number of clusters"):
        measure_checkpoints([tmp_path / "hubert.pt"], speech_of(corpus), corpus / "train.tsv")
    speech = dataclasses.replace(speech_of(corpus), speakers=None)
    rows = rows_of(corpus, tmp_path, checkpoint=tmp_path / "hubert.pt", clusters=5, speech=speech)
    assert [row["kind"] for row in rows] == ["mfcc", "fbank", *["untrained"] * 3, *["layer"] * 3]
    assert {row["n_codes"] for row in rows} == {5} and rows[0]["speaker_pnmi"] is rows[0]["unit_abx_within"] is None


def test_codebooks_of_another_size_have_no_rows(corpus, tmp_path):
    rows = rows_of(corpus, tmp_path, clusters=7)
    assert {row["kind"] for row in rows} == {"mfcc", "fbank", "untrained", "layer"}
    assert {row["n_codes"] for row in rows} == {7}


def test_without_phones_the_other_figures_are_the_same(corpus, table, tmp_path, capsys):
    """With the same items ABX is the same, too."""
    known, _ = table
    items = make_items(PhoneAlignment.read(corpus / "dev.phones.tsv"), manifest_speakers(corpus / "dev.tsv"))
    write_items(tmp_path / "dev.item", [*items, items[0]._replace(utt="other")])
    arguments = ["quality", str(GOLDEN), "--manifest", str(corpus / "dev.tsv"), "--out", str(tmp_path / "out")]
    arguments += ["--train", str(corpus / "train.tsv"), "--items", str(tmp_path / "dev.item")]
    assert cli.main(arguments) == 0
    header, *_ = capsys.readouterr().out.splitlines()[1:]
    assert "PNMI" not in header.replace("speaker PNMI", "") and "phone" not in header and "ABX within %" in header
    written = json.loads((tmp_path / "out/quality.json").read_text())
    of_phones = {"phone_purity", "cluster_purity", "pnmi", "phone_ms"}
    assert written["rows"] == [
        {key: None if key in of_phones else value for key, value in row.items()} for row in known
    ]
    assert written["baselines"] == {} and written["best"] is None
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"comparison", "curves.png", "quality.json"}
    write_items(tmp_path / "dev.item", items[:-1])
    measured = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "figures_of", lambda source, *_: measured.append(source.name) or {**known[0]})
        assert cli.main(arguments) == 0
    assert len(measured) == len(known)  # other items: the kept rows do not count


def test_items_of_abx(corpus):
    speech = dataclasses.replace(speech_of(corpus), phones=None)
    with pytest.raises(UserError, match="ABX requires a phone alignment .--phones. or items"):
        measures_for(speech, abx=True)
    items = make_items(PhoneAlignment.read(corpus / "dev.phones.tsv"), manifest_speakers(corpus / "dev.tsv"))
    with pytest.raises(UserError, match=f"dev.tsv: none of the {len(items)} items is in it .other.; give items of the"):
        measures_for(speech, abx=True, items=[item._replace(utt="other") for item in items])
    with pytest.raises(UserError, match="none of 1 items in it can be compared"):
        measures_for(speech, abx=True, items=items[:1])


def test_invalid_requests(corpus, tmp_path):
    with pytest.raises(UserError, match="ABX requires the speakers"):
        measures_for(dataclasses.replace(speech_of(corpus), speakers=None), abx=True)
    with pytest.raises(UserError, match="none.tsv: no such file"):
        measure_checkpoints([GOLDEN], speech_of(corpus), tmp_path / "none.tsv", tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_measure_and_the_command_line(corpus, table, tmp_path, capsys):
    rows, work = table
    figures = measure_checkpoints([GOLDEN], speech_of(corpus), corpus / "train.tsv", work, abx=True)
    assert figures["rows"] == rows and list(figures["baselines"]) == [
        "MFCC k-means",
        "log-Mel k-means",
        "untrained model",
    ]
    best = [row for row in rows if row["kind"] == "teacher"][figures["best"]]
    assert best["pnmi"] == max(row["pnmi"] for row in rows if row["kind"] == "teacher")
    assert best.items() >= figures["history"][-1]["teacher"][figures["best"]].items()
    untrained = max(row["pnmi"] for row in rows if row["kind"] == "untrained")
    assert figures["counts"].sum() == best["frames"] and figures["baselines"]["untrained model"]["pnmi"] == untrained
    shutil.copytree(work, tmp_path / "comparison")
    arguments = [
        "quality",
        str(GOLDEN),
        "--manifest",
        str(corpus / "dev.tsv"),
        "--phones",
        str(corpus / "dev.phones.tsv"),
        "--out",
        str(tmp_path),
    ]
    assert cli.main([*arguments, "--train", str(corpus / "train.tsv"), "--abx"]) == 0
    printed = capsys.readouterr().out
    assert "ABX within %" in printed and all(f"\n{row['name']} " in printed for row in rows)
    assert json.loads((tmp_path / "quality.json").read_text())["rows"] == rows and (tmp_path / "curves.png").exists()
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "codebook 0" in printed and "head 0" in printed and "MFCC" not in printed and "ABX" not in printed
    assert cli.main([*arguments, "--log", "none.log"]) == 1
    assert capsys.readouterr().err == (
        "error: none.log: no such log; give the training.log beside the checkpoints, or TensorBoard's folder\n"
    )
    (tmp_path / "empty.log").touch()
    assert cli.main([*arguments, "--log", str(tmp_path / "empty.log")]) == 1
    assert "empty.log: contains no training loss" in capsys.readouterr().err
    assert cli.main([*arguments[:-2], "--log", "none.log"]) == 1
    assert "--out is required with --log" in capsys.readouterr().err
