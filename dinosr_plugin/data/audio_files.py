"""The files of a corpus: which of them are sound, and work on all of them in threads."""

import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NoReturn, TypeVar

from tqdm import tqdm

from ..errors import UserError
from ..files import require_folder
from .audio import AudioError

Item = TypeVar("Item")
Result = TypeVar("Result")

SUFFIXES = (".wav", ".flac", ".ogg")
# Other formats that libsndfile reads: `convert` makes copies of such files
CONVERTIBLE = (
    ".aif", ".aiff", ".aifc", ".au", ".caf", ".mp2", ".mp3", ".nist", ".oga", ".opus", ".rf64", ".snd", ".sph", ".voc",
    ".w64",
)  # fmt: skip
# Sound, and video with sound, that libsndfile cannot read but ffmpeg can
UNREADABLE = (
    ".3gp", ".aac", ".ac3", ".amr", ".ape", ".avi", ".m4a", ".m4b", ".mka", ".mkv", ".mov", ".mp4", ".mts", ".spx",
    ".webm", ".wma", ".wmv", ".wv",
)  # fmt: skip
BATCH = 32  # files per task of a thread: one future for each of a million files would take more memory than the results


def find_files(root: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Sorted paths, relative to ``root`` with forward slashes, of the files whose lower-case name ends in a suffix.

    Symbolic links to folders are followed; every folder is visited once. Names that start with a dot (macOS metadata,
    unfinished files of this package) are left out. Raises OSError for a folder that cannot be read.
    """
    paths, seen = [], set()
    for folder, folders, names in os.walk(root, onerror=raise_error, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link back up the tree
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".") and name != "lost+found"]
        for name in names:
            if name.lower().endswith(suffixes) and not name.startswith("."):
                paths.append(Path(folder, name).relative_to(root).as_posix())
    return sorted(paths)


def raise_error(error: OSError) -> NoReturn:
    """``onerror`` of ``os.walk``, which otherwise leaves out folders that cannot be read."""
    raise error


def find_audio(root: Path, convertible: bool = False) -> list[str]:
    """``find_files`` for .wav, .flac and .ogg files, and ``CONVERTIBLE`` ones if asked for.

    Raises UserError if there are none.
    """
    remedy = "give the folder that contains the audio files"
    require_folder(root, remedy)
    paths = find_files(root, SUFFIXES + CONVERTIBLE if convertible else SUFFIXES)
    if not paths:
        kinds = "sound file that can be converted" if convertible else ".wav, .flac or .ogg file"
        others = other_sound(root, convertible)
        raise UserError(f"{root}: contains no {kinds}; {'; '.join(others) if others else remedy}")
    return paths


def other_sound(root: Path, convertible: bool, listed: Iterable[str] = ()) -> list[str]:
    """Notes about the sound files that ``find_audio`` leaves out: how many of which kind, and how to use them.

    A file is not counted if ``listed``, the result of ``find_audio``, has one of the same name without suffix: that is
    its copy in another format.
    """
    copied = {without_suffix(path) for path in listed}
    paths = [path for path in find_files(root, CONVERTIBLE + UNREADABLE) if without_suffix(path) not in copied]
    counts = Counter(PurePosixPath(path.lower()).suffix for path in paths)
    notes = []
    if not convertible and (count := count_kinds(counts, CONVERTIBLE)):
        notes.append(f"{count} file(s) left out; add --convert NEW_FOLDER, which copies them as 16 kHz mono FLAC")
    if count := count_kinds(counts, UNREADABLE):
        command = ffmpeg_command(root, [kind for kind in UNREADABLE if kind in counts])
        notes.append(f"{count} file(s) left out, because libsndfile cannot read them; convert them first: {command}")
    return notes


def count_kinds(counts: Counter[str], kinds: tuple[str, ...]) -> str:
    """``2 .m4a, 1 .wma``; empty if there are none."""
    return ", ".join(f"{counts[kind]} {kind}" for kind in sorted(kinds) if counts[kind])


def ffmpeg_command(root: Path, kinds: list[str]) -> str:
    """A shell command that writes NAME.flac beside every file of these kinds."""
    names = " -o ".join(f"-iname '*{kind}'" for kind in kinds)
    names = names if len(kinds) == 1 else f"\\( {names} \\)"
    convert = """sh -c 'ffmpeg -nostdin -i "$0" "${0%.*}.flac"'"""
    return f"find -L {shlex.quote(str(root))} {names} -exec {convert} {{}} \\;"


def without_suffix(path: str) -> str:
    """``a/b.c.wav`` -> ``a/b.c``."""
    return path[: len(path) - len(PurePosixPath(path).suffix)]


def default_workers() -> int:
    """One thread per CPU, at most 16: with more, the disk or Python itself is the bottleneck."""
    return min(16, os.cpu_count() or 1)


def map_files(work: Callable[[Item], Result], items: list[Item], workers: int, title: str) -> list[Result | AudioError]:
    """``work(item)`` for every item, in order; where it raises an AudioError, the result is that error.

    Threads suffice because libsndfile decodes without holding Python's global lock. A progress bar is shown on stderr
    if that is a terminal.
    """

    def run(batch: list[Item]) -> list[Result | AudioError]:
        return [result_or_error(work, item) for item in batch]

    batches = [items[start : start + BATCH] for start in range(0, len(items), BATCH)]
    results = []
    with tqdm(total=len(items), desc=title, unit="file", disable=None) as bar:
        for batch in run_in_threads(run, batches, workers):
            results.extend(batch)
            bar.update(len(batch))
    return results


def result_or_error(work: Callable[[Item], Result], item: Item) -> Result | AudioError:
    try:
        return work(item)
    except AudioError as error:
        return error


def run_in_threads(run: Callable[[list], list], batches: list[list], workers: int) -> Iterator[list]:
    with ThreadPoolExecutor(workers) as pool:
        try:
            yield from pool.map(run, batches)
        except BaseException:  # also Ctrl-C: do not finish the remaining batches first
            pool.shutdown(wait=False, cancel_futures=True)
            raise
