"""WER and CER from the output of fairseq-generate."""

import numpy as np
import pytest
from fairseq.scoring import build_scorer
from omegaconf import OmegaConf

from dinosr_plugin.decoding import score_generate_output
from dinosr_plugin.decoding.results import bootstrap_interval
from dinosr_plugin.decoding.scorer import IntervalScorerConfig
from dinosr_plugin.errors import UserError

OUTPUT = """\
2026-01-01 00:00:00 | INFO | fairseq_cli.generate | some log line
T-1\tTHE CAT SAT
H-1\t-3.5\tTHE CAT SAT
D-1\t-3.5\tTHE CAT SAT
P-1\t-0.1 -0.2
A-1\t0-0 4-1
T-0\tA DOG
H-0\t-9.25\tA DO G
D-0\t-9.25\tA DO G
P-0\t-1.0
D-0\t-12.0\tA DOG
T-2\tNO
H-2\t-1e-05\t
D-2\t-1e-05\t
P-2\t
Generate dev with beam=5: WER: 50.00
"""


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_rates_are_those_of_the_whole_set(tmp_path):
    scores = score_generate_output(write(tmp_path / "generate-dev.txt", OUTPUT))
    # words: "DOG" -> "DO G" is a substitution and an insertion, "NO" -> "" a deletion: 3 of 6
    # characters with spaces: an inserted space, and 2 deletions: 3 of 11 + 5 + 2
    low, high = scores.pop("wer_interval")
    assert 0.0 <= low < 50.0 < high <= 100.0
    low, high = scores.pop("cer_interval")
    assert 0.0 <= low < 100 * 3 / 18 < high <= 100.0
    assert scores == {"wer": 50.0, "cer": pytest.approx(100 * 3 / 18), "utterances": 3, "words": 6, "empty": 1}


def test_only_the_best_hypothesis_counts(tmp_path):
    text = "T-0\tA B\nD-0\t-1\tA B\nD-0\t-2\tX Y\n"
    assert score_generate_output(write(tmp_path / "out", text))["wer"] == 0.0


@pytest.mark.parametrize(
    "text, message",
    [
        ("Generate dev with beam=5: WER: 50.00\n", "--quiet"),
        ("T-0\tA\nD-0\t-1\tA\nT-7\tB\n", "utterance 7"),
        ("D-3\t-1\tA\n", "utterance 3"),
        ("T-0\t\nD-0\t-1\tA\n", "empty"),
    ],
)
def test_files_that_cannot_be_scored(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        score_generate_output(write(tmp_path / "out", text))


def test_no_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        score_generate_output(tmp_path / "nothing")


# -- intervals -------------------------------------------------------------------------------------------------------


def of_errors(errors, words=10):
    """Utterances of ``words`` words with the given numbers of errors."""
    return [(["a"] * words, ["a"] * (words - wrong) + ["b"] * wrong) for wrong in errors]


def test_with_many_utterances_the_interval_is_that_of_the_normal_approximation():
    errors = np.random.default_rng(1).binomial(10, 0.3, size=2000)
    low, high = bootstrap_interval(of_errors(errors))
    middle, half = 10 * errors.mean(), 1.96 * 10 * errors.std() / np.sqrt(len(errors))  # percent
    assert (low, high) == (pytest.approx(middle - half, abs=0.1), pytest.approx(middle + half, abs=0.1))


def test_the_interval_has_its_nominal_coverage():
    rng = np.random.default_rng(2)
    intervals = [bootstrap_interval(of_errors(rng.binomial(10, 0.3, size=40))) for _ in range(100)]
    assert 87 <= sum(low <= 30.0 <= high for low, high in intervals) <= 100


def test_intervals_without_spread():
    assert bootstrap_interval(of_errors([2, 2, 2])) == (20.0, 20.0)
    assert bootstrap_interval(of_errors([3])) == (30.0, 30.0)


def test_the_same_seed_gives_the_same_interval():
    pairs = of_errors(range(11), words=13)
    assert bootstrap_interval(pairs) == bootstrap_interval(pairs) != bootstrap_interval(pairs, seed=1)


def test_samples_of_empty_references_are_ignored():
    low, high = bootstrap_interval([([], []), (["a"], ["b"])])
    assert (low, high) == (100.0, 100.0)


# -- fairseq-generate --scoring dinosr_wer ---------------------------------------------------------------------------


def test_the_scorer_prints_both_rates_with_intervals():
    scorer = build_scorer("dinosr_wer", None)
    for reference, text in (("THE CAT SAT", "THE CAT SAT"), ("A DOG", "A DO G"), ("NO", "")):
        scorer.add_string(reference, text)
    assert scorer.score() == 50.0
    assert scorer.result_string().startswith("WER: 50.00 [") and " CER: 16.67 [" in scorer.result_string()
    end = "(95 % bootstrap intervals over 3 utterances); 1 of 3 hypotheses are empty"
    assert scorer.result_string().endswith(end)


def test_the_rate_of_symbols_is_called_uer():
    scorer = build_scorer(OmegaConf.structured(IntervalScorerConfig(_name="dinosr_wer", scored_unit="symbol")), None)
    assert scorer.result_string() == "UER: not defined, all references are empty; `dinosr transcribe` needs none"
    scorer.add_string("AA B AA B", "AA B AA AA")
    assert scorer.result_string().startswith("UER: 25.00 [") and "WER" not in scorer.result_string()


def test_letters_in_the_output_are_merged_to_words(tmp_path):
    """As after --post-process none."""
    letters = "T-0\tT H E | C A T |\nD-0\t-1.0\tT H E | C A R |\nT-1\tA |\nD-1\t-1.0\tA |\n"
    words = "T-0\tTHE CAT\nD-0\t-1.0\tTHE CAR\nT-1\tA\nD-1\t-1.0\tA\n"
    scores = [score_generate_output(write(tmp_path / str(text is words), text)) for text in (letters, words)]
    assert scores[0] == scores[1] and round(scores[0]["wer"], 2) == 33.33


def test_the_scorer_with_empty_references():
    assert "not defined" in build_scorer("dinosr_wer", None).result_string()
