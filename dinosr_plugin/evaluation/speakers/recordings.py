"""Recordings and parts of them, and their names in trial lists and embedding folders.

A recording is named by its path below the manifest's root folder, with its suffix, as in VoxCeleb's lists. The part of
it from sample ``start`` to ``end``, which is excluded, at 16 kHz, is ``PATH@START-END``:

    id10270/x6uYqmx31kE/00001.wav@16000-48000    the second and third second
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...data.audio import SAMPLE_RATE, AudioError, read_part
from ...data.manifest import MAX_DIGITS, read_manifest, speaker_of
from ...errors import UserError, first_few

PART = re.compile(rf"(.+)@([0-9]{{1,{MAX_DIGITS}}})-([0-9]{{1,{MAX_DIGITS}}})", re.DOTALL)


class Recording(NamedTuple):
    """A file of a manifest, or a part of one.

    ``name``: in lists and folders; ``path``: of the file, which has ``length`` samples; ``start``, ``end``: samples.
    """

    name: str
    path: Path
    length: int
    start: int
    end: int

    @property
    def samples(self) -> int:
        return self.end - self.start

    def part(self, start: int, end: int) -> "Recording":
        """The part from sample ``start`` to ``end`` of the whole file, with its name."""
        return self._replace(name=f"{file_of(self.name)}@{start}-{end}", start=start, end=end)

    def load(self) -> np.ndarray:
        """(samples,) float32. Raises UserError as ``units.batches.load_checked_wave``."""
        try:
            return read_part(self.path, self.length, self.start, self.samples)
        except AudioError as error:
            raise UserError(f"{self.path}: {error}; `dinosr check` lists all such files") from error


def file_of(name: str) -> str:
    """The name of the whole recording."""
    part = PART.fullmatch(name)
    return part[1] if part else name


def speaker_of_name(name: str) -> str:
    """The speaker of a recording or part, by its folders (``manifest.speaker_of``); "" if it is in no folder."""
    return speaker_of(file_of(name))


def named_speakers(names: Sequence[str], what: str | Path, option: str) -> list[str]:
    """The speaker of each recording or part.

    Raises UserError, which begins with ``what``, for a recording in no folder, and for a single speaker; ``option`` is
    what can be omitted then.
    """
    speakers = [speaker_of_name(name) for name in names]
    if alone := [name for name, speaker in zip(names, speakers) if not speaker]:
        raise UserError(
            f"{what}: {len(alone)} file(s) are in no folder ({first_few(alone)}), so their speakers are not known; "
            f"omit {option}, or give a manifest whose folders name the speakers"
        )
    if len(set(speakers)) == 1:
        raise UserError(f"{what}: all files are of speaker {speakers[0]}; omit {option}, or give more speakers")
    return speakers


def read_recordings(manifest: str | Path) -> list[Recording]:
    """All files of a manifest, whole. Raises UserError as ``read_manifest``, and for a file that is listed twice."""
    split = read_manifest(Path(manifest))
    found: dict[str, Recording] = {}
    for row in split.utterances:
        if row.path in found:
            raise UserError(f"{manifest}: {row.path} is listed twice; remove one of the rows")
        found[row.path] = Recording(row.path, split.root / row.path, row.samples, 0, row.samples)
    return list(found.values())


def select(recordings: Sequence[Recording], names: Iterable[str], what: str) -> list[Recording]:
    """The recordings and parts with these names, each once, in the manifest's order.

    Raises UserError for names of files that are not among the recordings, and for parts outside of their file; ``what``
    says where the names and the recordings come from.
    """
    known = {recording.name: (row, recording) for row, recording in enumerate(recordings)}
    chosen, unknown = [], []
    for name in dict.fromkeys(names):
        part = PART.fullmatch(name)
        if (part[1] if part else name) not in known:
            unknown.append(name)
            continue
        row, whole = known[part[1] if part else name]
        start, end = (int(part[2]), int(part[3])) if part else (0, whole.length)
        if not 0 <= start < end <= whole.length:
            raise UserError(f"{what}: {name} is not a part of the file, which has {whole.length} samples; correct it")
        chosen.append((row, start, end, whole._replace(name=name, start=start, end=end)))
    if unknown:
        raise UserError(
            f"{what}: {len(unknown)} file(s) are not in the manifest ({first_few(unknown)}); give the manifest that "
            "lists them, or correct the names, which are paths below its root folder"
        )
    return [recording for *_, recording in sorted(chosen)]


def require_lengths(
    recordings: Sequence[Recording], manifest: str | Path, min_samples: int, max_minutes: float
) -> None:
    """Raise UserError for recordings and parts shorter or longer than these limits."""
    if short := [one.name for one in recordings if one.samples < min_samples]:
        raise UserError(
            f"{manifest}: {len(short)} recording(s) are shorter than {min_samples} samples ({first_few(short)}), too "
            "short for an embedding; remove them"
        )
    if long := [one.name for one in recordings if one.samples > max_minutes * 60 * SAMPLE_RATE]:
        raise UserError(
            f"{manifest}: {len(long)} recording(s) are longer than {max_minutes:g} minutes ({first_few(long)}), and a "
            "model reads each as a whole; split them, or raise --max-minutes"
        )
