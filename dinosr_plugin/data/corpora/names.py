"""Names of audio files: found by what tables call them, and made unique for copies."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import count
from pathlib import PurePosixPath

from ..audio_files import CONVERTIBLE, SUFFIXES, UNREADABLE, without_suffix
from ..manifest import path_fault, utterance_id

MAX_NAME = 255  # bytes of a file or folder name, in all common file systems


def nfc(text: str) -> str:
    """Unicode's form NFC: macOS writes names with accents in another form, which looks the same."""
    return unicodedata.normalize("NFC", text)


def stem_of(path: str) -> str:
    """The path without suffix, in form NFC."""
    return nfc(without_suffix(path))


class AudioNames:
    """Finds audio files by name: with or without folders and suffix, in any Unicode form, with / or \\."""

    def __init__(self, paths: Iterable[str]):
        self.paths: dict[str, list[str]] = defaultdict(list)  # file name without suffix -> paths
        for path in paths:
            self.paths[stem_of(path).rpartition("/")[2]].append(path)

    def find(self, name: str) -> list[str]:
        """The files that a name may mean: one if it is unique, [] if there is none.

        A name with the same folders and suffix is preferred, then one with the same suffix, then one with the same
        folders. A name may have more folders than the path, as an absolute path has, and a suffix from before the files
        were converted.
        """
        name = nfc(str(PurePosixPath(name.replace("\\", "/"))))
        suffix = PurePosixPath(name).suffix
        known = suffix.lower() in SUFFIXES + CONVERTIBLE + UNREADABLE
        stem = name.removesuffix(suffix) if known else name
        candidates = self.paths.get(stem.rpartition("/")[2], [])
        found = [path for path in candidates if ends_with(stem_of(path), stem) or ends_with(stem, stem_of(path))]
        for preferred in (
            [path for path in found if nfc(path) == name],
            [path for path in found if ends_with(nfc(path), name)],
            [path for path in found if stem_of(path) == stem],
        ):
            if preferred:
                return preferred
        return found


def ends_with(path: str, name: str) -> bool:
    """Whether the last folders and the file name of a path are these: a/b/c ends with b/c and c."""
    return f"/{path}".endswith(f"/{name}")


def unique_names(paths: list[str]) -> list[str]:
    """Utterance ids for copies: those of the files; where an id repeats, with the folders before it, ``a-b-x``.

    The paths must differ in more than their suffix.
    """
    ids = [utterance_id(path) for path in paths]
    repeated = {name for name, number in Counter(ids).items() if number > 1}
    for length in count(1):  # a-x.wav and a/x.wav take two hyphens: a-x and a--x
        hyphens = "-" * length
        names = [
            hyphens.join([*PurePosixPath(path).parts[:-1], name]) if name in repeated else name
            for path, name in zip(paths, ids)
        ]
        if len(set(names)) == len(names):
            break
    return names


def name_fault(name: str) -> str | None:
    """Why this cannot be the name of a new file or folder, or None if it can."""
    if "/" in name or "\0" in name or name.startswith("."):
        return "contains a slash or a null character, or starts with a dot"
    if len(name.encode("utf-8", "surrogateescape")) > MAX_NAME:
        return f"is longer than {MAX_NAME} bytes"
    return path_fault(name) and "contains a tab or a line break, starts or ends with a space, or is not UTF-8"
