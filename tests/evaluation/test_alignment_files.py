"""Alignments from TextGrid files: folders as the Montreal Forced Aligner writes them. Tables: ``test_phones.py``."""

from pathlib import Path

import pytest

from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.alignment_files import read_rows
from dinosr_plugin.evaluation.measures.abx.items import make_items
from dinosr_plugin.evaluation.phones import PhoneAlignment
from support.textgrids import long_textgrid, short_textgrid

PHONES = [(0, 0.1, ""), (0.1, 0.2, "AH0"), (0.2, 0.35, "ʃ"), (0.35, 0.5, "spn")]
ROWS = [(0, 100_000, "SIL"), (100_000, 200_000, "AH0"), (200_000, 350_000, "ʃ"), (350_000, 500_000, "SIL")]


def write(path: Path, tiers, end: float = 0.5, long: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text((long_textgrid if long else short_textgrid)(tiers, end), encoding="utf-8")
    return path


@pytest.fixture
def aligned(tmp_path) -> Path:
    """A folder with folders of speakers, whose names have accents and spaces."""
    words = [(0, 0.1, ""), (0.1, 0.35, "hé"), (0.35, 0.5, "<eps>")]
    write(tmp_path / "aligned/José María/une phrase.TextGrid", {"words": words, "phones": PHONES})
    write(tmp_path / "aligned/b/two.v2.textgrid", {"phones": PHONES, "words": []}, long=False)
    (tmp_path / "aligned/b/notes.txt").write_text("other")
    (tmp_path / "aligned/.hidden.TextGrid").write_text("not read")
    return tmp_path / "aligned"


def test_a_folder_of_speakers(aligned):
    """A file's name is the utterance, as in a manifest; silence has one name, and phones keep their stress."""
    assert read_rows(aligned, "phone") == {"une phrase": ROWS, "two.v2": ROWS}
    assert read_rows(aligned / "b/two.v2.textgrid", "phone") == {"two.v2": ROWS}
    alignment = PhoneAlignment.read(aligned)
    assert alignment.names == ("AH0", "SIL", "ʃ") and alignment.path == aligned
    assert [alignment.names[i] for i in alignment.frame_phones("two.v2", 5, 10.0, 0.05)] == [
        "SIL", "AH0", "ʃ", "SIL", "SIL",
    ]  # fmt: skip


def test_words_are_without_silence(aligned):
    assert read_rows(aligned, "word") == {"une phrase": [(100_000, 350_000, "hé")], "two.v2": []}
    words = PhoneAlignment.read(aligned, column="word")
    assert words.names == ("hé",) and words.segments["two.v2"][1].dtype.kind == "i"


@pytest.mark.parametrize("label", ["", " ", "sil", "SIL", "sp", "spn", "<eps>"])
def test_labels_of_silence(tmp_path, label):
    """Also where the tier begins late or ends early, and adjacent silences are one."""
    intervals = [(0.05, 0.1, "A"), (0.1, 0.2, label), (0.2, 0.3, "sil"), (0.3, 0.4, "B")]
    path = write(tmp_path / "a.TextGrid", {"Phones": intervals})
    times = [(0, 0.05, "SIL"), (0.05, 0.1, "A"), (0.1, 0.3, "SIL"), (0.3, 0.4, "B"), (0.4, 0.5, "SIL")]
    assert read_rows(path, "phone")["a"] == [(round(s * 1e6), round(e * 1e6), name) for s, e, name in times]


def test_several_speakers_in_a_recording(tmp_path):
    """Each has a tier; their speech must not overlap."""
    anna, ben = [(0, 0.2, "A"), (0.2, 0.5, "")], [(0, 0.3, ""), (0.3, 0.5, "B")]
    path = write(tmp_path / "a.TextGrid", {"anna - phones": anna, "anna - words": [], "ben - phones": ben})
    rows = [(0, 200_000, "A"), (200_000, 300_000, "SIL"), (300_000, 500_000, "B")]
    assert read_rows(path, "phone") == {"a": rows}
    write(path, {"anna - phones": anna, "ben - phones": [(0, 0.1, ""), (0.1, 0.5, "B")]})
    with pytest.raises(UserError, match=r"a.TextGrid:\d+: the segment starts at 0.1 s, before 0.2 s"):
        read_rows(path, "phone")


@pytest.mark.parametrize(
    "tiers, message",
    [
        ({"phone": [], "words": []}, r"has no interval tier named 'phones' or 'SPEAKER - phones' \(phone, words\)"),
        ({}, "'SPEAKER - phones' .none at all."),
        ({"phones": [(0, 0, "A")]}, r"a.TextGrid:\d+: a segment from 0.0 s to 0.0 s"),
        ({"phones": [(0, "1e999", "A")]}, r"a.TextGrid:\d+: a segment from 0.0 s to inf s"),
        ({"phones": [(0, 0.3, "A"), (0.2, 0.4, "B")]}, r"a.TextGrid:\d+: the segment starts at 0.2 s, before 0.3 s"),
    ],
)
def test_invalid_tiers(tmp_path, tiers, message):
    path = write(tmp_path / "a.TextGrid", tiers)
    for given in (path, tmp_path):
        with pytest.raises(UserError, match=message) as error:
            read_rows(given, "phone")
        assert "\n" not in str(error.value)


def test_invalid_folders(tmp_path, aligned):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: contains no .TextGrid file"):
        read_rows(tmp_path / "empty", "phone")
    write(aligned / "c/two.v2.TextGrid", {"phones": PHONES})
    with pytest.raises(UserError, match="two.v2.TextGrid: has the name of .*b/two.v2.textgrid; names must be unique"):
        read_rows(aligned, "phone")
    write(tmp_path / "silent/a.TextGrid", {"words": [(0, 0.5, "")]})
    with pytest.raises(UserError, match=r"silent: all words in its 1 TextGrid file\(s\) are empty"):
        read_rows(tmp_path / "silent", "word")
    with pytest.raises(UserError, match="no end.TextGrid: a segment from 0.0 s to 0.0 s"):
        read_rows(write(tmp_path / "no end.TextGrid", {"phones": []}, end=0.0), "phone")


def test_an_empty_phone_of_a_table_is_silence(tmp_path):
    table = tmp_path / "a.phones.tsv"
    table.write_text("utt\tstart\tend\tphone\na\t0\t0.1\t\na\t0.1\t0.2\tA\n")
    assert read_rows(table, "phone") == {"a": [(0, 100_000, "SIL"), (100_000, 200_000, "A")]}


@pytest.mark.parametrize("silence", ["", "sil", "sp", "spn", "SIL"])
def test_labels_of_silence_in_a_table_are_no_items(tmp_path, silence):
    """As Montreal Forced Aligner names it: triphones with silence are not compared."""
    table, rows = tmp_path / "a.phones.tsv", ["utt\tstart\tend\tphone"]
    for utt, middle in (("a-1-1", "B"), ("a-1-2", "B"), ("a-1-3", "C"), ("a-1-4", silence)):
        rows += [f"{utt}\t{i}\t{i + 1}\t{phone}" for i, phone in enumerate(("A", middle, "A"))]
    table.write_text("\n".join(rows) + "\n")
    assert {item.utt for item in make_items(PhoneAlignment.read(table))} == {"a-1-1", "a-1-2", "a-1-3"}
