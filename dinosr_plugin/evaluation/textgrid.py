"""Praat's TextGrid files, in the long and in the short text format.

Both formats have the same values in the same order. As Praat does, only values that stand alone between white space are
read: numbers, texts in double quotes (``""`` is a quote inside a text) and flags in angle brackets. The rest, such as
``xmin =`` and ``intervals [1]:``, and what follows ``!`` on a line, is comment (Praat's manual, "TextGrid file
formats").
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError
from ..files import read_text

REMEDY = "save it in Praat with Save as text file"
NUMBER = r"[+-]?+ (?: [0-9]++ \.?+ [0-9]*+ | \.[0-9]++ ) (?: [eE] [+-]?+ [0-9]++ )?+"
FLAG = r"<\w++>"
VALUE = re.compile(  # possessive (++), so that no text takes longer than its length
    rf"""
    (?: \s++ | ![^\n]*+ | (?! (?: {NUMBER} | {FLAG} ) (?!\S) ) [^\s"!]\S*+ )*+  # comments
    (?: "(?P<text> (?: [^"]++ | "" )*+ )" | (?P<number> {NUMBER} ) | (?P<flag> {FLAG} ) | \Z ) (?!\S)
    """,
    re.VERBOSE,
)


class Interval(NamedTuple):
    """``start``, ``end``: seconds; ``line``: of the file, where the interval ends."""

    start: float
    end: float
    label: str
    line: int


class Tier(NamedTuple):
    """An interval tier: its name, and its intervals in the order of the file."""

    name: str
    intervals: list[Interval]


class TextGrid(NamedTuple):
    """``start``, ``end``: seconds; ``tiers``: the interval tiers, point tiers are left out."""

    start: float
    end: float
    tiers: list[Tier]


class Value(NamedTuple):
    """``kind``: text, number or flag."""

    kind: str
    value: str
    line: int


def is_textgrid(path: str | Path) -> bool:
    """Whether the name ends in ``.TextGrid``, in any case."""
    return Path(path).suffix.lower() == ".textgrid"


def read_textgrid(path: str | Path) -> TextGrid:
    """Read a file: UTF-8, or UTF-16 with a byte order mark.

    Raises:
        UserError: no such file, another encoding, or not a complete TextGrid; the message names the line.
    """
    return Reading(path, read_text(path, REMEDY)).grid()


class Reading:
    """The values of a file, read one after the other; each method raises UserError for a value of another kind."""

    def __init__(self, path: str | Path, text: str):
        self.path, self.values, self.line = path, values_of(path, text), 1

    def grid(self) -> TextGrid:
        kinds = [self.text("the file type"), self.text("the object class")]
        if kinds[0] not in ("ooTextFile", "ooTextFile short") or kinds[1] != "TextGrid":
            raise UserError(f"{self.path}: contains {kinds[1]!r} of type {kinds[0]!r}, not a TextGrid; {REMEDY}")
        start, end = self.number("the start"), self.number("the end")
        if self.next("flag", "<exists>, or <absent>") == "<absent>":
            return TextGrid(start, end, [])
        tiers = [self.tier(number) for number in range(1, self.count("tiers") + 1)]
        return TextGrid(start, end, [tier for tier in tiers if tier is not None])

    def tier(self, number: int) -> Tier | None:
        """None for a point tier."""
        kind, name = self.text(f"the class of tier {number}"), self.text(f"the name of tier {number}")
        what = f"tier {name[:40]!r}"
        if kind not in ("IntervalTier", "TextTier"):
            raise UserError(f"{self.path}:{self.line}: {what} is of class {kind!r}, not IntervalTier or TextTier")
        self.number(f"the start of {what}")
        self.number(f"the end of {what}")
        if kind == "TextTier":
            for _ in range(self.count(f"points of {what}")):
                self.number(f"a point of {what}")
                self.text(f"a mark of {what}")
            return None
        return Tier(name, [self.interval(what) for _ in range(self.count(f"intervals of {what}"))])

    def interval(self, what: str) -> Interval:
        start, end = self.number(f"a start in {what}"), self.number(f"an end in {what}")
        return Interval(start, end, self.text(f"a label of {what}"), self.line)

    def text(self, what: str) -> str:
        return self.next("text", f"{what}, a text in double quotes").replace('""', '"')

    def number(self, what: str) -> float:
        return float(self.next("number", f"{what}, a number"))

    def count(self, what: str) -> int:
        value = self.next("number", f"the number of {what}")
        if not (value.isascii() and value.isdecimal() and len(value) < 10):
            raise UserError(f"{self.path}:{self.line}: the number of {what} is {value}, not a whole number; {REMEDY}")
        return int(value)

    def next(self, kind: str, what: str) -> str:
        value = next(self.values, None)
        if value is None:
            raise UserError(f"{self.path}: ends before {what}; the file is incomplete: save it again")
        self.line = value.line
        if value.kind != kind:
            raise UserError(f"{self.path}:{self.line}: expected {what}, found {value.value[:40]!r}; {REMEDY}")
        return value.value


def values_of(path: str | Path, text: str) -> Iterator[Value]:
    """The values of a text, comments left out. Raises UserError for a quotation mark that nothing closes."""
    place, line = 0, 1
    while found := VALUE.match(text, place):
        if found.lastgroup is None:
            return
        line += text.count("\n", place, found.end())
        place = found.end()
        yield Value(found.lastgroup, found[found.lastgroup], line)
    line += text[place:].partition('"')[0].count("\n")
    raise UserError(
        f"{path}:{line}: a quotation mark that does not begin or end a text; inside a text it is written twice"
    )
