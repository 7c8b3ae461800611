"""TextGrid files: both text formats, encodings, what Praat ignores, and files that are damaged."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.textgrid import read_textgrid, values_of
from support.textgrids import long_textgrid, short_textgrid

TIERS = {"words": [(0, 0.5, "hé"), (0.5, 1.25, 'a "b"')], "phones": [(0, 1.25, "ʃ")]}
EXAMPLE = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0 ! the beginning, "here"
xmax = 2.3
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "TextTier"
        name = "bell"
        xmin = 0
        xmax = 2.3
        points: size = 1
        points [1]:
            number = 1
            mark = "ding"
    item [2]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 2.3
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 2.3
            text = "AH0"
"""


def content(path: Path) -> dict:
    return {tier.name: [interval[:3] for interval in tier.intervals] for tier in read_textgrid(path).tiers}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "a.TextGrid"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("write", [long_textgrid, short_textgrid])
def test_formats_and_encodings(file, write, encoding):
    """UTF-16 is big-endian where Praat writes it."""
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    for line_break in ("\n", "\r\n"):
        file.write_bytes((mark + write(TIERS, 1.25)).replace("\n", line_break).encode(encoding))
        assert content(file) == TIERS
        assert read_textgrid(file)[:2] == (0, 1.25)


def test_point_tiers_and_comments_are_left_out(file):
    file.write_text(EXAMPLE)
    ((name, (interval,)),) = read_textgrid(file).tiers
    assert (name, interval) == ("phones", (0, 2.3, "AH0", 27))
    file.write_text(EXAMPLE[: EXAMPLE.index("<exists>")] + "<absent>\n")
    assert read_textgrid(file).tiers == []


@pytest.mark.parametrize(
    "old, new, message",
    [
        ('"ooTextFile"', '"text"', "contains 'TextGrid' of type 'text', not a TextGrid"),
        ('"TextGrid"', '"Sound"', "contains 'Sound'"),
        ("<exists>", "exists", r":7: expected <exists>, or <absent>, found '2'"),
        ("xmax = 2.3\ntiers", "xmax = two\ntiers", r":6: expected the end, a number, found '<exists>'"),
        ("size = 2", "size = -2", r":7: the number of tiers is -2, not a whole number"),
        ("size = 2", "size = 3", "ends before the class of tier 3, a text in double quotes; the file is incomplete"),
        ("points: size = 1", "points: size = 1e9", "number of points of tier 'bell' is 1e9"),
        ("intervals: size = 1", "intervals: size = 999999999", "ends before a start in tier 'phones'"),
        ('"IntervalTier"', '"Tier"', r":20: tier 'phones' is of class 'Tier'"),
        ('"AH0"', "AH0", "ends before a label of tier 'phones'"),
        ('"AH0"', '"AH0', r":27: a quotation mark that does not begin or end a text"),
        ('"AH0"', '"A"H0"', r":27: a quotation mark"),
    ],
)
def test_damage_is_named_with_its_line(file, old, new, message):
    file.write_text(EXAMPLE.replace(old, new, 1))
    with pytest.raises(UserError, match=f"a.TextGrid{message}" if message[0] == ":" else message) as error:
        read_textgrid(file)
    assert "\n" not in str(error.value)


def test_other_files_are_refused(file):
    with pytest.raises(UserError, match="no such file; save it in Praat"):
        read_textgrid(file)
    for data in (b"", b"ooBinaryFile\x08TextGrid\0\0", "é".encode("latin-1")):
        file.write_bytes(data)
        with pytest.raises(UserError, match="ends before|null character|not UTF-8"):
            read_textgrid(file)


LABELS = st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=8)


@given(st.lists(st.tuples(LABELS, st.lists(LABELS, max_size=4)), max_size=3), st.booleans())
def test_what_was_written_is_read_back(tmp_path_factory, tiers, short):
    """Whatever the names and labels, such as quotes, line breaks and numbers."""
    path = tmp_path_factory.mktemp("grid") / "a.TextGrid"
    written = [(name, [(i / 10, (i + 1) / 10, label) for i, label in enumerate(labels)]) for name, labels in tiers]
    path.write_bytes((short_textgrid if short else long_textgrid)(written, 1.0).encode())
    read = [(tier.name, [interval[:3] for interval in tier.intervals]) for tier in read_textgrid(path).tiers]
    assert read == written


@pytest.mark.parametrize("part", ['"', '""', '"a"b ', "1", "1x ", ".1", "1e", "<", "<a> ", '"a', "!", "!\n", 'a" '])
def test_the_time_does_not_explode(part):
    text = part * (200_000 // len(part))
    start = time.process_time()
    for repeated in (text, text + "x", text + '"'):
        try:
            for _ in values_of("a", repeated):
                pass
        except UserError:
            pass
    assert time.process_time() - start < 3
