"""The recordings that a user names: files, and folders that are searched; and what their segments are called."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import UserError
from ...files import is_folder, kind_of
from ..audio import SAMPLE_RATE
from ..audio_files import find_audio, other_sound, without_suffix
from ..corpora.names import unique_names
from ..manifest import path_fault, raise_problems


@dataclass(frozen=True)
class Source:
    """A recording. ``folder``: of its segments, below the output folder; ``name``: what their names begin with."""

    path: Path  # absolute
    folder: str
    name: str

    def segment(self, start: int, end: int) -> str:
        """Path of the segment between two samples, below the output folder. Names sort by time, in 1/100 s."""
        first, last = (sample * 100 // SAMPLE_RATE for sample in (start, end))
        return f"{self.folder}/{self.name}-{first:07d}-{last:07d}.flac"


def find_sources(paths: Sequence[Path], out: Path) -> tuple[list[Source], list[str]]:
    """The recordings, each in a folder of its own, and notes for the user.

    A recording keeps the folders that it is in below a folder of ``paths``, so that the speaker stays the first one. A
    name that occurs in several folders is preceded by the folders, because names must be unique in a manifest.

    Raises:
        UserError: a file that does not exist; a folder without sound files, or that overlaps ``out``; names that a
            manifest cannot contain; two recordings of the same name in the same folder.
    """
    found: list[tuple[Path, str]] = []  # (path, path below the folder that was given)
    notes: list[str] = []
    for path in map(absolute, paths):
        if is_folder(path):
            require_apart(path, absolute(out))
            inside = find_audio(path, convertible=True)
            found += [(path / one, one) for one in inside]
            notes += other_sound(path, True, inside)
        else:
            found.append((path, path.name))
    places = [without_suffix(place) for _, place in found]
    problems = [f"{str(path)!a}: {fault}" for path, _ in found if (fault := path_fault(str(path)))]
    problems += [f"{path}: no such file; check the name" for path, _ in found if kind_of(path) == "nothing"]
    first: dict[str, Path] = {}
    for (path, _), place in zip(found, places):
        if place in first:
            problems.append(f"{path}: same name as {first[place]}; rename or omit one of them")
        first.setdefault(place, path)
    raise_any(problems, [path for path, _ in found])
    names = unique_names([place for _, place in found])
    return [Source(path, place, name) for (path, _), place, name in zip(found, places, names)], notes


def raise_any(problems: list[str], paths: Sequence[Path]) -> None:
    """Raise one UserError for the problems of these files, if there are any."""
    if problems:
        raise_problems(problems, Path(os.path.commonpath([path.parent for path in paths])))


def require_apart(folder: Path, out: Path) -> None:
    if out.is_relative_to(folder) or folder.is_relative_to(out):  # recordings and segments would be mixed
        raise UserError(f"--out {out}: overlaps {folder}; give a new folder outside it")


def absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))
