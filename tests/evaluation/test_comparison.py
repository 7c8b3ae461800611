"""The table of a model beside its baselines: each row is what its parts give one by one, and what was done is not done again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dinosr_plugin import cli
from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation import comparison
from dinosr_plugin.evaluation.codebooks import measure
from dinosr_plugin.evaluation.comparison import RESTARTS, compare, write_fit_manifest
from dinosr_plugin.evaluation.measures.abx.errors import abx
from dinosr_plugin.evaluation.measures.abx.items import librispeech_speaker, make_items, manifest_speakers
from dinosr_plugin.evaluation.measures.quality.units import count_units
from dinosr_plugin.evaluation.phones import PhoneAlignment
from dinosr_plugin.units.codes import kmeans_units, read_units, write_codebook_units
from dinosr_plugin.units.features import LiveFeatures
from dinosr_plugin.units.kmeans import fit_kmeans
from support import paths

GOLDEN = paths.GOLDEN / "official_format_tiny.pt"
RATE = 16_000
TONES = {"AA": 300.0, "IY": 1200.0, "S": 5000.0}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """train.tsv and dev.tsv, two speakers each, and dev.phones.tsv: tones that change every 0.1 s; phone and tone agree, so that clusters can find them."""
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


def rows_of(corpus: Path, work: Path, with_abx: bool = False, **more) -> list[dict]:
    phones, speakers = PhoneAlignment.read(corpus / "dev.phones.tsv"), manifest_speakers(corpus / "dev.tsv")
    return compare(
        more.pop("checkpoint", GOLDEN),
        corpus / "train.tsv",
        corpus / "dev.tsv",
        phones,
        more.pop("speakers", speakers),
        work,
        with_abx,
        **more,
    )


@pytest.fixture(scope="module")
def table(corpus, tmp_path_factory) -> tuple[list[dict], Path]:
    work = tmp_path_factory.mktemp("work")
    return rows_of(corpus, work, with_abx=True), work


def test_the_rows(table):
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
    assert sorted(path.name for path in work.iterdir()) == sorted(
        [*(f"{kind}.json" for kind in comparison.NAMES), "fit.tsv"]
    )


def figures_of(corpus: Path, units: dict, clusters: int) -> dict:
    phones = PhoneAlignment.read(corpus / "dev.phones.tsv")
    return count_units(units, phones, manifest_speakers(corpus / "dev.tsv"), 50.0, clusters).figures().as_dict()


def errors_of(corpus: Path, features, distance: str, prefix: str = "") -> dict:
    items = make_items(PhoneAlignment.read(corpus / "dev.phones.tsv"), manifest_speakers(corpus / "dev.tsv"))
    result = abx(features, items, 50.0, distance).as_dict()
    return {f"{prefix}abx_within": result["within"], f"{prefix}abx_across": result["across"]}


@pytest.mark.parametrize("kind", ["mfcc", "untrained", "layer"])
def test_rows_of_features_step_by_step(corpus, table, kind):
    """As `dinosr features`, `kmeans fit`, `kmeans apply`, `abx` one after another, features of the fit rounded to float16."""
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
def test_rows_of_codebooks_step_by_step(corpus, table, kind, tmp_path):
    row = [row for row in table[0] if row["kind"] == kind][-1]
    (path,) = write_codebook_units(
        GOLDEN, corpus / "dev.tsv", tmp_path, predicted=kind == "head", codebooks=[row["index"]]
    ).files
    units = read_units(path)
    assert row.items() >= figures_of(corpus, units, row["n_codes"]).items()
    assert row.items() >= errors_of(corpus, units, "onehot", "unit_").items()


def test_real_speech_gives_the_known_level(librispeech_mini, tmp_path):
    """MFCC, fitted and measured on the 20 minutes of dev alone, to be quick; fitted on train it is .35 as well."""
    files = sorted((librispeech_mini / "dev").rglob("*.flac"))
    (tmp_path / "dev.tsv").write_text(
        "\n".join(["/", *(f"{str(file)[1:]}\t{soundfile.info(file).frames}" for file in files)]) + "\n"
    )
    features = LiveFeatures.of_sound("mfcc", tmp_path / "dev.tsv")
    kmeans = fit_kmeans(features, 64, seed=0, restarts=RESTARTS)
    phones = PhoneAlignment.read(librispeech_mini / "dev.phones.tsv")
    speakers = {utt: librispeech_speaker(utt) for utt in features.utterances}
    figures = count_units(kmeans_units(features, kmeans), phones, speakers, features.rate, 64).figures()
    assert figures.quality.frames == 58_762 and figures.quality.active == 64 and 45 < figures.quality.perplexity < 62
    assert 0.33 < figures.quality.pnmi < 0.38 and 0.36 < figures.quality.phone_purity < 0.41
    assert 0.05 < figures.speaker_pnmi < 0.3 and 25 < figures.unit_ms < 45
    assert figures.phone_ms == pytest.approx(
        1000 * 1175.2 / (12_384 - 48), abs=0.01
    )  # 48 of the segments go on from one of the same phone


# ---- what is kept ------------------------------------------------------------------------------------------------------------


def no_work(monkeypatch) -> None:
    for name in ("extract", "extract_acoustic", "fit_kmeans", "CodeReader", "abx_errors"):
        monkeypatch.setattr(comparison, name, lambda *_, **__: pytest.fail("done again"))


def test_a_finished_table_is_read(corpus, table, monkeypatch):
    no_work(monkeypatch)
    assert rows_of(corpus, table[1], with_abx=True) == table[0]


def test_a_killed_run_goes_on_after_its_last_row(corpus, table, tmp_path, monkeypatch):
    rows, work = table
    shutil.copytree(work, tmp_path / "work")
    path = tmp_path / "work/layer.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({**kept, "done": False, "rows": kept["rows"][:-1]}))
    (tmp_path / "work/head.json").write_text(path.read_text()[:100])  # damaged
    fitted = []
    monkeypatch.setattr(
        comparison,
        "fit_kmeans",
        lambda features, *rest, **named: fitted.append(features.source) or fit_kmeans(features, *rest, **named),
    )
    assert rows_of(corpus, tmp_path / "work", with_abx=True) == rows
    assert [source["layer"] for source in fitted] == [len(kept["rows"]) - 1] and fitted[0]["weights"] == "student"
    assert not list((tmp_path / "work").glob("unfinished_*"))


@pytest.mark.parametrize("change", ["checkpoint", "train", "dev", "phones", "abx"])
def test_nothing_stale_is_used(corpus, table, tmp_path, monkeypatch, change):
    rows, work = table
    shutil.copytree(work, tmp_path / "work")
    for name in ("train.tsv", "dev.tsv", "dev.phones.tsv"):
        shutil.copy(corpus / name, tmp_path)
    shutil.copy(GOLDEN, tmp_path / "checkpoint.pt")
    same = tmp_path / "work"
    no_work(monkeypatch)
    assert (
        rows_of(tmp_path, same, with_abx=True, checkpoint=tmp_path / "checkpoint.pt") == rows
    )  # by content, not by name
    path = (
        tmp_path
        / {
            "checkpoint": "checkpoint.pt",
            "train": "train.tsv",
            "dev": "dev.tsv",
            "phones": "dev.phones.tsv",
            "abx": "dev.tsv",
        }[change]
    )
    if change == "checkpoint":
        with open(path, "ab") as file:
            file.write(b"\0" * 8)
    elif change != "abx":
        path.write_text(path.read_text() + {"train": "", "dev": "", "phones": "other\t0.0\t0.1\tAA\n"}[change])
        if change in ("train", "dev"):
            path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(pytest.fail.Exception, match="done again"):
        rows_of(tmp_path, same, with_abx=change != "abx", checkpoint=tmp_path / "checkpoint.pt")


def test_an_hour_is_enough(corpus, tmp_path, monkeypatch):
    rows = (corpus / "train.tsv").read_text().splitlines()
    assert write_fit_manifest(corpus / "train.tsv", tmp_path).read_text().splitlines() == rows
    samples = int(rows[1].split("\t")[1])
    for limit, count in ((2 * samples, 2), (1, 1)):
        monkeypatch.setattr(comparison, "FIT_SAMPLES", limit)
        chosen = write_fit_manifest(corpus / "train.tsv", tmp_path).read_text().splitlines()
        assert len(chosen) == 1 + count and set(chosen) <= set(rows) and chosen == sorted(chosen, key=rows.index)


def test_much_disk_is_told(corpus, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(comparison, "MUCH_DISK", 1)
    monkeypatch.setattr(comparison, "finished_rows", lambda setting, kind: [])
    assert rows_of(corpus, tmp_path) == []
    (record,) = [record for record in caplog.records if record.name == comparison.__name__]
    assert "layers will take" in record.getMessage() and str(tmp_path) in record.getMessage()


# ---- who asks ----------------------------------------------------------------------------------------------------------------


def test_a_model_without_codebooks(corpus, tmp_path):
    from support.fairseq_models import fairseq_checkpoint

    fairseq_checkpoint(tmp_path / "hubert.pt", "hubert")
    with pytest.raises(UserError, match="hubert.pt: has no codebooks; say with --clusters"):
        rows_of(corpus, tmp_path, checkpoint=tmp_path / "hubert.pt")
    with pytest.raises(UserError, match="hubert.pt: has no codebooks; say with --clusters"):
        measure(
            [tmp_path / "hubert.pt"],
            corpus / "dev.tsv",
            PhoneAlignment.read(corpus / "dev.phones.tsv"),
            corpus / "train.tsv",
        )
    rows = rows_of(corpus, tmp_path, checkpoint=tmp_path / "hubert.pt", clusters=5, speakers=None)
    assert [row["kind"] for row in rows] == ["mfcc", "fbank", *["untrained"] * 3, *["layer"] * 3]
    assert {row["n_codes"] for row in rows} == {5} and rows[0]["speaker_pnmi"] is rows[0]["unit_abx_within"] is None


def test_bad_requests(corpus, tmp_path, table):
    with pytest.raises(UserError, match="--clusters 7: the codebooks of .* have .* units"):
        rows_of(corpus, tmp_path, clusters=7)
    with pytest.raises(UserError, match="ABX needs the speakers"):
        rows_of(corpus, tmp_path, with_abx=True, speakers=None)
    phones = PhoneAlignment.read(corpus / "dev.phones.tsv")
    with pytest.raises(UserError, match="none.tsv: cannot be read"):
        compare(GOLDEN, tmp_path / "none.tsv", corpus / "dev.tsv", phones, None, tmp_path / "work", abx=False)
    with pytest.raises(UserError, match="none.tsv: cannot be read"):
        measure([GOLDEN], corpus / "dev.tsv", phones, tmp_path / "none.tsv")
    (tmp_path / "dev.tsv").write_text(f"{tmp_path}\nstranger.wav\t16000\n")
    for name in ("train.tsv", "dev.phones.tsv"):
        shutil.copy(corpus / name, tmp_path)
    with pytest.raises(UserError, match="1 of 1 utterances have no alignment"):
        rows_of(tmp_path, tmp_path / "work", speakers=None)
    assert not (tmp_path / "work").exists()


def test_measure_and_the_command(corpus, table, tmp_path, capsys):
    rows, work = table
    phones = PhoneAlignment.read(corpus / "dev.phones.tsv")
    figures = measure([GOLDEN], corpus / "dev.tsv", phones, corpus / "train.tsv", work, abx=True)
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
    given = [
        "quality",
        str(GOLDEN),
        "--manifest",
        str(corpus / "dev.tsv"),
        "--phones",
        str(corpus / "dev.phones.tsv"),
        "--out",
        str(tmp_path),
    ]
    assert cli.main([*given, "--train", str(corpus / "train.tsv"), "--abx"]) == 0
    printed = capsys.readouterr().out
    assert "ABX within %" in printed and all(f"\n{row['name']} " in printed for row in rows)
    assert json.loads((tmp_path / "quality.json").read_text())["rows"] == rows and (tmp_path / "curves.png").exists()
    assert cli.main(given) == 0
    printed = capsys.readouterr().out
    assert "codebook 0" in printed and "head 0" in printed and "MFCC" not in printed and "ABX" not in printed
    assert cli.main([*given, "--log", "none.log"]) == 1
    assert (
        capsys.readouterr().err
        == "error: none.log: no such log; train with common.log_format=json and common.log_file=FILE, or with common.tensorboard_logdir=DIR\n"
    )
    (tmp_path / "empty.log").touch()
    assert cli.main([*given, "--log", str(tmp_path / "empty.log")]) == 1
    assert "empty.log: contains no training loss" in capsys.readouterr().err
    assert cli.main([*given[:-2], "--log", "none.log"]) == 1
    assert "--log: requires --out" in capsys.readouterr().err
