"""The text files that describe a corpus (formats: manifests/README.md): reading them, and writing a whole set at once.

train.tsv        first line the root folder, then ``relative/path<TAB>samples``
train.ltr        one line a row: letters separated by spaces, ``|`` after each word: ``H E L L O | W O R L D |``
train.wrd        one line a row: words
dict.ltr.txt     ``symbol count``, as fairseq's Dictionary reads it
"""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TextIO

from ..errors import UserError
from .audio import SAMPLE_RATE

SHOWN = 20  # problems listed; the rest is counted
WORD_END = "|"


@dataclass(frozen=True)
class Utterance:
    """One row of a manifest, and its words where they are known."""

    path: str  # relative to the root, forward slashes
    samples: int
    words: str | None = None


@dataclass(frozen=True)
class Split:
    """What becomes ``<name>.tsv`` and, where the words are known, ``<name>.ltr`` and ``<name>.wrd``."""

    name: str
    root: Path  # absolute
    utterances: list[Utterance]  # sorted by path

    @property
    def has_words(self) -> bool:
        return all(utterance.words is not None for utterance in self.utterances)

    def describe(self) -> str:
        hours = sum(utterance.samples for utterance in self.utterances) / SAMPLE_RATE / 3600
        speakers = {speaker_of(utterance.path) for utterance in self.utterances}
        labels = ", .ltr, .wrd" if self.has_words else ""
        return (
            f"{self.name}.tsv{labels}: {len(self.utterances)} utterances, {hours:.2f} hours, {len(speakers)} speaker(s)"
        )


# ---- names ------------------------------------------------------------------------------------------------------------------


def utterance_id(path: str) -> str:
    """The file's name without folders and suffix: what label, unit and item files call an utterance."""
    return path.rpartition("/")[2].rpartition(".")[0]


def speaker_of(path: str) -> str:
    """Speaker of ``relative/path``: LibriSpeech's SPEAKER/CHAPTER/SPEAKER-CHAPTER-NNNN at any depth, otherwise the first folder."""
    *folders, _ = path.split("/")
    if len(folders) >= 2 and utterance_id(path).startswith(f"{folders[-2]}-{folders[-1]}-"):
        return folders[-2]
    return folders[0] if folders else ""


def duplicate_ids(paths: Iterable[str]) -> list[str]:
    """One line for each file whose utterance id an earlier file has already, naming both."""
    first: dict[str, str] = {}
    clashes = []
    for path in paths:
        name = utterance_id(path)
        if name in first:
            clashes.append(f"{path}: same utterance id as {first[name]}; rename or remove one of them")
        first.setdefault(name, path)
    return clashes


def path_fault(path: str) -> str | None:
    """Why a path cannot stand in a manifest, or None: a row is one line, its fields are separated by tabs, its text is UTF-8."""
    if path != path.strip() or any(mark in path for mark in "\t\n\r"):
        return "a tab, a line break, or a space at either end of the name; rename it"
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return "the name is not UTF-8; rename it"
    return None


# ---- words and letters ------------------------------------------------------------------------------------------------------


def letters(words: str) -> str:
    """``HELLO WORLD`` -> ``H E L L O | W O R L D |``."""
    return " ".join(words.replace(" ", WORD_END) + WORD_END)


def words_of(line: str) -> str:
    """The inverse of ``letters``."""
    return " ".join("".join(line.split()).replace(WORD_END, " ").split())


def words_fault(words: str) -> str | None:
    """Why a transcript cannot become letters, or None."""
    if not words:
        return "no words in its transcript; write them there, or remove both"
    if WORD_END in words:
        return f"'{WORD_END}' in its transcript: that sign ends a word in .ltr files; take it out"
    return None


# ---- reading ----------------------------------------------------------------------------------------------------------------


