"""Notes of `dinosr check` about the symbols of transcripts."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dinosr_plugin.data.check import check_manifest
from dinosr_plugin.data.check_labels import check_words
from dinosr_plugin.data.check_report import Report
from dinosr_plugin.data.text_notes import ENOUGH, RARE, text_notes

CLEAN = ["IT'S A DAY", "THE DOGS' BONES", "ROCK 'N ROLL"]


def notes(*lines: str, normalized: bool = False, dictionary: dict[str, int] | None = None) -> list[str]:
    return list(text_notes("train.wrd", list(lines), normalized, dictionary or {}))


def test_clean_transcripts_have_none():
    """... nor do those of scripts without case, or with marks that Unicode has no composed letters for."""
    assert notes() == notes(*CLEAN) == notes(*(text.lower() for text in CLEAN)) == []
    assert notes("नमस्ते", "می\u200cخواهم", "สวัสดีครับ", "ɛ̀ kaʼa nda³ ma˥", "col·lecció", "straße") == []


@pytest.mark.parametrize(
    "lines, note",
    [
        (["sí", "no, no.", "a-b"], r"punctuation or symbols, the first on line 2: ',' \(1\), '\.' \(1\), '-' \(1\); "),
        (["sí", "don’t"], r"punctuation or symbols, the first on line 2: '’' \(1\); "),
        (
            ["sí", "a\u200bb", "\u202ea"],
            r"characters that one does not see: U\+200B \(1, line 2\), U\+202E \(1, line 3\)",
        ),
        (["sí", "a\ufffdo"], r"U\+FFFD \(1, line 2\) stands for letters"),
        (["sí", "3 de 4", "mayo 4"], "digits on 2 line.s., the first is line 2; "),
        (["sí No", "nO"], r"2 letter\(s\) in upper and lower case, such as '.' \(1\) and '.' \(\d\); "),
        (
            ["ñ ñu ñ", "n", "un\u0303a"],
            r"1 letter\(s\) in several Unicode forms, such as 'ñ' as U\+00F1 \(3\), U\+006E U\+0303 \(1\), the latter "
            "first on line 3; ",
        ),
    ],
)
def test_each_kind_is_one_note_with_the_remedy(lines, note):
    (found,) = notes(*lines)
    assert re.match(f"train[.]wrd: {note}", found) and "`dinosr manifest ... --text-normalize`" in found
    assert notes(*lines, normalized=True) == []  # the rules have decided that these stay


def test_decomposed_letters_alone_are_no_mixture():
    assert notes("un\u0303a", "n\u0303 e\u0301") == []


def test_symbols_that_are_rare_in_the_dictionary():
    dictionary = {"A": ENOUGH, "|": 1, "Q": RARE, "Ï": RARE - 1, "Ø": 0}
    (note,) = notes("A Q", "Ï", "Ø", dictionary=dictionary, normalized=True)
    assert note.startswith(
        "train.wrd: 2 rare symbol(s), with fewer than 5 occurrences in the dictionary: 'Ø' (0, line 3), "
    )
    assert "'Ï' (4, line 2); a model cannot learn them" in note
    assert notes("A Q", "Ï", "Ø", dictionary={**dictionary, "A": 100}) == []  # too few to say


def test_clean_real_speech_has_none(librispeech_mini):
    texts = [
        line.split(" ", 1)[1] for path in sorted(Path(librispeech_mini).rglob("*.trans.txt")) for line in path.open()
    ]
    lines = [text.strip() for text in texts]
    assert notes(*lines, dictionary=Counter("".join(lines).replace(" ", "|"))) == []


# ---- rules that are kept beside the dictionary -----------------------------------------------------------------------


def checked_words(folder: Path, *lines: str) -> Report:
    report = Report(folder / "train.tsv")
    check_words(report.manifest, {"wrd": list(lines)}, report)
    return report


def test_words_that_the_kept_rules_would_change_are_a_problem(tmp_path):
    (tmp_path / "text_normalization.json").write_text('{"letters": "-"}')
    assert checked_words(tmp_path, "well-known", "sí").problems == []
    (problem,) = checked_words(tmp_path, "well-known", "Sí", "NO").problems
    what = "train.wrd was not normalised as text_normalization.json says"
    assert problem.startswith(f"{what} on 2 row(s), the first is line 2: 'Sí' and 'sí'; make the manifest")


def test_damaged_rules_are_a_problem(tmp_path):
    (tmp_path / "text_normalization.json").write_text("[]")
    (problem,) = checked_words(tmp_path, "sí").problems
    assert problem.startswith(f"{tmp_path}/text_normalization.json: contains no JSON object")


def test_letters_are_looked_at_where_there_are_no_words(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(1600, 0.1), 16000)
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\na.wav\t1600\n")
    (tmp_path / "train.ltr").write_text("n o , | 3 |\n")
    (tmp_path / "dict.ltr.txt").write_text("n 1\no 1\n, 1\n3 1\n| 2\n")
    report = check_manifest(tmp_path / "train.tsv", workers=1)
    assert [note.split(";")[0] for note in report.notes] == [
        "train.ltr: punctuation or symbols, the first on line 1: ',' (1)",
        "train.ltr: digits on 1 line(s), the first is line 1",
    ]
