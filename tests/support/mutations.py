"""Damaged variants of a valid file, drawn by Hypothesis: cut, spliced, with other bits, numbers or encodings."""

import io
import re
import zipfile
from collections.abc import Callable

from hypothesis import strategies as st

LARGEST = 2**20  # bytes of a variant

NUMBERS = ["-1", "0", "1.5", "-0.0", "nan", "inf", "-inf", "1e999", "9" * 30, "-" + "9" * 30, "2147483648", "999999999"]
NUMBERS += ["1_0", "0x10", "", "null", '"4"', "[4]", "true", "\u0663", "4294967297", "1e-320"]
TOKENS = [
    "\0",
    "\x1b[2J",
    "\r",
    "\n\n",
    "\t",
    " ",
    "\u2028",
    "\udcff",
    "\ufeff",
    "..",
    "/",
    "a" * 5000,
    "{",
    "[" * 3000,
]
TOKENS += ["%s", "$", "|", "<unk>", "-", "\t\t\t", "\u00e9", "\U0001f600"]
WORDS = [
    b"\xff" * 4,
    b"\0" * 4,
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
    b"\1\0\0\0",
    b"\0\0\x10\0",
    b"\xff" * 8,
    b"\0" * 512,
]

positions = st.one_of(st.integers(0, 63), st.integers(0, LARGEST))  # the first bytes are often a header


def cut(data: bytes, draw: Callable) -> bytes:
    return data[: draw(positions) % (len(data) + 1)]


def drop(data: bytes, draw: Callable) -> bytes:
    start = draw(positions) % (len(data) + 1)
    return data[:start] + data[start + draw(st.integers(1, 200)) :]


def flip(data: bytes, draw: Callable) -> bytes:
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4)) if data else 0):
        changed[draw(positions) % len(data)] ^= 1 << draw(st.integers(0, 7))
    return bytes(changed)


def overwrite(data: bytes, draw: Callable) -> bytes:
    start, word = draw(positions) % (len(data) + 1), draw(st.sampled_from(WORDS))
    return data[:start] + word + data[start + len(word) :]


def insert(data: bytes, draw: Callable) -> bytes:
    start, token = draw(positions) % (len(data) + 1), draw(st.sampled_from(TOKENS))
    return data[:start] + token.encode("utf-8", "surrogateescape") + data[start:]


def splice(data: bytes, draw: Callable) -> bytes:
    """A part of the file in another place."""
    start, place = draw(positions) % (len(data) + 1), draw(positions) % (len(data) + 1)
    return data[:place] + data[start : start + draw(st.integers(1, 500))] + data[place:]


def repeat(data: bytes, draw: Callable) -> bytes:
    return data * draw(st.integers(2, 50))


def repeat_line(data: bytes, draw: Callable) -> bytes:
    lines = data.split(b"\n")
    number = draw(positions) % len(lines)
    return b"\n".join([*lines[:number], *[lines[number]] * draw(st.integers(2, 9)), *lines[number + 1 :]])


def drop_line(data: bytes, draw: Callable) -> bytes:
    lines = data.split(b"\n")
    del lines[draw(positions) % len(lines)]
    return b"\n".join(lines)


def other_number(data: bytes, draw: Callable) -> bytes:
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data))
    if not found:
        return data
    match = found[draw(positions) % len(found)]
    return data[: match.start()] + draw(st.sampled_from(NUMBERS)).encode() + data[match.end() :]


def other_encoding(data: bytes, draw: Callable) -> bytes:
    text = data.decode("utf-8", "replace")
    encoding = draw(
        st.sampled_from(["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "latin-1", "utf-7", "cp037", "crlf"])
    )
    return text.replace("\n", "\r\n").encode() if encoding == "crlf" else text.encode(encoding, "replace")


TEXT = [cut, drop, flip, insert, splice, repeat, repeat_line, drop_line, other_number, other_number, other_encoding]
BINARY = [cut, drop, flip, flip, overwrite, overwrite, insert, splice, repeat]


def of_archive(data: bytes, draw: Callable) -> bytes:
    """Another content of one member of a zip archive, whose checksums are right."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, OSError):
        return data
    if not members:
        return data
    name = draw(st.sampled_from(sorted(members)))
    members[name] = draw(st.sampled_from([*BINARY, other_number]))(members[name], draw)
    changed = io.BytesIO()
    with zipfile.ZipFile(changed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return changed.getvalue()


@st.composite
def variants(draw: Callable, data: bytes, kind: str) -> bytes:
    """Up to four changes of ``data``; ``kind``: text, binary or archive."""
    changes = {"text": TEXT, "binary": BINARY, "archive": [*BINARY, *[of_archive] * 6]}[kind]
    for change in draw(st.lists(st.sampled_from(changes), min_size=1, max_size=4)):
        data = change(data, draw)[:LARGEST]
    return data
