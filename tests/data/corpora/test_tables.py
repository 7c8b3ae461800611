"""Words and speakers from tables: formats, names of files, and what contradicts itself."""

import unicodedata
from pathlib import Path

import pytest

from dinosr_plugin.data.corpora.names import AudioNames
from dinosr_plugin.data.corpora.tables import SPEAKERS, TRANSCRIPTS, match_table
from dinosr_plugin.errors import UserError
from support.folders import fails, lines, make_folder, notes, write_sound

FILES = ["s/a.wav", "s/b c.wav", "t/a.flac", "t/d.wav"]
COMMON_VOICE = 'client_id\tpath\tsentence\tage\nx1\td.mp3\tHe said "no"\t\nx1\tb c.mp3\tyes\tteens\n'


def read(tmp_path: Path, text: str, values=TRANSCRIPTS, paths=FILES) -> tuple[dict[str, str], list[str]]:
    (tmp_path / "table").write_text(text, encoding="utf-8")
    problems: list[str] = []
    found, notes = match_table(tmp_path / "table", values, paths, problems)
    return found, [text.replace(f"{tmp_path}/", "") for text in (problems or notes)]


# ---- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, kind",
    [
        ('t/d.wav\tHe said  "no"\nb c.wav\tyes\n', "file<TAB>text"),
        ('\n t/d \tHe said "no" \r\n\r\nb c\tyes', "file<TAB>text"),
        ('File\tText\nd\tHe said "no"\nb c\tyes\n', "a table with the columns file and text"),
        ('nr\twords\tutt\n1\tHe said "no"\td\n2\tyes\tb c\n', "a table with the columns utt and words"),
        (COMMON_VOICE, "Common Voice's table"),
    ],
)
def test_tables_of_words(text, kind, tmp_path):
    found, notes = read(tmp_path, text)
    assert found == {"t/d.wav": 'He said "no"', "s/b c.wav": "yes"}
    assert notes == [f"--transcripts table: read as {kind}; 2 of 4 audio file(s) are in it"]


def test_kaldi_text_and_utt2spk(tmp_path):
    found, notes = read(tmp_path, "d He said so\ns/a  yes \n")
    assert found == {"t/d.wav": "He said so", "s/a.wav": "yes"} and "read as Kaldi's text" in notes[0]
    found, notes = read(tmp_path, "d anna\ns/a ben\n", SPEAKERS)
    assert found == {"t/d.wav": "anna", "s/a.wav": "ben"} and "read as Kaldi's utt2spk" in notes[0]


@pytest.mark.parametrize("text", ["d\tAnna B\nt/a\tben\n", "spk\tfile\nAnna B\td.wav\nben\tt/a\n"])
def test_tables_of_speakers(text, tmp_path):
    assert read(tmp_path, text, SPEAKERS)[0] == {"t/d.wav": "Anna B", "t/a.flac": "ben"}


def test_speakers_of_common_voice(tmp_path):
    assert read(tmp_path, COMMON_VOICE, SPEAKERS)[0] == {"t/d.wav": "x1", "s/b c.wav": "x1"}


@pytest.mark.parametrize(
    "text, values, message",
    [
        ("", TRANSCRIPTS, "table: empty; write one line file<TAB>text"),
        ("d\tone\ttwo\n", TRANSCRIPTS, "line 1: 3 columns instead of 2; name them in the first line"),
        ("path\tsentence\nd\tone\ttwo\n", TRANSCRIPTS, "line 2: 3 columns instead of 2"),
        ("anna d a\n", SPEAKERS, "line 1: 3 words instead of 2; give utt2spk, not spk2utt"),
        ("x\tone\ny\ttwo\n", TRANSCRIPTS, "none of its 2 row.s. names an audio file, such as s/a.wav,.*first is 'x'"),
        ("d\t\n", TRANSCRIPTS, "none of its 1 row.s. .* has a text"),
        ("a,text\nd,words\n", TRANSCRIPTS, "read as Kaldi's text; the first is 'a,text'"),
    ],
)
def test_what_is_not_such_a_table_is_one_line(text, values, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, text, values)
    assert "\n" not in str(caught.value)


def test_contradictions_are_problems(tmp_path):
    _, problems = read(tmp_path, "d\tone\nt/d.wav\tone\nd\ttwo\na\tthree\ns/a\ta | b\n")
    assert problems == [
        "--transcripts table line 3: another text for t/d.wav than before; remove one",
        "--transcripts table line 4: a may be s/a.wav, t/a.flac; write it with folder and suffix",
        "--transcripts table line 5: s/a: '|' in its transcript: this character marks the end of a word in .ltr "
        "files; remove it",
    ]


