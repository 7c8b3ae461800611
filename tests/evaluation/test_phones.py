"""Phone alignments: the phone of each frame, and messages about invalid files."""

import numpy as np
import pytest

from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.phones import PHONE_CLASSES, PhoneAlignment, class_order, phone_class


@pytest.fixture
def write(tmp_path):
    def write(*rows: str, header: str = "utt start end phone"):
        path = tmp_path / "some.phones.tsv"
        path.write_text("\n".join(line.replace(" ", "\t") for line in (header, *rows)) + "\n")
        return path

    return write


def labels(alignment, utt, n_frames, rate=50.0, first_centre=0.0125):
    return [alignment.names[i] for i in alignment.frame_phones(utt, n_frames, rate, first_centre)]


def test_the_phone_of_a_frame_is_that_at_its_centre(write):
    # centres at 0.0125, 0.0325, 0.0525, 0.0725, 0.0925
    alignment = PhoneAlignment.read(write("a 0.00 0.03 SIL", "a 0.03 0.06 K", "a 0.06 0.08 AE"))
    assert alignment.names == ("AE", "K", "SIL")
    assert labels(alignment, "a", 5) == ["SIL", "K", "K", "AE", "AE"]  # the last centre is past the end: the last phone
    assert labels(alignment, "a", 0) == []
    assert alignment.frame_phones("a", 5, 50.0, 0.0125).dtype == np.int64


def test_a_segment_includes_its_start_and_excludes_its_end(write):
    alignment = PhoneAlignment.read(write("a 0.00 0.0325 S", "a 0.0325 0.07 T"))
    assert labels(alignment, "a", 2) == ["S", "T"]
    just_later = PhoneAlignment.read(write("a 0.00 0.0326 S", "a 0.0326 0.07 T"))
    assert labels(just_later, "a", 2) == ["S", "S"]


@pytest.mark.parametrize("boundary", [7, 29, 58, 123, 10_001])
def test_boundaries_do_not_depend_on_float_rounding(write, boundary):
    alignment = PhoneAlignment.read(write(f"a 0.00 {boundary / 100:.2f} S", f"a {boundary / 100:.2f} 200.00 T"))
    assert labels(alignment, "a", boundary + 1, rate=100.0, first_centre=0.0)[-2:] == ["S", "T"]


def test_gaps_late_starts_and_other_rates(write):
    alignment = PhoneAlignment.read(write("a 0.02 0.03 M", "b 0.00 0.50 N", "a 0.05 0.07 S"))
    assert labels(alignment, "a", 3) == ["M", "M", "S"]  # before the first segment, in the gap, in the second
    assert labels(alignment, "a", 7, rate=100.0, first_centre=0.005) == ["M"] * 5 + ["S"] * 2
    assert labels(alignment, "b", 2) == ["N", "N"]


@pytest.mark.parametrize(
    "row, message",
    [
        ("a 0.10 0.10 S", r"tsv:3: a segment from 0.1 s to 0.1 s"),
        ("a 0.20 0.10 S", r"tsv:3: a segment from"),
        ("b -0.1 0.10 S", r"tsv:3: a segment from -0.1"),
        ("a nan 0.10 S", r"tsv:3: a segment from nan"),
        ("a 0.05 0.20 S", r"tsv:3: the segment starts at 0.05 s, before 0.1 s"),
        ("a 0.10 1e300 S", r"tsv:3: a segment from 0.1 s to 1e\+300 s.* at most at 10000000 s"),
        ("a 0.10 inf S", r"tsv:3: a segment"),
        ("a nan 0.20 S", r"tsv:3: a segment"),
        ("a -1 0.20 S", r"tsv:3: a segment"),
        ("a 0.10 S", r"tsv:3: expected 'utt<TAB>start"),
        ("a 0.10 x S", r"tsv:3: expected 'utt<TAB>start"),
        ("", r"tsv:3: expected 'utt<TAB>start"),
    ],
)
def test_an_invalid_row_is_named_with_its_line(write, row, message):
    with pytest.raises(UserError, match=message) as error:
        PhoneAlignment.read(write("a 0.00 0.10 K", row))
    assert "\n" not in str(error.value)


