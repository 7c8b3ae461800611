"""Checks of an n-gram model before KenLM opens it (its encoding and the sizes that it states), and its vocabulary.

KenLM allocates what the header of an ARPA file states. flashlight-text has no function that asks it whether it knows a
word, whose score can be that of ``<unk>``, so the words are read from the file.
"""

import gzip
import mmap
import re
import struct
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..errors import UserError
from ..files import open_file, read_lines

HEAD = 1 << 16  # bytes in which an ARPA file states its sizes, comments before them included
LINE_BYTES = 4  # of the shortest n-gram: a probability, a tab, a word, a line break
MAX_RATIO = 1032  # the highest compression of deflate
BINARY = b"mmap lm "  # KenLM's own format
FIELDS, FIELDS_AT = struct.Struct("<B3xfI?3xIQ"), 88  # lm/binary_format.hh: has_vocabulary, ..., number of words
FIRST_WORD = b"<unk>\0"  # of the words at the end of KenLM's own format
MAX_LINE = 1 << 20  # bytes of a line in a compressed file
GZIP = b"\x1f\x8b"
MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
REMEDY = "give an n-gram model (.arpa or .bin)"


def read_vocabulary(path: str | Path) -> frozenset[str] | None:
    """The words of an n-gram model: of an ARPA file, also compressed by gzip, or in KenLM's binary format.

    None for a binary file without its words (``build_binary -v``), for damaged files, and for others.

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
        return binary_words(path)
    compressed = start.startswith(GZIP)
    if compressed:
        require_lines(path)
    counts = stated_counts(unpacked_head(path) if compressed else start)
    if sum(counts) * LINE_BYTES > size * (MAX_RATIO if compressed else 1):
        what = f"its header states {sum(counts)} n-grams, more than fit into {size} bytes"
        raise UserError(f"--lm {path}: {what}; copy it again, or {REMEDY}")
    if not counts:
        return None
    try:
        return compressed_unigrams(path) if compressed else frozenset(unigrams(path))
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


def binary_words(path: str | Path) -> frozenset[str] | None:
    """The words at the end of a file in KenLM's binary format, each with a null byte; None if it does not have them."""
    with open_file(path, REMEDY) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if len(content) < FIELDS_AT + FIELDS.size:
            return None
        *_, has_words, _, count = FIELDS.unpack_from(content, FIELDS_AT)
        start = content.rfind(FIRST_WORD) if has_words else -1
        words = content[start:].decode("utf-8", "replace").split("\0")[:-1] if start >= 0 else []
    return frozenset(words) if len(words) == count else None


def compressed_unigrams(path: str | Path) -> frozenset[str] | None:
    """``unigrams`` of a file compressed by gzip; None if it is damaged, which KenLM reports."""
    try:
        with open_file(path, REMEDY) as file, gzip.GzipFile(fileobj=file) as lines:
            return frozenset(words_in(line.decode("utf-8", "replace") for line in lines))
    except (OSError, EOFError, zlib.error):
        return None


def unigrams(path: str | Path) -> list[str]:
    """The words of an ARPA file."""
    return words_in(read_lines(path, REMEDY))


def words_in(lines: Iterable[str]) -> list[str]:
    """The words in the section ``\\1-grams:`` of an ARPA file."""
    words: list[str] = []
    inside = False
    for line in lines:
        if line.startswith("\\"):
            if inside:
                break
            inside = line.strip() == "\\1-grams:"
        elif inside and len(fields := re.split("[ \t]+", line.strip(" \t\r\n"))) >= 2:
            words.append(fields[1])
    return words
