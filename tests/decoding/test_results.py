"""WER and CER read back from the output of fairseq-generate."""

import pytest

from dinosr_plugin.decoding import score_generate_output
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
    assert scores == {"wer": 50.0, "cer": pytest.approx(100 * 3 / 18), "utterances": 3, "words": 6}


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
def test_what_cannot_be_scored(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        score_generate_output(write(tmp_path / "out", text))


def test_no_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        score_generate_output(tmp_path / "nothing")
