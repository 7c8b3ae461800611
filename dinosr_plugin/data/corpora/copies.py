"""Copies of a corpus as 16 kHz mono FLAC: their names, and what was changed."""

from collections import Counter
from pathlib import Path, PurePosixPath

from ...errors import first_few
from ...files import write_lines
from ..audio import SAMPLE_RATE, AudioError
from ..audio_files import map_files, without_suffix
from ..conversion import Copy, convert
from ..manifest import raise_problems, speaker_of, utterance_id
from .names import name_fault, unique_names

ORIGINALS = "originals.tsv"  # in the folder of the copies, if there are other names or folders in it


def copy_paths(paths: list[str], speakers: dict[str, str], problems: list[str]) -> list[str]:
    """Paths of the copies, with unique utterance ids, in the order of ``paths``.

    A copy is in the folders of its file; if these are not those of its speaker, in a folder of the speaker's name.
    Files that differ in their suffix only, and names that no file can have, are added to ``problems``.
    """
    first: dict[str, str] = {}
    for path in paths:
        if (other := first.setdefault(without_suffix(path), path)) != path:
            problems.append(f"{path}: same name as {other}; remove one of them, or rename it")
    if len(first) < len(paths):
        return paths
    copies = []
    for path, name in zip(paths, unique_names(paths)):
        copy, speaker = f"{name}.flac", speakers[path]
        folder = str(PurePosixPath(path).parent)
        copy = copy if folder == "." else f"{folder}/{copy}"
        copies.append(copy if speaker_of(copy) == speaker else f"{speaker}/{name}.flac")
        for part in {*copies[-1].split("/")} - {*path.split("/")}:
            if fault := name_fault(part):
                problems.append(f"{path}: its copy cannot be named {copies[-1]!a}, because a name {fault}; rename it")
    return copies


def write_copies(root: Path, folder: Path, paths: list[str], copies: list[str], workers: int) -> list[Copy]:
    """Converts every file under ``root`` to its copy in ``folder``.

    If copies have other names or folders than their files, ``originals.tsv`` lists all: ``copy<TAB>original``. Raises
    UserError that lists every file that cannot be converted.
    """

    def copy(pair: tuple[str, str]) -> Copy:
        return convert(root / pair[0], folder / pair[1])

    made = map_files(copy, list(zip(paths, copies)), workers, "converting")
    if problems := [f"{path}: {error}" for path, error in zip(paths, made) if isinstance(error, AudioError)]:
        raise_problems(problems, root)
    if renamed(paths, copies):
        rows = (f"{copy}\t{path}" for copy, path in sorted(zip(copies, paths)))
        write_lines(folder / ORIGINALS, ["copy\toriginal", *rows])
    return [one for one in made if isinstance(one, Copy)]  # all of them, but mypy does not know


def renamed(paths: list[str], copies: list[str]) -> list[tuple[str, str]]:
    """(path, copy) of the files whose copies differ in more than the suffix."""
    return [(path, copy) for path, copy in zip(paths, copies) if without_suffix(path) != without_suffix(copy)]


def copy_notes(paths: list[str], copies: list[str], made: list[Copy], folder: Path) -> list[str]:
    """What was changed, counted: one note for each kind of change that affects single files."""
    notes, new = changes(paths, made), renamed(paths, copies)
    for pairs, why in (
        ([pair for pair in new if utterance_id(pair[0]) != utterance_id(pair[1])], "a new name, because names repeat"),
        ([pair for pair in new if utterance_id(pair[0]) == utterance_id(pair[1])], "the folder of their speaker"),
    ):
        if pairs:
            examples = first_few([f"{path} -> {copy}" for path, copy in pairs], 2)
            notes.append(f"{len(pairs)} copies have {why} (all are listed in {folder / ORIGINALS}): {examples}")
    loudest = sorted(zip(paths, made), key=lambda pair: -pair[1].peak)
    if loud := [f"{path} (by {copy.peak:.3g})" for path, copy in loudest if copy.peak > 1]:
        what = "file(s) exceed full scale, some only when resampled, so their copies are scaled down to it"
        notes.append(f"{len(loud)} {what}: {first_few(loud)}")
    single = [f"{path} (channel {copy.channel + 1})" for path, copy in zip(paths, made) if copy.channel is not None]
    if single:
        what = "file(s) have channels that cancel each other, so that only the louder one is used"
        notes.append(f"{len(single)} {what}: {first_few(single)}")
    return notes


def changes(paths: list[str], made: list[Copy]) -> list[str]:
    """One note with the number of files that were resampled, averaged and decoded; [] if none were."""
    counts: Counter[str] = Counter()
    for path, copy in zip(paths, made):
        rate, channels, kind = copy.source.rate, copy.source.channels, PurePosixPath(path).suffix.lower()
        counts[f"resampled from {rate} Hz"] += rate != SAMPLE_RATE
        counts[f"averaged {channels} channels"] += channels > 1 and copy.channel is None
        counts[f"decoded {kind}"] += kind not in (".wav", ".flac")
    parts = [f"{what}: {count} file(s)" for what, count in sorted(counts.items()) if count]
    return [f"of {len(paths)} copies, {'; '.join(parts)}"] if parts else []
