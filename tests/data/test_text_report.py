"""`dinosr manifest --text-normalize` and `dinosr normalize`: files, report, further parts, and what they refuse."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dinosr_plugin.cli import main
from dinosr_plugin.data.text_report import TextReport

TEXTS = {
    "a/1": 'Ñandú, "¿dónde?"',
    "a/2": "Don’t mun\u0303oz.",
    "b/3": "El & él: no...sé",
    "b/4": "ñandú muñoz",
}


def write_corpus(root: Path, texts: dict[str, str]) -> Path:
    for number, (name, text) in enumerate(texts.items()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / f"{name}.wav", np.random.default_rng(number).normal(0, 0.1, 1600), 16000)
        (root / f"{name}.txt").write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def corpus(tmp_path) -> Path:
    return write_corpus(tmp_path / "corpus", TEXTS)


def manifest(corpus: Path, out: Path, *options) -> int:
    """Of a folder; all files are in ``train``."""
    arguments = ["manifest", "folder", corpus, "--out", out, "--valid-share", 0, "--workers", 1, *options]
    return main([str(one) for one in arguments])


def test_transcripts_dictionary_rules_and_report(corpus, tmp_path, capsys):
    out = tmp_path / "out"
    assert manifest(corpus, out, "--text-normalize") == 0
    assert (out / "train.wrd").read_text("utf-8") == "ñandú dónde\ndon't muñoz\nel él no sé\nñandú muñoz\n"
    assert (out / "train.ltr").read_text("utf-8").startswith("ñ a n d ú | d ó n d e |\n")
    symbols = [line.split()[0] for line in (out / "dict.ltr.txt").read_text("utf-8").splitlines()]
    assert sorted(symbols) == sorted("|'adelmnostuzéñóú")
    rules = json.loads((out / "text_normalization.json").read_text("utf-8"))
    assert rules["case"] == "lower" and rules["form"] == "NFC" and rules["digits"] == "refuse"
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "transcripts: NFC, lower case, punctuation removed, digits refused",
        "change        before         after     count  examples",
        "------------  -------------  --------  -----  -----------------",
        "Unicode form  U+006E U+0303  ñ U+00F1      1  mun\u0303oz.",
        "case          D E Ñ          d e ñ         3  Don’t, El, Ñandú,",
        "apostrophe    ’ U+2019       '             1  don’t",
        "punctuation   .              space         4  muñoz., no...sé",
        'punctuation   "              space         2  "¿dónde?"',
        "punctuation   & , : ? ¿      space         5  &, ñandú,, él:",
        "symbols: 27 before, 16 after: ' a d e l m n o s t u z é ñ ó ú",
        f"all changes: {out}/text_changes.txt",
        f"{out}/train.tsv, .ltr, .wrd: 4 utterances, 0.00 hours, 2 speaker(s)",
    ]
    assert (
        printed.err == "note: '&' (1): removed, although it is read aloud; give the words for it with --text-replace\n"
    )
    table = [line.split("\t") for line in (out / "text_changes.txt").read_text("utf-8").splitlines()]
    assert table[0] == ["change", "before", "after", "count", "examples"]
    assert ["punctuation", "¿ U+00BF", "space", "1", '"¿dónde?"'] in table


def test_transcripts_that_cannot_be_used_are_listed_and_nothing_is_written(corpus, tmp_path, capsys):
    write_corpus(corpus, {"a/5": "3 de mayo", "b/6": "...", "b/7": "1 2"})
    assert manifest(corpus, tmp_path / "out", "--text-normalize") == 1
    first, *others = capsys.readouterr().err.splitlines()
    assert first.startswith("error: 3 problem(s) under")
    assert [line.split(":")[0] for line in others] == ["  a/5.wav", "  b/6.wav", "  b/7.wav"]
    assert "digit '3' in its transcript ('3')" in others[0] and "no words" in others[1]
    assert not (tmp_path / "out").exists()
    (tmp_path / "replace.txt").write_text("3\ttres\n...\tpausa\n1 2\tuno dos\n")
    assert manifest(corpus, tmp_path / "out", "--text-normalize", "--text-replace", tmp_path / "replace.txt") == 0
    assert "tres de mayo\n" in (tmp_path / "out/train.wrd").read_text("utf-8")


def test_a_second_run_uses_the_kept_rules(corpus, tmp_path, capsys):
    manifest(corpus, tmp_path, "--text-normalize", "--text-case", "upper")
    capsys.readouterr()
    words = (tmp_path / "train.wrd").read_text("utf-8")
    assert words.startswith("ÑANDÚ")
    assert manifest(corpus, tmp_path) == 0
    assert (tmp_path / "train.wrd").read_text("utf-8") == words
    note = f"note: transcripts are normalised as {tmp_path}/text_normalization.json says; to leave them as they are"
    assert note in capsys.readouterr().err
    assert manifest(corpus, tmp_path, "--text-normalize") == 0  # other rules: it replaces all transcripts there
    assert (tmp_path / "train.wrd").read_text("utf-8").startswith("ñandú")


@pytest.mark.parametrize("first", [[], ["--text-normalize"]])
def test_other_rules_than_those_of_another_part_are_refused(first, corpus, tmp_path, capsys):
    out = tmp_path / "out"
    manifest(corpus, out, *first)
    (out / "train.wrd").rename(out / "test.wrd")
    before = sorted(out.iterdir())
    capsys.readouterr()
    assert manifest(corpus, out, "--text-normalize", "--text-case", "upper") == 1
    how = "in another way (case is lower, not upper)" if first else ""
    assert f"error: --text-normalize: {out}/test.wrd was {'normalised' if first else 'not normalised'}" in (
        error := capsys.readouterr().err
    )
    assert how in error and sorted(out.iterdir()) == before
    assert manifest(corpus, out, *first) == 0


def test_rules_of_another_folder(corpus, tmp_path):
    manifest(corpus, tmp_path / "train", "--text-normalize", "--text-letters=’")
    assert manifest(corpus, tmp_path / "test", "--text-normalize", "--text-like", tmp_path / "train") == 0
    for name in ("text_normalization.json", "train.wrd"):
        assert (tmp_path / "test" / name).read_bytes() == (tmp_path / "train" / name).read_bytes()


@pytest.mark.parametrize(
    "options, message",
    [
        (["--text-case", "upper"], "--text-case: only used with --text-normalize"),
        (["--text-like", "x", "--text-letters", "'"], "--text-letters: cannot be used with --text-like"),
        (["--text-like", "x"], "x: no such file"),
        (["--text-normalize", "--text-letters", "a|"], "--text-letters: '|' cannot be a letter"),
        (["--text-normalize", "--text-replace", "x"], "x: no such file"),
    ],
)
def test_options_that_cannot_be_used_are_one_line(options, message, tmp_path, monkeypatch, capsys):
    """... before any audio is looked for."""
    monkeypatch.chdir(tmp_path)
    assert manifest(tmp_path / "none", tmp_path / "out", *options) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1


def test_replacements_that_are_replaced_again_name_the_option(tmp_path, capsys):
    (tmp_path / "replace.txt").write_text("n\tnn\n")
    assert manifest(tmp_path, tmp_path / "out", "--text-normalize", "--text-replace", tmp_path / "replace.txt") == 1
    assert capsys.readouterr().err.startswith("error: --text-replace: 'n' becomes 'nn', in which")


def test_a_corpus_without_transcripts(corpus, tmp_path, capsys):
    for text in corpus.glob("*/*.txt"):
        text.unlink()
    assert manifest(corpus, tmp_path / "out", "--text-normalize") == 1
    assert "error: --text-normalize: the corpus has no transcripts; omit it" in capsys.readouterr().err


def test_a_partly_transcribed_corpus(corpus, tmp_path):
    """The part with words is normalised; the manifest of all audio stays without words."""
    (corpus / "a/2.txt").unlink()
    assert manifest(corpus, tmp_path, "--text-normalize") == 0
    assert not (tmp_path / "train.wrd").exists() and not (tmp_path / "train.ltr").exists()
    words = (tmp_path / "train_labelled.wrd").read_text("utf-8")
    assert words == "ñandú dónde\nel él no sé\nñandú muñoz\n"


def test_clean_transcripts_of_several_splits_count_once(tmp_path, capsys):
    chapter = tmp_path / "corpus/train/7/2"
    chapter.mkdir(parents=True)
    soundfile.write(chapter / "7-2-0000.flac", np.zeros(1600) + 0.1, 16000)
    (chapter / "7-2.trans.txt").write_text("7-2-0000 IT'S A DAY\n")
    command = ["manifest", "librispeech", str(tmp_path / "corpus"), "--out", str(tmp_path), "--join", "all", "train"]
    assert main([*command, "--text-normalize", "--text-case", "upper"]) == 0
    printed = capsys.readouterr().out
    assert "symbols: 7 before, 7 after: ' A D I S T Y\nnothing has changed\n" in printed
    assert main([*command, "--text-normalize"]) == 0
    assert "case    A D I S T Y  a d i s t y      7  A, DAY, IT'S\n" in capsys.readouterr().out
    for name in ("train", "all"):
        assert (tmp_path / f"{name}.wrd").read_text() == "it's a day\n"
    assert main(["check", str(tmp_path / "train.tsv")]) == 0  # although 7-2.trans.txt has other letters


def test_the_printed_table_is_short_however_many_changes_there_are():
    report = TextReport()
    for step in ("Unicode form", "replaced", "case", "punctuation"):
        for number in range(300):
            report.record(step, chr(0x4E00 + number), f"x{number}", "word")
    rows = report.short_rows(18)
    assert len(rows) <= 18 and sum(row["count"] for row in rows) == 1200
    assert len(report.table_lines()) == 1201


# ---- dinosr normalize ------------------------------------------------------------------------------------------------


@pytest.fixture
def rules(tmp_path) -> Path:
    path = tmp_path / "text_normalization.json"
    path.write_text('{"case": "upper"}')
    return path


def normalize(tmp_path: Path, text: str, name: str, *options: str) -> int:
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    files = [str(tmp_path / "text.txt"), "--like", str(tmp_path), "--out", str(tmp_path / name)]
    return main(["normalize", *files, *options])


def test_a_text_becomes_words_or_letters(rules, tmp_path, capsys):
    assert normalize(tmp_path, "Ñandú, sí.\n\nno\n", "more.wrd") == 0
    assert (tmp_path / "more.wrd").read_text("utf-8") == "ÑANDÚ SÍ\n\nNO\n"
    assert capsys.readouterr().out == f"{tmp_path}/more.wrd: NFC, upper case, punctuation removed, digits refused\n"
    assert normalize(tmp_path, "sí no\n\n", "more.ltr") == 0
    assert (tmp_path / "more.ltr").read_text("utf-8") == "S Í | N O |\n\n"


def test_lines_that_cannot_be_used_are_listed_or_left_out(rules, tmp_path, capsys):
    text = "uno\n2\n...\n" + "3\n" * 30
    assert normalize(tmp_path, text, "out") == 1
    error = capsys.readouterr().err.splitlines()
    assert error[0].startswith(f"error: {tmp_path}/text.txt: 32 line(s) cannot be used; correct them, or add --skip-")
    assert error[1].startswith("  line 2: digit '2'") and error[-1] == "  ... and 12 more" and len(error) == 22
    assert not (tmp_path / "out").exists()
    assert normalize(tmp_path, text, "out", "--skip-unusable") == 0
    assert (tmp_path / "out").read_text() == "UNO\n"
    assert capsys.readouterr().err == "note: 32 line(s) were left out\n"


def test_the_text_itself_is_not_overwritten(rules, tmp_path, capsys):
    assert normalize(tmp_path, "Uno\n", "text.txt") == 1
    assert (tmp_path / "text.txt").read_text() == "Uno\n" and "would overwrite the text" in capsys.readouterr().err


def test_texts_that_cannot_be_used_are_found_before_copies_are_made(corpus, tmp_path, capsys):
    (corpus / "a/1.txt").write_text("3 de mayo", encoding="utf-8")
    (corpus / "b/4.txt").write_text("...", encoding="utf-8")
    assert manifest(corpus, tmp_path / "out", "--text-normalize", "--convert", tmp_path / "copies") == 1
    errors = capsys.readouterr().err
    assert "a/1.wav: digit '3' in its transcript" in errors and "b/4.wav: its transcript has no words" in errors
    assert not (tmp_path / "copies").exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("source", ["files", "table"])
def test_a_symbol_that_manifests_do_not_allow_can_be_replaced(corpus, tmp_path, source):
    """... and is removed as punctuation: the rules apply before the words are checked."""
    (corpus / "a/1.txt").write_text("uno|dos", encoding="utf-8")
    (tmp_path / "table.tsv").write_text("a/1\tuno|dos\na/2\tx\nb/3\ty\nb/4\tz\n")
    table = ["--transcripts", tmp_path / "table.tsv"] if source == "table" else []
    assert manifest(corpus, tmp_path / "plain", *table) == 1
    assert manifest(corpus, tmp_path / "out", "--text-normalize", *table) == 0
    assert (tmp_path / "out/train.wrd").read_text(encoding="utf-8").splitlines()[0] == "uno dos"
