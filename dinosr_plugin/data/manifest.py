"""Reading and writing the text files that describe a corpus (formats: manifests/README.md).

train.tsv        first line: the root folder; then one ``relative/path<TAB>samples`` per row
train.ltr        one line per row: letters separated by spaces, ``|`` after each word: ``H E L L O | W O R L D |``
train.wrd        one line per row: words
dict.ltr.txt     ``symbol count``, the format of fairseq's Dictionary
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ..errors import UserError
from ..files import is_folder, read_lines, write_files
from .audio import MAX_SAMPLES, REMAKE_MANIFEST, SAMPLE_RATE

SHOWN = 20  # maximum number of problems that are listed; the others are only counted
MAKE = "make it with `dinosr manifest`"
NO_ROWS = f"empty manifest, no row after its first line; {MAKE}"
WORD_END = "|"
LABELLED = "_labelled"  # added to the name of a split: its transcribed part
MAX_DIGITS = 18  # numbers of so many digits fit into int64


@dataclass(frozen=True)
class ManifestRow:
    """One utterance of a manifest, with its words if they are known."""

    path: str  # relative to the root, forward slashes
    samples: int
    words: str | None = None


@dataclass(frozen=True)
class Split:
    """The content of ``<name>.tsv`` and, if the words are known, of ``<name>.ltr`` and ``<name>.wrd``."""

    name: str
    root: Path  # absolute
    utterances: list[ManifestRow]  # sorted by path

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


# ---- names -----------------------------------------------------------------------------------------------------------


def utterance_id(path: str) -> str:
    """The file's name without folders and suffix; this is the utterance's name in label, unit and item files."""
    return path.rpartition("/")[2].rpartition(".")[0]


def speaker_of(path: str) -> str:
    """Speaker of ``relative/path``.

    SPEAKER of LibriSpeech's SPEAKER/CHAPTER/SPEAKER-CHAPTER-NNNN at any depth, otherwise the first folder; "" if the
    path has no folder.
    """
    *folders, _ = path.split("/")
    if len(folders) >= 2 and utterance_id(path).startswith(f"{folders[-2]}-{folders[-1]}-"):
        return folders[-2]
    return folders[0] if folders else ""


def duplicate_ids(paths: Iterable[str]) -> list[str]:
    """One message for each file that has the same utterance id as an earlier file, naming both."""
    first: dict[str, str] = {}
    problems = []
    for path in paths:
        name = utterance_id(path)
        if name in first:
            problems.append(f"{path}: same utterance id as {first[name]}; rename or remove one of them")
        first.setdefault(name, path)
    return problems


def path_fault(path: str) -> str | None:
    """Why a path cannot be written to a manifest, or None if it can.

    A manifest is UTF-8 text, a row is one line, and its fields are separated by tabs.
    """
    if path != path.strip() or any(mark in path for mark in "\t\n\r"):
        return "the name contains a tab or a line break, or starts or ends with a space; rename it"
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return "the name is not UTF-8; rename it"
    return None


# ---- words and letters -----------------------------------------------------------------------------------------------


def letters(words: str) -> str:
    """``HELLO WORLD`` -> ``H E L L O | W O R L D |``."""
    return " ".join(words.replace(" ", WORD_END) + WORD_END)


def words_of(line: str) -> str:
    """The inverse of ``letters``."""
    return " ".join("".join(line.split()).replace(WORD_END, " ").split())


def words_fault(words: str) -> str | None:
    """Why a transcript cannot become letters, or None."""
    if not words:
        return "its transcript is empty; add the words, or remove both files"
    if WORD_END in words:
        return f"'{WORD_END}' in its transcript: this character marks the end of a word in .ltr files; remove it"
    return None


# ---- reading ---------------------------------------------------------------------------------------------------------


def manifest_lines(tsv: Path) -> Iterator[str]:
    """The manifest's lines, the root folder first.

    Raises UserError for a manifest that is missing or unreadable, or whose first line is empty.
    """
    lines = read_lines(tsv, MAKE)
    root = next(lines, "").strip()
    if not root:
        raise UserError(f"{tsv}: empty manifest; its first line must be the root folder; {MAKE}")
    yield root
    yield from lines


def read_root(tsv: Path) -> Path:
    """The root folder in the first line. Raises UserError if it does not exist."""
    root = Path(next(manifest_lines(tsv)))
    if not is_folder(root):
        raise UserError(f"{tsv}: {missing_root(root)}")
    return root


def missing_root(root: Path) -> str:
    return f"its root folder {root} does not exist; {REMAKE_MANIFEST}, or correct the folder in its first line"


def is_number(text: str) -> bool:
    """Whether a text is a whole number from 0 that fits into 64 bits: at most 18 ASCII digits."""
    return text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS


def shorten(text: str) -> str:
    """At most 40 characters of a text, for a message."""
    return text if len(text) <= 40 else text[:37] + "..."


def parse_row(line: str) -> tuple[str, int]:
    """``relative/path<TAB>samples`` -> (path, samples). Raises ValueError whose message describes the fault."""
    fields = line.strip().split("\t")
    if len(fields) != 2:
        raise ValueError(f"{len(fields)} field(s) instead of relative/path<TAB>samples")
    path, samples = fields
    if not is_number(samples) or not 0 < int(samples) <= MAX_SAMPLES:
        raise ValueError(
            f"the number of samples is {shorten(samples)!r}; it must be an integer from 1 to {MAX_SAMPLES}"
        )
    return path, int(samples)


def read_rows(tsv: Path) -> Iterator[tuple[int, str, int]]:
    """(line number, path, samples) of every row, one at a time. Raises UserError at the first malformed row."""
    lines = manifest_lines(tsv)
    next(lines)
    for number, line in enumerate(lines, start=2):
        try:
            path, samples = parse_row(line)
        except ValueError as error:
            raise UserError(f"{tsv} line {number}: {error}; {REMAKE_MANIFEST}") from error
        yield number, path, samples


def read_manifest(tsv: Path) -> Split:
    """The whole manifest, without words.

    Raises UserError for a missing file or root folder, a malformed row, or a manifest without rows.
    """
    root = read_root(tsv)
    utterances = [ManifestRow(path, samples) for _, path, samples in read_rows(tsv)]
    if not utterances:
        raise UserError(f"{tsv}: {NO_ROWS}")
    return Split(tsv.stem, root, utterances)


def read_dictionary(path: Path) -> dict[str, int]:
    """Symbol -> count of a fairseq dictionary, in the file's order.

    Raises UserError for a dictionary that is missing, malformed or empty.
    """
    symbols: dict[str, int] = {}
    for number, line in enumerate(read_lines(path, MAKE), start=1):
        symbol, _, count = line.rstrip().rpartition(" ")
        if not symbol or not is_number(count):
            raise UserError(f"{path} line {number}: {shorten(line)!r} is not `symbol count`; {MAKE}")
        if symbol in symbols:
            raise UserError(f"{path} line {number}: duplicate symbol {symbol!r}; {MAKE}")
        symbols[symbol] = int(count)
    if not symbols:
        raise UserError(f"{path}: empty dictionary; {MAKE}")
    return symbols


# ---- writing ---------------------------------------------------------------------------------------------------------


def count_letters(splits: Iterable[Split]) -> Counter:
    """How often each symbol occurs in the splits' .ltr files."""
    counts: Counter = Counter()
    for split in splits:
        for utterance in split.utterances:
            counts.update(letters(utterance.words).split())
    return counts