def open_text(path: Path, remedy: str) -> TextIO:
    """Open a UTF-8 text file; raises UserError with the remedy where that fails."""
    try:
        return open(path, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error


def read_lines(path: Path, remedy: str) -> Iterator[str]:
    """The lines of a text file without their ends, one at a time. Raises UserError for a missing file and for other text than UTF-8."""
    with open_text(path, remedy) as file:
        try:
            for line in file:
                yield line.rstrip("\n")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 text; {remedy}") from error


def manifest_lines(tsv: Path) -> Iterator[str]:
    """The manifest's lines, the root first. Raises UserError for a missing or unreadable manifest, and for one without a first line."""
    lines = read_lines(tsv, "make it with `dinosr manifest`")
    root = next(lines, "").strip()
    if not root:
        raise UserError(f"{tsv}: empty manifest, its first line names no root folder; make it with `dinosr manifest`")
    yield root
    yield from lines


def read_root(tsv: Path) -> Path:
    """The root folder that the first line names. Raises UserError where it does not exist."""
    root = Path(next(manifest_lines(tsv)))
    if not root.is_dir():
        raise UserError(f"{tsv}: {missing_root(root)}")
    return root


def missing_root(root: Path) -> str:
    remedy = "make the manifest again with `dinosr manifest`, or put the new folder into its first line"
    return f"its root folder {root} does not exist; {remedy}"


def parse_row(line: str) -> tuple[str, int]:
    """``relative/path<TAB>samples`` -> (path, samples). Raises ValueError that says what is wrong."""
    fields = line.strip().split("\t")
    if len(fields) != 2:
        raise ValueError(f"{len(fields)} field(s) instead of relative/path<TAB>samples")
    path, samples = fields
    if not (samples.isascii() and samples.isdigit() and int(samples) > 0):
        raise ValueError(f"the number of samples is {samples!r}, not a whole number above 0")
    return path, int(samples)


def read_rows(tsv: Path) -> Iterator[tuple[int, str, int]]:
    """(line number, path, samples) of every row, one at a time. Raises UserError at the first malformed row."""
    lines = manifest_lines(tsv)
    next(lines)
    for number, line in enumerate(lines, start=2):
        try:
            path, samples = parse_row(line)
        except ValueError as error:
            raise UserError(f"{tsv} line {number}: {error}; make the manifest again with `dinosr manifest`") from error
        yield number, path, samples


def read_manifest(tsv: Path) -> Split:
    """The whole manifest, without words. Raises UserError for a missing file or root folder, a malformed row, or no row at all."""
    root = read_root(tsv)
    utterances = [Utterance(path, samples) for _, path, samples in read_rows(tsv)]
    if not utterances:
        raise UserError(f"{tsv}: empty manifest, no row after its first line; make it with `dinosr manifest`")
    return Split(tsv.stem, root, utterances)


def read_dictionary(path: Path) -> dict[str, int]:
    """Symbol -> count of a fairseq dictionary, in the file's order. Raises UserError for a missing, malformed or empty one."""
    remedy = "make it with `dinosr manifest`"
    symbols: dict[str, int] = {}
    for number, line in enumerate(read_lines(path, remedy), start=1):
        symbol, _, count = line.rstrip().rpartition(" ")
        if not symbol or not count.isdigit():
            raise UserError(f"{path} line {number}: {line!r} is not `symbol count`; {remedy}")
        if symbol in symbols:
            raise UserError(f"{path} line {number}: {symbol!r} stands there twice; {remedy}")
        symbols[symbol] = int(count)
    if not symbols:
        raise UserError(f"{path}: empty dictionary; {remedy}")
    return symbols


# ---- writing ----------------------------------------------------------------------------------------------------------------


def count_letters(splits: Iterable[Split]) -> Counter:
    """How often each symbol occurs in the splits' .ltr files."""
    counts: Counter = Counter()
    for split in splits:
        for utterance in split.utterances:
            counts.update(letters(utterance.words).split())
    return counts


def letter_dictionary(splits: list[Split], counted: Collection[str]) -> tuple[dict[str, int], list[str]]:
    """(symbol -> count, notes). Counts come from the splits whose names are in ``counted``; a symbol that occurs
    in the others only is in the dictionary with count 0, and a note says so. Sorted by falling count, then by symbol."""
    counts = count_letters(split for split in splits if split.name in counted)
    notes = []
    for split in splits:
        for symbol in sorted(count_letters([split]).keys() - counts.keys()):
            counts[symbol] = 0
            notes.append(
                f"{symbol!r} occurs in {split.name} but not in {', '.join(counted)}: in the dictionary with count 0"
            )
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))), notes


def write_splits(
    out: Path, splits: list[Split], counted: Collection[str], more: Mapping[str, bytes | list[str]] = {}
) -> list[str]:
    """Write every split's .tsv and, where all words are known, .ltr and .wrd and one dict.ltr.txt; all of the files or none.

    ``counted``: names of the splits that the dictionary's counts come from. ``more``: other files of the set. Returns notes for the user.
    Raises UserError for an unwritable folder.
    """
    files: dict[str, bytes | list[str]] = {}
    notes: list[str] = []
    for split in splits:
        if fault := path_fault(str(split.root)):
            raise UserError(f"{str(split.root)!a}: {fault}")
        files[f"{split.name}.tsv"] = [str(split.root), *(f"{u.path}\t{u.samples}" for u in split.utterances)]
    if all(split.has_words for split in splits):
        for split in splits:
            files[f"{split.name}.ltr"] = [letters(u.words) for u in split.utterances]
            files[f"{split.name}.wrd"] = [u.words for u in split.utterances]
        counts, notes = letter_dictionary(splits, counted)
        files["dict.ltr.txt"] = [f"{symbol} {count}" for symbol, count in counts.items()]
    write_files(out, {**files, **more})
    return notes


def write_files(out: Path, files: Mapping[str, bytes | Iterable[str]]) -> None:
    """Write name -> lines (or bytes) under temporary names, then rename them all: a failure leaves no half-written file behind."""
    written: dict[Path, Path] = {}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            unfinished = out / f".{name}.{os.getpid()}"
            written[unfinished] = out / name
            if isinstance(content, bytes):
                unfinished.write_bytes(content)
                continue
            with open(unfinished, "w", encoding="utf-8", newline="\n") as file:
                file.writelines(line + "\n" for line in content)
        for unfinished, final in written.items():
            os.replace(unfinished, final)
    except OSError as error:
        raise unwritable(out, error.strerror) from error
    finally:
        for unfinished in written:
            unfinished.unlink(missing_ok=True)


def require_writable(out: Path, option: str = "--out") -> None:
    """Raise UserError now rather than after an hour of reading, where the folder ``out``, given with ``option``, cannot be written or made."""
    place = Path(os.path.abspath(out))
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise unwritable(out, f"{place} is not a folder", option)
    if not os.access(place, os.W_OK | os.X_OK):
        raise unwritable(out, f"{place} is read-only", option)


def unwritable(out: Path, reason: str | None, option: str = "--out") -> UserError:
    return UserError(f"cannot write into {out}: {reason}; give another folder with {option}")


def raise_problems(problems: list[str], root: Path) -> NoReturn:
    """One UserError for all problems: what to do, then one line each, the first 20 of them."""
    lines = [f"{len(problems)} problem(s) under {root}; nothing was written. Mend these, then run the command again:"]
    lines += [f"  {problem}" for problem in problems[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"  ... and {len(problems) - SHOWN} more")
    raise UserError("\n".join(lines))