def test_rows_without_audio_and_without_value_are_counted(tmp_path):
    found, notes = read(tmp_path, "d\tone\nx1\ttwo\nx2\t\nx3\tthree\nx4\tfour\nb c\t \ns/a.wav\n")
    assert found == {"t/d.wav": "one"} and notes[1:] == [
        "--transcripts table: 4 of 7 row(s) name no audio file here: x1, x2, x3, ...",
        "--transcripts table: 2 of 7 row(s) have no text",
    ]


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, expected",
    [
        ("s/a.wav", ["s/a.wav"]), ("s/a", ["s/a.wav"]), ("./s/a.wav", ["s/a.wav"]), ("a.wav", ["s/a.wav"]),
        ("a.flac", ["t/a.flac"]), ("a", ["s/a.wav", "t/a.flac"]), ("a.mp3", ["s/a.wav", "t/a.flac"]),
        ("t/a.mp3", ["t/a.flac"]), ("/data/corpus/t/a.m4a", ["t/a.flac"]), ("corpus\\t\\d.WAV", ["t/d.wav"]),
        ("x/d.wav", []), ("d", ["t/d.wav"]), ("D", []), ("d.txt", []), ("e", []), ("", []),
        (unicodedata.normalize("NFD", "é.f.wav"), ["é.f.wav"]), ("é.f", ["é.f.wav"]), ("é", []),
    ],
)  # fmt: skip
def test_names_of_files(name, expected):
    assert AudioNames([*FILES, "é.f.wav"]).find(name) == expected


def test_a_file_with_exactly_this_name_is_preferred():
    names = AudioNames(["a.wav", "s/a.wav", "b.wav", "b.flac"])
    assert names.find("a.wav") == names.find("a") == ["a.wav"] and names.find("s/a") == ["s/a.wav"]
    assert names.find("b.flac") == ["b.flac"] and names.find("b") == ["b.wav", "b.flac"]


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path) -> Path:
    for number in range(12):
        write_sound(tmp_path / f"clips/{number:02d}.wav", 1600)
    (tmp_path / "clips/00.txt").write_text("not this")
    rows = [f"{number:02d}.mp3\twords {number}\tspeaker {number % 4}" for number in range(12)]
    (tmp_path / "table.tsv").write_text("\n".join(["path\tsentence\tclient_id", *rows]) + "\n")
    return tmp_path / "clips"


def speakers_of(paths: list[str]) -> set[int]:
    return {int(Path(path).stem) % 4 for path in paths}


def test_words_of_the_table_replace_text_files(corpus, tmp_path):
    made = make_folder(corpus, tmp_path / "out", "--transcripts", str(tmp_path / "table.tsv"), "--valid-share", "0")
    assert lines(tmp_path / "out/train.wrd") == [f"words {int(Path(path).stem)}" for path in made["train"]]


def test_speakers_of_the_table_decide_the_split(corpus, tmp_path, capsys):
    arguments = ["--speakers", str(tmp_path / "table.tsv"), "--split-by", "speaker", "--valid-share", "0.5"]
    made = make_folder(corpus, tmp_path / "out", *arguments)
    train, valid = speakers_of(made["train"]), speakers_of(made["valid"])
    assert train and valid and not train & valid
    assert "decides the split only; for later commands the speaker is the first folder" in capsys.readouterr().err


def test_copies_are_in_a_folder_of_their_speaker(corpus, tmp_path, capsys):
    write_sound(corpus / "other.wav")
    arguments = ["--speakers", str(tmp_path / "table.tsv"), "--convert", str(tmp_path / "copies"), "--valid-share", "0"]
    made = make_folder(corpus, tmp_path / "out", *arguments)
    assert made["train"] == sorted([*(f"speaker {n % 4}/{n:02d}.flac" for n in range(12)), "unknown/other.flac"])
    assert "1 audio file(s) are not in it, and count as the speaker 'unknown': other.wav" in "\n".join(notes(capsys))
    assert lines(tmp_path / "copies/originals.tsv")[:2] == ["copy\toriginal", "speaker 0/00.flac\t00.wav"]


def test_unused_and_contradictory_tables_of_speakers(corpus, tmp_path, capsys):
    command = ["manifest", "folder", corpus, "--out", tmp_path / "out", "--speakers", tmp_path / "table.tsv"]
    assert "has no effect; add --split-by speaker, or --convert" in fails(capsys, *command)
    (tmp_path / "table.tsv").write_text("00\tanna\n00\tben\n")
    assert "another speaker for 00.wav than before" in fails(capsys, *command, "--split-by", "speaker")
    (tmp_path / "table.tsv").write_text("00\ta/b\n01\t..\n02\t" + "x" * 300 + "\n03\tfine\n")
    message = fails(capsys, *command, "--convert", tmp_path / "copies", "--valid-share", "0")
    assert "3 problem(s)" not in message and message.count("its copy cannot be named") == 2