def test_invalid_files(write, tmp_path):
    with pytest.raises(UserError, match="absent.tsv: no such file; give a .phones.tsv"):
        PhoneAlignment.read(tmp_path / "absent.tsv")
    with pytest.raises(UserError, match="first line is 'utt,start'"):
        PhoneAlignment.read(write(header="utt,start"))
    with pytest.raises(UserError, match="no rows"):
        PhoneAlignment.read(write())
    empty = tmp_path / "empty.tsv"
    empty.touch()
    with pytest.raises(UserError, match="first line is ''"):
        PhoneAlignment.read(empty)


def test_utterances_without_alignment_are_counted_and_named(write):
    alignment = PhoneAlignment.read(write("a 0.00 0.10 K"))
    alignment.require(["a", "a"])
    with pytest.raises(UserError, match=r"4 of 5 utterances have no alignment \(p, q, r, \.\.\.\)"):
        alignment.require(["a", "p", "q", "r", "s"])
    with pytest.raises(UserError, match=r"1 of 1 utterances have no alignment \(z\)"):
        alignment.frame_phones("z", 3, 50.0, 0.0125)


def test_classes_of_phones():
    every = [phone for phones in PHONE_CLASSES.values() for phone in phones]
    assert len(every) == len(set(every)) == 42  # 39 ARPABET phones and three names for silence
    names = ["AA", "B", "QQ", "S", "SIL", "EY", "IY"]
    assert [names[i] for i in class_order(names)] == ["IY", "AA", "EY", "S", "B", "SIL", "QQ"]
    assert (phone_class("NG"), phone_class("QQ"), phone_class("AH0")) == ("nasals", "other", "vowels")
    assert [["B", "IY1", "AA"][i] for i in class_order(["B", "IY1", "AA"])] == ["IY1", "AA", "B"]


def test_a_real_alignment(librispeech_mini):
    alignment = PhoneAlignment.read(librispeech_mini / "dev.phones.tsv")
    assert len(alignment.names) == 40 and list(alignment.names) == sorted(alignment.names)
    assert all(phone_class(name) != "other" for name in alignment.names)
    assert len(alignment.segments) == 91
    # SIL ends at 0.23 s; the centre of frame 11 is at 0.2325 s
    assert labels(alignment, "7367-86737-0000", 14) == ["SIL"] * 11 + ["CH"] * 3


# ---- several files, and words ----------------------------------------------------------------------------------------


def test_several_files_are_one_alignment(tmp_path, write):
    first = write("a 0.0 0.1 K", "a 0.1 0.2 SIL")
    second = tmp_path / "other.tsv"
    second.write_text("utt\tstart\tend\tphone\nb\t0.0\t0.1\tAE\nb\t0.1\t0.2\tK\n")
    both = PhoneAlignment.read(first, second)
    assert both.names == ("AE", "K", "SIL") and both.path == first
    assert labels(both, "a", 1) == ["K"] and labels(both, "b", 1) == ["AE"]
    with pytest.raises(UserError, match=r"some.phones.tsv: 1 utterance\(s\) are in another alignment too \(a\)"):
        PhoneAlignment.read(first, second, first)


def test_words_have_a_column_of_their_own(write):
    path = write("a 0.0 0.3 HELLO", header="utt start end word")
    assert PhoneAlignment.read(path, column="word").names == ("HELLO",)
    with pytest.raises(UserError, match="it must be the TAB-separated header 'utt start end phone'"):
        PhoneAlignment.read(path)
    with pytest.raises(UserError, match="'utt start end word'"):
        PhoneAlignment.read(write("a 0.0 0.3 K"), column="word")


def test_the_digest_is_that_of_the_content(write):
    digest = PhoneAlignment.read(write("a 0.0 0.1 K")).digest
    assert PhoneAlignment.read(write("a 0.00 0.10 K")).digest == digest
    for rows in (("a 0.0 0.1 T",), ("a 0.0 0.2 K",), ("b 0.0 0.1 K",), ("a 0.0 0.1 K", "b 0.0 0.1 K")):
        assert PhoneAlignment.read(write(*rows)).digest != digest
