"""Checks of an n-gram model before KenLM opens it (its encoding and the sizes that it states), and its vocabulary.

KenLM allocates what the header of an ARPA file states, and offers no way to ask whether it knows a word: the score of a
word can be that of ``<unk>``.
"""

import gzip
import re
import zlib
from contextlib import suppress
from pathlib import Path

from ..errors import UserError
from ..files import open_file, read_lines

HEAD = 1 << 16  # bytes in which an ARPA file states its sizes, comments before them included
LINE_BYTES = 4  # of the shortest n-gram: a probability, a tab, a word, a line break
MAX_RATIO = 1032  # the highest compression of deflate
BINARY = b"mmap lm "  # KenLM's own format
MAX_LINE = 1 << 20  # bytes of a line in a compressed file
GZIP = b"\x1f\x8b"
MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
REMEDY = "give an n-gram model (.arpa or .bin)"


def read_vocabulary(path: str | Path) -> frozenset[str] | None:
    """The words of an ARPA file; None for KenLM's binary format, for compressed files, and for others.

    Raises:
        UserError: the file cannot be read, is not UTF-8 without a byte order mark, or states more n-grams than fit into
            it, or is compressed and contains lines without end. The message begins with ``--lm``.
    """
    with open_file(path, REMEDY) as file:
        size, start = Path(path).stat().st_size, file.read(HEAD)
    if start.startswith(MARKS):
        raise UserError(
            f"--lm {path}: UTF-16, or has a byte order mark, which KenLM cannot read; save it as plain UTF-8"
        )
    if start.startswith(BINARY):
        return None
    compressed = start.startswith(GZIP)
    if compressed:
        require_lines(path)
    counts = stated_counts(unpacked_head(path) if compressed else start)
    if sum(counts) * LINE_BYTES > size * (MAX_RATIO if compressed else 1):
        what = f"its header states {sum(counts)} n-grams, more than fit into {size} bytes"
        raise UserError(f"--lm {path}: {what}; copy it again, or {REMEDY}")
    if compressed or not counts:
        return None
    try:
        return frozenset(unigrams(path))
    except UserError as error:
        raise UserError(f"--lm {error}") from error


def unpacked_head(path: str | Path) -> bytes:
    """The first bytes of a compressed file; empty if it is damaged, which KenLM reports."""
    try:
        with open_file(path, REMEDY) as file, gzip.GzipFile(fileobj=file) as unpacked:
            return unpacked.read(HEAD)
    except (OSError, EOFError, zlib.error):
        return b""


def require_lines(path: str | Path) -> None:
    """Raises UserError for a compressed file with a line that KenLM would fill the memory with."""
    damaged = (EOFError, zlib.error, gzip.BadGzipFile)  # which KenLM reports
    with suppress(*damaged), open_file(path, REMEDY) as file, gzip.GzipFile(fileobj=file) as unpacked:
        while block := unpacked.read(MAX_LINE):
            if len(block) == MAX_LINE and b"\n" not in block:
                raise UserError(f"--lm {path}: a line of more than {MAX_LINE} bytes; {REMEDY}")


def stated_counts(head: bytes) -> list[int]:
    """Numbers of n-grams in the header of an ARPA file, by length; [] for other files."""
    header = re.search(rb"^\\data\\\s*$(.*?)(?:^\\|\Z)", head, re.MULTILINE | re.DOTALL)
    counts = re.findall(rb"^ngram\s+[0-9]+\s*=\s*([0-9]{1,30})", header[1], re.MULTILINE) if header else []
    return [int(count) for count in counts]


def unigrams(path: str | Path) -> list[str]:
    """The words of the section ``\\1-grams:``."""
    words: list[str] = []
    inside = False
    for line in read_lines(path, REMEDY):
        if line.startswith("\\"):
            if inside:
                break
            inside = line.strip() == "\\1-grams:"
        elif inside and len(fields := re.split("[ \t]+", line.strip(" \t\r"))) >= 2:
            words.append(fields[1])
    return words
