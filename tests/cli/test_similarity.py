"""`dinosr similarity`: from checkpoints of many kinds to tables and pictures, and bad input."""

import csv
import json

import numpy as np
import pytest
import torch

from dinosr_plugin.cli import main
from dinosr_plugin.evaluation.measures.similarity.linear import cka
from dinosr_plugin.units.store import FeatureFolder
from support.cpc_audio_layout import linear_predictors, reference, save
from support.fairseq_models import fairseq_checkpoint
from support.paths import GOLDEN
from support.recordings import white_noise, write_recordings
from support.similarity import pair_of
from support.spin import spin_checkpoint

TINY = GOLDEN / "official_format_tiny.pt"


@pytest.fixture
def speech(tmp_path):
    waves = [white_noise(16_000 + 900 * i, seed=i) * np.linspace(0.1, 1, 16_000 + 900 * i) for i in range(4)]
    return write_recordings(tmp_path, [wave.astype(np.float32) for wave in waves])


def similarity(*arguments) -> int:
    return main(["similarity", *map(str, arguments)])


def test_layers_of_a_model_in_tables_files_and_pictures(speech, tmp_path, capsys):
    out = tmp_path / "out"
    measures = ["cka", "pwcca", "maxcorr", "rsa"]
    assert similarity(TINY, "mfcc", "--manifest", speech, "--measure", *measures, "--bootstrap", 10, "--out", out) == 0
    shown = capsys.readouterr().out
    assert "cka: linear CKA" in shown and "mincorr" in shown
    found = json.loads((out / "similarity.json").read_text())
    layers = [f"official_format_tiny {layer}" for layer in range(len(found["rows"]))]
    assert found["rows"] == layers and found["columns"] == ["mfcc"] and found["level"] == "frames"
    with open(out / "similarity.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(measures) * len(layers)
    for row in rows:
        i = layers.index(row["a"])
        assert float(row["value"]) == found["measures"][row["measure"]]["values"][i][0]
        if row["measure"] in ("cka", "pwcca"):
            assert float(row["low"]) <= float(row["high"])
    draws = np.load(out / "draws.npz")
    assert sorted(draws) == ["cka", "maxcorr", "pwcca"] and draws["cka"].shape == (10, len(layers), 1)
    assert found["measures"]["cka"]["low"][0][0] == pytest.approx(np.quantile(draws["cka"][:, 0, 0], 0.025))
    for name in measures:
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_pair_of_feature_folders_has_the_figures_of_its_frames(speech, tmp_path, capsys):
    for layer in (0, 1):
        command = ["features", TINY, speech, "--layer", layer, "--out", tmp_path / f"layer{layer}"]
        assert main(list(map(str, command))) == 0
    capsys.readouterr()
    folders = [FeatureFolder(tmp_path / f"layer{layer}") for layer in (0, 1)]
    x, y = (np.concatenate([frames for _, frames in folder]).astype(float) for folder in folders)
    assert similarity(*(folder.path for folder in folders), "--manifest", speech, "--measure", "cka") == 0
    assert f"{cka(pair_of(x, y)):.4f}" in capsys.readouterr().out
    # the same from the checkpoint, in memory
    assert similarity(TINY, "--layers", 0, 1, "--manifest", speech, "--measure", "cka") == 0
    assert f"{cka(pair_of(x, y)):.4f}" in capsys.readouterr().out


def test_models_of_many_kinds_and_rates(speech, tmp_path, capsys):
    spin_checkpoint(tmp_path / "spin.pt")
    for kind in ("hubert", "wav2vec2", "data2vec_audio"):
        fairseq_checkpoint(tmp_path / f"{kind}.pt", kind)
    (tmp_path / "cpc_audio").mkdir()
    cpc = save(tmp_path / "cpc_audio", reference(), linear_predictors())
    models = [TINY, *(tmp_path / f"{name}.pt" for name in ("spin", "hubert", "wav2vec2", "data2vec_audio")), cpc]
    out = tmp_path / "out"
    assert similarity(*models, "mfcc", "fbank", "--manifest", speech, "--measure", "cka_unbiased", "--out", out) == 0
    found = json.loads((out / "similarity.json").read_text())
    assert {one["rate"] for one in found["representations"]} == {50, 100} and len(found["rows"]) == 8
    values = np.array(found["measures"]["cka_unbiased"]["values"], dtype=float)
    np.testing.assert_array_equal(values, values.T)
    assert np.isfinite(values).all() and (values < 1.001).all()


def test_an_embedding_of_recordings_is_compared_with_means(speech, tmp_path, capsys):
    main(list(map(str, ["speaker", "embed", TINY, speech, "--layer", 0, "--out", tmp_path / "embedded"])))
    capsys.readouterr()
    arguments = (tmp_path / "embedded", TINY, "--layers", 0, "--manifest", speech, "--measure", "procrustes")
    assert similarity(*arguments, "--level", "utterances") == 0
    assert "procrustes" in capsys.readouterr().out
    assert similarity(*arguments) == 1
    assert "has one vector for each recording and no frames" in capsys.readouterr().err


def test_means_of_acoustic_features_are_compared_if_they_are_not_centred(speech, capsys):
    arguments = ("--manifest", speech, "--measure", "cka_unbiased", "--level", "utterances")
    assert similarity("mfcc_uncentred", "fbank_uncentred", *arguments) == 0
    assert "cka_unbiased" in capsys.readouterr().out
    assert similarity("mfcc", "fbank_uncentred", *arguments) == 1
    assert "give mfcc_uncentred or fbank_uncentred" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mfcc"], "mfcc: one representation is not a pair; give another model, or --layers all"),
        (["mfcc", "mfcc"], "mfcc: given twice; give it once"),
        (["mfcc", "fbank", "--measure", "ccka"], "--measure ccka: unknown; choose from cka, "),
        (["mfcc", "nothing.pt"], "nothing.pt: no such checkpoint"),
        ([TINY, "--layers", "77"], "--layer 77: the model has layers 0 to "),
    ],
)
def test_bad_input_is_one_line(arguments, message, speech, tmp_path, capsys):
    out = tmp_path / "out"
    assert similarity(*arguments, "--manifest", speech, "--out", out) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")
    assert not out.exists() or not any(out.iterdir())


def test_an_unknown_model_is_refused(speech, tmp_path, capsys):
    torch.save({"model": {"w": torch.zeros(3)}}, tmp_path / "other.pt")
    assert similarity("mfcc", tmp_path / "other.pt", "--manifest", speech) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "other.pt" in line


def test_real_speech(librispeech_mini, tmp_path, capsys):
    main(["manifest", "librispeech", str(librispeech_mini), "--parts", "dev", "--out", str(tmp_path / "data")])
    lines = (tmp_path / "data/dev.tsv").read_text().splitlines()
    part = tmp_path / "part.tsv"
    part.write_text("\n".join(lines[:9]) + "\n")
    capsys.readouterr()
    assert similarity(TINY, "--manifest", part, "--measure", "cka", "--untrained", "--layers", 0, 1) == 0
    assert capsys.readouterr().out.count("official_format_tiny untrained") == 2
