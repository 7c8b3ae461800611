"""The recordings that a user names: files, and folders that are searched; and what their segments are called."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...errors import UserError
from ...files import is_folder, kind_of
from ..audio import SAMPLE_RATE
from ..audio_files import find_audio, other_sound
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
            manifest cannot contain; two recordings whose segments would have the same name.
    """
    found: list[tuple[Path, str]] = []  # (path, path below the folder that was given, without suffix)
    notes: list[str] = []
    for path in map(absolute, paths):
        if is_folder(path):
            require_apart(path, absolute(out))
            found += [(path / one, without_suffix(one)) for one in find_audio(path, convertible=True)]
            notes += other_sound(path, convertible=True)
        else:
            found.append((path, without_suffix(path.name)))
    problems = [f"{str(path)!a}: {fault}" for path, _ in found if (fault := path_fault(str(path)))]
    problems += [f"{path}: no such file; check the name" for path, _ in found if kind_of(path) == "nothing"]
    names = segment_names([place for _, place in found])
    first: dict[str, Path] = {}
    for (path, _), name in zip(found, names):
        if name in first:
            problems.append(f"{path}: same name as {first[name]}; rename or omit one of them")
        first.setdefault(name, path)
    raise_any(problems, [path for path, _ in found])
    return [Source(path, place, name) for (path, place), name in zip(found, names)], notes


def segment_names(places: Sequence[str]) -> list[str]:
    """``a/one``, ``b/one``, ``b/two`` -> ``a-one``, ``b-one``, ``two``."""
    last = [PurePosixPath(place).name for place in places]
    counts = Counter(last)
    return [name if counts[name] == 1 else place.replace("/", "-") for place, name in zip(places, last)]


def raise_any(problems: list[str], paths: Sequence[Path]) -> None:
    """Raise one UserError for the problems of these files, if there are any."""
    if problems:
        raise_problems(problems, Path(os.path.commonpath([path.parent for path in paths])))


def require_apart(folder: Path, out: Path) -> None:
    if out.is_relative_to(folder) or folder.is_relative_to(out):  # recordings and segments would be mixed
        raise UserError(f"--out {out}: overlaps {folder}; give a new folder outside it")


def absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def without_suffix(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))
