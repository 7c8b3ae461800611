"""Inputs of probes: what is required, what is left out with a note, and errors of one line."""

from dataclasses import replace
from pathlib import Path

import pytest

from dinosr_plugin.data.perturbation import praat
from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.probes.inputs import TASKS, ProbeOptions, make_measures, read_genders, read_inputs


def options_of(corpus: Path, *tasks: str, **others) -> ProbeOptions:
    files = {"phone": "phones", "word": "words"}
    alignments = {
        name: (corpus / f"train.{name}.tsv", corpus / f"test.{name}.tsv")
        for task, name in files.items()
        if task in tasks
    }
    genders = corpus / "genders.tsv" if "gender" in tasks else None
    given = {"train": corpus / "train.tsv", "manifest": corpus / "test.tsv", "tasks": tasks, "genders": genders}
    return ProbeOptions(**{**given, **alignments, **others})


def error_of(options: ProbeOptions) -> str:
    with pytest.raises(UserError) as error:
        read_inputs(options, 400)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_all_tasks(corpus, tmp_path):
    pytest.importorskip("parselmouth")
    pytest.importorskip("sklearn")
    inputs = read_inputs(options_of(corpus, *TASKS), 400)
    assert inputs.classes["phone"] == ["AA", "IY", "SIL", "UW"] and inputs.classes["gender"] == ("F", "M")
    assert set(inputs.classes["word"]) == {"AAIY", "UW", "AAUW", "IY"}
    assert len(inputs.fitted) == 9 and inputs.training["ben1"] == "ben" and inputs.speakers == 2
    assert [note.split(";")[-1] for note in inputs.notes] == [
        " all are probed" if "words" in note else " intervals over so few are rough" for note in inputs.notes
    ]
    assert [measure.columns[0].key for measure in make_measures(inputs, tmp_path)] == list(TASKS)


@pytest.mark.parametrize("task, option", [("phone", "--phones"), ("word", "--words"), ("gender", "--genders")])
def test_a_task_requires_its_file_and_a_file_its_task(corpus, task, option):
    without = replace(options_of(corpus, task), phones=(), words=(), genders=None)
    assert error_of(without) == f"{option} is required with --task {task}; give it, or omit the task"
    assert f"{option}: only used with --task {task}; remove it" in error_of(
        replace(options_of(corpus, task), tasks=("position",))
    )


def test_f0_without_parselmouth(corpus, monkeypatch):
    monkeypatch.setattr(praat.importlib.util, "find_spec", lambda name: None)
    assert "package parselmouth is missing, with which F0 is measured" in error_of(options_of(corpus, "f0"))


@pytest.mark.parametrize("task", ["phone", "gender", "energy", "position", "word"])
def test_speakers_must_differ(corpus, task):
    message = error_of(replace(options_of(corpus, task), manifest=corpus / "train.tsv"))
    assert (
        "3 of its 3 speakers (anna, ben, cleo) are in" in message and f"--task {task} is measured on other" in message
    )


def test_the_speaker_is_measured_on_any_speech(corpus):
    pytest.importorskip("sklearn")
    options = replace(options_of(corpus, "speaker"), manifest=corpus / "train.tsv")
    assert read_inputs(options, 400).speakers == 3


def test_a_speaker_with_one_utterance(corpus, tmp_path):
    pytest.importorskip("sklearn")
    rows = (corpus / "test.tsv").read_text().splitlines()
    (tmp_path / "few.tsv").write_text("\n".join(rows[:5]) + "\n")  # three of dora, one of emil
    options = replace(options_of(corpus, "speaker"), manifest=tmp_path / "few.tsv")
    assert "the speaker probe requires at least two speakers with 3 utterances each" in error_of(options)


def test_utterances_without_alignment(corpus):
    options = replace(options_of(corpus, "phone"), phones=(corpus / "train.phones.tsv",))
    message = error_of(options)
    assert "test.tsv: 6 of 6 utterances have no alignment" in message and "give theirs as a further file" in message