def letter_dictionary(splits: list[Split], counted: Collection[str]) -> tuple[dict[str, int], list[str]]:
    """(symbol -> count, notes), sorted by descending count, then by symbol.

    Only the splits whose names are in ``counted`` are counted. A symbol that occurs in other splits only gets count 0
    and a note.
    """
    counts = count_letters(split for split in splits if split.name in counted)
    notes = []
    for split in splits:
        for symbol in sorted(count_letters([split]).keys() - counts.keys()):
            counts[symbol] = 0
            where = f"occurs in {split.name} but not in {', '.join(counted)}"
            notes.append(f"{symbol!r} {where}; it is in the dictionary with count 0")
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))), notes


def write_splits(
    out: Path, splits: list[Split], counted: Collection[str], more: Mapping[str, bytes | list[str]] = {}
) -> list[str]:
    """Writes the .tsv of every split, .ltr and .wrd of those whose words are all known, and one dict.ltr.txt of these.

    All files are written, or none.

    Args:
        out: the folder to write to.
        splits: the splits to write.
        counted: names of the splits that the dictionary counts.
        more: content of other files of the set, by name.

    Returns:
        Notes for the user.

    Raises:
        UserError: the folder cannot be written.
    """
    files: dict[str, bytes | list[str]] = {}
    notes: list[str] = []
    for split in splits:
        if fault := path_fault(str(split.root)):
            raise UserError(f"{str(split.root)!a}: {fault}")
        files[f"{split.name}.tsv"] = [str(split.root), *(f"{u.path}\t{u.samples}" for u in split.utterances)]
    if labelled := [split for split in splits if split.has_words]:
        for split in labelled:
            files[f"{split.name}.ltr"] = [letters(u.words) for u in split.utterances]
            files[f"{split.name}.wrd"] = [u.words for u in split.utterances]
        counts, notes = letter_dictionary(labelled, counted)
        files["dict.ltr.txt"] = [f"{symbol} {count}" for symbol, count in counts.items()]
    write_files(out, {**files, **more})
    return notes


def raise_problems(problems: list[str], root: Path) -> NoReturn:
    """Raises one UserError for all problems: what to do, then one line for each of the first 20 problems."""
    lines = [f"{len(problems)} problem(s) under {root}; nothing was written. Fix them, then run the command again:"]
    lines += [f"  {problem}" for problem in problems[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"  ... and {len(problems) - SHOWN} more")
    raise UserError(lines[0], lines[1:])
