"""Reading text files, line by line or whole: UTF-8, or UTF-16 with a byte order mark."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import UserError
from .paths import open_file, require_file, unreadable

MAX_LINE = 1 << 26  # characters of a line: enough for the units of a recording of a day
MAX_TEXT = 1 << 30  # bytes of a file that is read whole, such as JSON


def read_lines(path: str | Path, remedy: str, tolerate_damage: bool = False) -> Iterator[str]:
    """The lines of a text file without line breaks, one at a time; a line ends with LF, CR LF or CR.

    The file is UTF-8, with or without a byte order mark, or UTF-16 with one.

    Args:
        tolerate_damage: replace what is not such text instead of raising: for logs, whose end a crash may damage.

    Raises:
        UserError: the file is missing or cannot be read, is not such text, or contains null characters, which is how
            UTF-16 without a mark and binary files look.
    """
    with open_file(path, remedy) as file:
        encoding = encoding_of(file)
    try:
        with open(path, encoding=encoding, errors="replace" if tolerate_damage else "strict") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), ""), start=1):
                if "\0" in line and not tolerate_damage:
                    raise UserError(f"{path} line {number}: contains a null character, not UTF-8 text; {remedy}")
                if len(line) == MAX_LINE and not tolerate_damage:
                    raise UserError(f"{path} line {number}: longer than {MAX_LINE} characters; {remedy}")
                yield line.rstrip("\n")
    except UnicodeError as error:
        raise UserError(f"{path}: not UTF-8 text; save it as UTF-8, or {remedy}") from error
    except OSError as error:
        raise unreadable(path, error, remedy) from error


def encoding_of(file: BinaryIO) -> str:
    """The encoding that a byte order mark indicates; UTF-8 without one."""
    return "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def read_text(path: str | Path, remedy: str) -> str:
    """The whole text, with LF as line break. Raises UserError as ``read_lines`` does, and for more than 1 GiB."""
    if os.stat(require_file(path, remedy)).st_size > MAX_TEXT:
        raise UserError(f"{path}: larger than {MAX_TEXT >> 30} GiB; {remedy}")
    return "\n".join(read_lines(path, remedy))
