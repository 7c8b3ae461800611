"""The small benchmark: layout, consistency of its files, reproducibility, and evaluation with the measures."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dinosr_plugin import cli
from dinosr_plugin.data.manifest import read_manifest
from dinosr_plugin.data.synth import corpus as synth
from dinosr_plugin.data.synth.pairs import make_benchmark
from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.zerospeech.pairs import lexical, syntactic

PAIRS, VOICES, SEED = 9, 2, 3


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("pairs") / "benchmark"
    assert make_benchmark(out, PAIRS, VOICES, SEED) == {"lexical": PAIRS, "syntactic": PAIRS}
    return out


def gold(folder: Path, name: str) -> list:
    with open(folder / name / "dev/gold.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def digests(folder: Path) -> dict:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.suffix in (".wav", ".csv")
    }


@pytest.mark.parametrize("name", ["lexical", "syntactic"])
def test_layout(benchmark, name):
    rows = gold(benchmark, name)
    assert len(rows) == 2 * PAIRS * VOICES and [row["correct"] for row in rows] == ["1", "0"] * (PAIRS * VOICES)
    files = {path.stem for path in (benchmark / name / "dev").glob("*.wav")}
    assert {row["filename"] for row in rows} == files and len(files) == len(rows)
    assert {row["voice"] for row in rows} == {"1003", "1004"}
    manifest = read_manifest(benchmark / f"{name}.tsv")
    assert manifest.root == benchmark / name / "dev" and [row.path for row in manifest.utterances] == sorted(
        f"{file}.wav" for file in files
    )
    lengths = {row["filename"]: soundfile.info(benchmark / name / "dev" / f"{row['filename']}.wav") for row in rows}
    assert all((info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16") for info in lengths.values())
    assert {f"{file}.wav": info.frames for file, info in lengths.items()} == {
        row.path: row.samples for row in manifest.utterances
    }
    assert cli.main(["check", str(benchmark / f"{name}.tsv")]) == 0


def test_sides_of_a_pair_have_the_same_recording_conditions(benchmark):
    rows = gold(benchmark, "lexical")
    for right, wrong in zip(rows[::2], rows[1::2]):
        assert (right["id"], right["voice"], right["length"]) == (wrong["id"], wrong["voice"], wrong["length"])
        one, other = (
            soundfile.read(benchmark / "lexical/dev" / f"{row['filename']}.wav")[0][:1600] for row in (right, wrong)
        )
        np.testing.assert_array_equal(one, other)  # the same background noise before the speech, of at least 0.15 s


def test_grammatical_sentences_are_not_in_any_training_corpus(benchmark):
    said = {row["transcription"] for row in gold(benchmark, "syntactic") if row["correct"] == "1"}
    dev = synth.sentences(SEED, synth.roster_speaker(2, "dev", SEED))
    assert said <= {next(dev) for _ in range(3000)}


def test_the_same_seed_gives_the_same_bytes(benchmark, tmp_path):
    make_benchmark(tmp_path / "again", PAIRS, VOICES, SEED)
    assert digests(tmp_path / "again") == digests(benchmark)
    make_benchmark(tmp_path / "other", PAIRS, VOICES, SEED + 1)
    assert not set(digests(tmp_path / "other").values()) & set(digests(benchmark).values())


def test_the_measures_read_its_gold_files(benchmark, tmp_path):
    """Scores that equal the correct answers give 100 %."""
    for name, measure in (("lexical", lexical), ("syntactic", syntactic)):
        scores = tmp_path / f"{name}.txt"
        scores.write_text("".join(f"{row['filename']} {row['correct']}\n" for row in gold(benchmark, name)))
        found = measure(benchmark / name / "dev/gold.csv", scores)
        assert (found["pairs"], found["score"]) == (PAIRS, 100.0)


def test_an_interrupted_run_starts_again_and_nothing_is_overwritten(benchmark, tmp_path, capsys):
    leftover = tmp_path / ".bench.unfinished.123/lexical/dev"
    leftover.mkdir(parents=True)
    (leftover / "half.wav").write_bytes(b"RIFF")
    assert cli.main(["zerospeech-synth", "--out", str(tmp_path / "bench"), "--pairs", "2", "--voices", "1"]) == 0
    assert "2 pairs of words, 2 of sentences, each in 1 voices" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["bench"]
    assert len(list((tmp_path / "bench/lexical/dev").glob("*.wav"))) == 4
    with pytest.raises(UserError, match="already exists"):
        make_benchmark(benchmark, PAIRS, VOICES, SEED)
