"""`dinosr tune-lm`: the best point of a grid, on emissions for which it is known."""

from dataclasses import replace

import pytest
import torch

from dinosr_plugin.cli import main as dinosr
from dinosr_plugin.cli.decoding import tuning_table
from dinosr_plugin.decoding.emissions import EmissionMetadata, EmissionWriter
from dinosr_plugin.decoding.tune import Trial, best_of, summary
from dinosr_plugin.decoding.words import rate_name
from support.decoding import LETTERS, emissions_of, needs_flashlight
from support.small_arpa import write_arpa

BAR, A, B = 4, 5, 6


@pytest.fixture
def emissions(tmp_path):
    """Two utterances of AB; the second sounds like BB, so that only a language model that prefers AB corrects it."""
    path = tmp_path / "dev.npz"
    clear, unclear = (emissions_of([first, 0, B, BAR])[0] for first in (A, B))
    unclear = torch.logaddexp(unclear, emissions_of([A, 0, B, BAR])[0] - 0.7)
    unclear = unclear.log_softmax(-1)
    writer = EmissionWriter(
        path, EmissionMetadata("m", LETTERS.symbols, 0, "", ["1.wav", "2.wav"], [1280, 1280], ["A B |", "A B |"])
    )
    for row, table in enumerate((clear, unclear)):
        writer.add(row, table)
    writer.close()
    (tmp_path / "words.txt").write_text("AB A B |\nBB B B |\n")
    write_arpa(tmp_path / "words.arpa", ["AB", "BB"], favourite="AB")
    return path


@needs_flashlight
@pytest.mark.parametrize("processes", ["1", "2"])
def test_finds_the_best_weight(emissions, tmp_path, capsys, processes):
    arguments = [
        "tune-lm",
        str(emissions),
        "--lm",
        str(tmp_path / "words.arpa"),
        "--lexicon",
        str(tmp_path / "words.txt"),
        "--beam",
        "20",
    ]
    assert (
        dinosr([*arguments, "--lm-weights", "0", "2", "0", "--word-scores", "0", "-0", "--processes", processes]) == 0
    )
    out = capsys.readouterr().out.splitlines()
    assert [line.split() for line in out[2:4]] == [["0", "50.00"], ["2", "0.00"]]
    assert out[4].startswith("best: --lm-weight 2 --beam 20: WER 0.00 [0.00, 0.00]")
    assert out[5] == "note: 2 is at the edge of the grid; give --lm-weights a wider range"


@needs_flashlight
def test_without_lexicon_there_are_no_word_scores(emissions, tmp_path, capsys):
    write_arpa(tmp_path / "letters.arpa", ["A", "B", "|"], favourite="A")
    arguments = ["tune-lm", str(emissions), "--lm", str(tmp_path / "letters.arpa")]
    assert dinosr([*arguments, "--lm-weights", "0", "1"]) == 0
    assert "best: --lm-weight 1 --beam 50: WER 0.00" in capsys.readouterr().out
    assert dinosr([*arguments, "--word-scores", "1"]) == 1
    assert "--word-scores: only used with a lexicon" in capsys.readouterr().err


@needs_flashlight
def test_empty_references(tmp_path, capsys):
    writer = EmissionWriter(
        tmp_path / "test.npz", EmissionMetadata("m", LETTERS.symbols, 0, "", ["1.wav"], [1280], [""])
    )
    writer.add(0, emissions_of([A, B])[0])
    writer.close()
    write_arpa(tmp_path / "letters.arpa", ["A", "B", "|"], favourite="A")
    assert dinosr(["tune-lm", str(tmp_path / "test.npz"), "--lm", str(tmp_path / "letters.arpa")]) == 1
    assert "test.npz: all references are empty" in capsys.readouterr().err


def trial(weight, score, wer, cer=0.0):
    return Trial(weight, score, {"wer": wer, "cer": cer, "wer_interval": (wer - 1, wer + 1)})


def test_of_equal_trials_the_one_with_the_smallest_weights_is_best():
    trials = [trial(3, 1, 20), trial(1, 1, 20), trial(1, 0, 20, cer=5.0), trial(2, 0, 30)]
    assert best_of(trials) == trials[1]


def test_table_and_summary():
    trials = [trial(0, 0, 50), trial(0, 1, 40), trial(1, 0, 30), trial(1, 1, 45), trial(2, 0, 31), trial(2, 1, 33)]
    assert [line.split() for line in tuning_table(trials).splitlines()[2:]] == [
        ["0", "50.00", "40.00"],
        ["1", "30.00", "45.00"],
        ["2", "31.00", "33.00"],
    ]
    assert (
        summary(trials, 50) == "best: --lm-weight 1 --beam 50: WER 30.00 [29.00, 31.00]"
    )  # no note, because the score is 0 and the weight is not at the edge
    assert "--lm-weight 0 --word-score 1 --beam 7: WER 40.00" in summary(trials[:2], 7)


def test_the_rate_of_phones_is_called_uer():
    assert [rate_name(symbols) for symbols in (["|", "A"], ["\u2581A"], ["AA", "B"])] == ["WER", "WER", "UER"]
    trials = [replace(trial(0, 0, 50), rate_name="UER")]
    assert "UER 50.00" in summary(trials, 7) and "UER at LM weight" in tuning_table(trials)
    assert "WER" not in summary(trials, 7) + tuning_table(trials)
