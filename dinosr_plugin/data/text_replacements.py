"""The user's replacements for transcripts, as a file: lines ``from<TAB>to``."""

import re
import unicodedata
from pathlib import Path

from ..errors import UserError
from ..files import read_lines
from .manifest import shorten

CODE_POINT = re.compile(r"U\+(10|[0-9A-Fa-f])?[0-9A-Fa-f]{4}")


def read_replacements(path: Path, form: str) -> dict[str, str]:
    """The replacements in a file with lines ``from<TAB>to``, in a Unicode form.

    ``to`` may be empty. Either may be written as code points: ``U+006E U+0303``.

    Raises:
        UserError: the file cannot be read, or a line is not such a line or contradicts another one.
    """
    remedy = "give a text file with lines `from<TAB>to`"
    replace: dict[str, str] = {}
    for number, line in enumerate(read_lines(path, remedy), start=1):
        if not line.strip():
            continue
        cells = line.split("\t")
        if len(cells) != 2 or not cells[0].strip():
            raise UserError(f"{path} line {number}: {shorten(line)!r} is not `from<TAB>to`; {remedy}")
        old, new = (unicodedata.normalize(form, from_code_points(cell)) for cell in cells)
        if replace.setdefault(old, new) != new:
            raise UserError(f"{path} line {number}: {shorten(old)!r} has another replacement above; remove one of them")
    if not replace:
        raise UserError(f"{path}: contains no replacements; {remedy}")
    return replace


def from_code_points(text: str) -> str:
    """``U+006E U+0303`` -> these characters; any other text as it is."""
    names = text.split()
    if not names or not all(CODE_POINT.fullmatch(name) for name in names):
        return text
    return "".join(chr(int(name[2:], 16)) for name in names)