def test_utterances_without_alignment_can_be_left_out(corpus, tmp_path):
    lines = (corpus / "test.phones.tsv").read_text().splitlines()
    (tmp_path / "part.tsv").write_text("\n".join(line for line in lines if not line.startswith("dora1\t")) + "\n")
    options = replace(options_of(corpus, "phone"), phones=(corpus / "train.phones.tsv", tmp_path / "part.tsv"))
    assert "1 of 6 utterances have no alignment" in error_of(options) and "--skip-missing" in error_of(options)
    inputs = read_inputs(replace(options, skip_missing=True), 400)
    assert "dora1" not in inputs.speech.names and "1 of 6 utterances have no alignment (dora1)" in inputs.notes[0]


def test_phones_of_one_side_are_counted_and_left_out(corpus, tmp_path):
    text = (corpus / "test.phones.tsv").read_text()
    (tmp_path / "other.tsv").write_text(text.replace("\tUW", "\tOW"))
    inputs = read_inputs(
        replace(options_of(corpus, "phone"), phones=(corpus / "train.phones.tsv", tmp_path / "other.tsv")), 400
    )
    assert inputs.classes["phone"] == ["AA", "IY", "SIL"]
    count = text.count("\tUW")
    assert f"1 phone(s) are in the test speech only (OW; {count} segments); left out" in inputs.notes
    assert any("are in the training speech only (UW;" in note for note in inputs.notes)


def test_no_phone_in_common(corpus, tmp_path):
    header, *rows = (corpus / "test.phones.tsv").read_text().splitlines()
    (tmp_path / "other.tsv").write_text("\n".join([header, *(f"{row}x" for row in rows)]) + "\n")
    options = replace(options_of(corpus, "phone"), phones=(corpus / "train.phones.tsv", tmp_path / "other.tsv"))
    assert "have 0 phone(s) in common; give alignments with the same phones" in error_of(options)


def test_the_most_frequent_words_of_both(corpus):
    options = replace(options_of(corpus, "word"), top_words=2)
    rows = [line.split("\t") for line in (corpus / "train.words.tsv").read_text().splitlines()[1:]]
    counts = {word: sum(row[3] == word for row in rows) for word in {row[3] for row in rows}}
    assert read_inputs(options, 400).classes["word"] == sorted(sorted(counts, key=lambda one: (-counts[one], one))[:2])


def test_genders(tmp_path):
    (tmp_path / "SPEAKERS.TXT").write_text(
        ";ID  |SEX| SUBSET           |MINUTES| NAME\n14   | F | train-clean-360  | 25.03 | Kristin LeMoine\n"
        "60   | M | train-clean-100  | 20.18 | |CBW|Simon\n"
    )
    assert read_genders(tmp_path / "SPEAKERS.TXT") == {"14": "F", "60": "M"}
    (tmp_path / "g.tsv").write_text("anna\tF\n\nben\tM\n")
    assert read_genders(tmp_path / "g.tsv") == {"anna": "F", "ben": "M"}


@pytest.mark.parametrize(
    "text, message",
    [
        ("anna\tf\n", "line 1: neither F nor M"),
        ("anna\n", "line 1: neither F nor M"),
        ("a\tF\na\tM\n", "line 2: speaker a is F and M"),
        ("", "empty"),
    ],
)
def test_bad_genders(tmp_path, text, message):
    (tmp_path / "g.tsv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_genders(tmp_path / "g.tsv")


def test_speakers_without_gender_and_one_gender(corpus, tmp_path):
    (tmp_path / "g.tsv").write_text("anna\tF\nben\tM\n")
    assert "3 of 5 speakers are not in it (cleo, dora, emil); add their lines" in error_of(
        options_of(corpus, "gender", genders=tmp_path / "g.tsv")
    )
    (tmp_path / "g.tsv").write_text("\n".join(f"{name}\tF" for name in ("anna", "ben", "cleo", "dora", "emil")))
    assert "all its speakers have one gender" in error_of(options_of(corpus, "gender", genders=tmp_path / "g.tsv"))
