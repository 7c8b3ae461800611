"""Checks a manifest, its label files and its audio before training.

``validate_manifest`` reads the text files only and stops at the first fault; the tasks call it before a run starts.
``check_manifest`` also decodes every audio file and collects all faults; this is ``dinosr check``.
"""

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path, PurePosixPath
from statistics import median
from typing import NamedTuple

import numpy as np

from ..errors import UserError, first_few, setting
from ..files import is_folder, kind_of, read_lines
from .audio import MONO_COPIES, NOT_FINITE, REMAKE_MANIFEST, SAMPLE_RATE, AudioError, Sound, read_sound, wrong_format
from .audio_files import default_workers, map_files
from .bpe import words_of_pieces
from .corpora.librispeech import TRANSCRIPTS, read_transcripts
from .labels import REMAKE as REMAKE_UNITS
from .labels import TOLERANCE
from .manifest import (
    LABELLED,
    NO_ROWS,
    duplicate_ids,
    manifest_lines,
    missing_root,
    parse_row,
    read_dictionary,
    read_root,
    read_rows,
    shorten,
    speaker_of,
    utterance_id,
    words_of,
)
from .text_normalization import NAME as NORMALIZATION
from .text_normalization import TextNormalization, kept_normalization
from .text_notes import text_notes

LABELS = ("ltr", "bpe", "wrd", "phn", "km")
REMAKE = "make the manifest and its labels again with `dinosr manifest`"
UNIT_RATES = (50, 100)  # units per second: those of the trunk's frames, and of fairseq's MFCC frames


# ---- before training: text only, first fault -------------------------------------------------------------------------


def validate_manifest(tsv: Path, labels: str | None, shortest: int | None, field: str = "min_sample_size") -> None:
    """Checks the text of a manifest, of its label file and of the dictionary.

    No audio is opened, and each file is read once: a million rows take 2 s and 24 MB.

    Args:
        tsv: the manifest.
        labels: suffix of the label file next to it, such as "ltr", which needs a ``dict.<labels>.txt``; None for no
            labels.
        shortest: minimum number of samples of a file; shorter ones are skipped in training. None for no minimum.
        field: name of the task's field that ``shortest`` comes from, for the message.

    Raises:
        UserError: one line that describes the first fault, which can be that every file is shorter than ``shortest``.
    """
    read_root(tsv)
    longest = 0
    hashes = array("q")  # of the utterance ids, which would take ten times the memory
    for _, path, samples in read_rows(tsv):
        hashes.append(hash(utterance_id(path)))
        longest = max(longest, samples)
    rows = len(hashes)
    if (np.diff(np.sort(hashes)) == 0).any():
        raise_duplicate(tsv)
    if rows == 0:
        raise UserError(f"{tsv}: {NO_ROWS}")
    if shortest is not None and longest < shortest:
        raise UserError(f"{tsv}: {all_too_short(longest, shortest, setting(f'task.{field}', shortest))}")
    if labels is not None:
        validate_labels(tsv, labels, rows)


def raise_duplicate(tsv: Path) -> None:
    """Raises UserError for the first duplicate utterance id, if there is one: different ids can have the same hash."""
    lines_of: dict[str, int] = {}
    for number, path, _ in read_rows(tsv):
        name = utterance_id(path)
        other = lines_of.setdefault(name, number)
        if other != number:
            raise UserError(
                f"{tsv} line {number}: duplicate utterance id {name}, already on line {other}; "
                "rename or remove one of the two files"
            )


def validate_labels(tsv: Path, labels: str, rows: int) -> None:
    """Raises UserError unless the label file has ``rows`` lines and its dictionary contains every symbol in them."""
    path, dictionary = tsv.with_suffix(f".{labels}"), tsv.with_name(f"dict.{labels}.txt")
    part = f"{tsv.stem}{LABELLED}"
    if kind_of(path) == "nothing" and kind_of(tsv.with_name(f"{part}.{labels}")) == "file":
        raise UserError(f"{path}: no such file; only the files in {part}.tsv are transcribed: use the split {part}")
    symbols = frozenset(read_dictionary(dictionary))
    number = 0
    for number, line in enumerate(read_lines(path, REMAKE), start=1):
        if not symbols.issuperset(line.split()):
            unknown = next(symbol for symbol in line.split() if symbol not in symbols)
            raise UserError(
                f"{path} line {number}: symbol {unknown!r} is not in {dictionary}; {REMAKE}, or add the symbol to it"
            )
    if number != rows:
        raise UserError(f"{path}: {number} lines for the {rows} rows of {tsv.name}; {REMAKE}")


def all_too_short(longest: int, shortest: int, name: str) -> str:
    """``name``: the setting with its value, as users write it."""
    return (
        f"every file is shorter than {name} ({shortest / SAMPLE_RATE:g} s); "
        f"the longest has {longest} samples; lower it, or use longer files"
    )


# ---- dinosr check: everything, all faults ----------------------------------------------------------------------------


class NumberedRow(NamedTuple):
    """One row of a manifest, with its line number."""

    line: int  # in the manifest, from 1
    path: str
    samples: int


@dataclass
class Report:
    """The result of ``check_manifest``. Only ``problems`` prevent a training; ``notes`` are for information."""

    manifest: Path
    rows: int = 0  # including malformed ones
    samples: list[int] = field(default_factory=list)  # of the well-formed rows
    speakers: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """A few lines to print."""
        lines = [f"manifest  {self.manifest}", f"rows      {self.rows}"]
        if self.samples:
            seconds = [samples / SAMPLE_RATE for samples in self.samples]
            lines.append(f"hours     {sum(seconds) / 3600:.2f}")
            lines.append(
                f"seconds   {min(seconds):.2f} shortest, {median(seconds):.2f} median, {max(seconds):.2f} longest"
            )
        lines.append(f"speakers  {self.speakers}")
        lines.append(f"problems  {len(self.problems) or 'none'}")
        return "\n".join(lines)


def check_manifest(
    tsv: Path, min_sample_size: int | None = None, max_sample_size: int | None = None, workers: int | None = None
) -> Report:
    """Reads the manifest, the label files next to it, and every audio file completely, and collects all problems.

    Args:
        tsv: the manifest.
        min_sample_size, max_sample_size: the settings of the planned training, in samples.
        workers: number of threads; None for one per CPU.

    Raises:
        UserError: the manifest cannot be read.
    """
    report = Report(tsv)
    root, rows = check_rows(tsv, report)
    check_sizes(report, min_sample_size, max_sample_size)
    labels = check_labels(tsv, report)
    rule = check_words(tsv, labels, report)
    check_units(tsv, rows, labels, report)
    if is_folder(root):
        check_audio(root, [row for row in rows if row], workers or default_workers(), report)
        check_transcripts(tsv, root, rows, labels, rule, report)
    else:
        report.problems.append(missing_root(root))
    return report


def check_rows(tsv: Path, report: Report) -> tuple[Path, list[NumberedRow | None]]:
    """(root folder, rows); a malformed row is None, so that label lines still match the rows."""
    lines = manifest_lines(tsv)
    root = Path(next(lines))
    rows: list[NumberedRow | None] = []
    for number, line in enumerate(lines, start=2):
        try:
            rows.append(NumberedRow(number, *parse_row(line)))
        except ValueError as error:
            rows.append(None)
            report.problems.append(f"{tsv.name} line {number}: {error}; {REMAKE_MANIFEST}")
    good = [row for row in rows if row]
    report.rows = len(rows)
    report.samples = [row.samples for row in good]
    report.speakers = len({speaker_of(row.path) for row in good})
    report.problems += duplicate_ids(row.path for row in good)
    if not rows:
        report.problems.append(f"{tsv.name}: {NO_ROWS}")
    return root, rows


def check_sizes(report: Report, min_sample_size: int | None, max_sample_size: int | None) -> None:
    """If all files are too short, that is a problem; if some are too short or too long, that is a note."""
    short = sum(samples < (min_sample_size or 0) for samples in report.samples)
    if short and short == len(report.samples):
        name = f"min_sample_size={min_sample_size}"
        report.problems.append(all_too_short(max(report.samples), min_sample_size or 0, name))
    elif short:
        report.notes.append(
            f"{short} of {report.rows} files are shorter than min_sample_size={min_sample_size} and will be skipped"
        )
    long = sum(samples > max_sample_size for samples in report.samples) if max_sample_size is not None else 0
    if long:
        report.notes.append(
            f"{long} of {report.rows} files are longer than max_sample_size={max_sample_size} and will be cropped to it"
        )


# ---- label files -----------------------------------------------------------------------------------------------------


def check_labels(tsv: Path, report: Report) -> dict[str, list[str]]:
    """Lines of the label files next to the manifest, by suffix; only of files that have one line per row."""
    labels = {}
    for kind in LABELS:
        path = tsv.with_suffix(f".{kind}")
        if kind_of(path) == "nothing":
            continue
        try:
            lines = list(read_lines(path, REMAKE))
        except UserError as error:
            report.problems.append(str(error))
            continue
        check_label_lines(path, lines, report)
        check_symbols(path, lines, tsv.with_name(f"dict.{kind}.txt"), report)
        if len(lines) == report.rows:
            labels[kind] = lines
    if "ltr" in labels and "wrd" in labels:
        pairs = zip(count(1), map(words_of, labels["ltr"]), labels["wrd"])
        report_differences(f"{tsv.stem}.ltr and {tsv.stem}.wrd disagree", pairs, report)
    if "bpe" in labels and "wrd" in labels:
        pairs = zip(count(1), map(words_of_pieces, labels["bpe"]), labels["wrd"])
        report_differences(f"{tsv.stem}.bpe and {tsv.stem}.wrd disagree", pairs, report)
    return labels


def check_words(tsv: Path, labels: dict[str, list[str]], report: Report) -> TextNormalization | None:
    """Notes about the symbols of transcripts. Returns the rules by which they were normalised, if they were."""
    words = labels.get("wrd") or list(map(words_of, labels.get("ltr", [])))
    name = f"{tsv.stem}.{'wrd' if 'wrd' in labels else 'ltr'}"
    rule = None
    try:
        rule = kept_normalization(tsv.parent)
    except UserError as error:
        report.problems.append(str(error))
    if rule:
        pairs = ((number, line, normalized(rule, line)) for number, line in enumerate(words, start=1))
        report_differences(f"{name} was not normalised as {NORMALIZATION} says", pairs, report, advice="")
    report.notes += text_notes(name, words, rule is not None, letter_counts(tsv.with_name("dict.ltr.txt")))
    return rule


def letter_counts(dictionary: Path) -> dict[str, int]:
    """Symbol -> count; {} for a dictionary that cannot be read, which ``check_symbols`` reports."""
    try:
        return read_dictionary(dictionary)
    except UserError:
        return {}


def normalized(rule: TextNormalization | None, text: str) -> str:
    """The text after these rules; unchanged if there are none, or if they have no result for it."""
    try:
        return rule.apply(text) if rule else text
    except UserError:
        return text


def check_label_lines(path: Path, lines: list[str], report: Report) -> None:
    if len(lines) != report.rows:
        report.problems.append(f"{path.name}: {len(lines)} lines for {report.rows} rows; {REMAKE}")
    empty = [number for number, line in enumerate(lines, start=1) if not line.strip()]
    if empty:
        where = f"{len(empty)} empty line(s), the first is line {empty[0]}"
        report.problems.append(f"{path.name}: {where}; {REMAKE}, or remove these utterances from the corpus")


def check_symbols(path: Path, lines: list[str], dictionary: Path, report: Report) -> None:
    """Every symbol must be in the dictionary. Letters and word pieces require one, for other labels it is optional."""
    if kind_of(dictionary) == "nothing" and path.suffix not in (".ltr", ".bpe"):
        return
    try:
        known = read_dictionary(dictionary)
    except UserError as error:
        report.problems.append(str(error))
        return
    unknown: Counter = Counter()
    first: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        for symbol in set(line.split()) - known.keys():
            unknown[symbol] += 1
            first.setdefault(symbol, number)
    for symbol in sorted(unknown):
        where = f"{unknown[symbol]} line(s), the first is line {first[symbol]}"
        report.problems.append(
            f"{path.name}: symbol {symbol!r} is not in {dictionary.name} ({where}); {REMAKE}, or add the symbol to it"
        )


def check_units(tsv: Path, rows: list[NumberedRow | None], labels: dict[str, list[str]], report: Report) -> None:
    """One problem for all rows of ``.km`` that are shorter or longer than their audio.

    The rate is not known here; of ``UNIT_RATES`` the one with the fewest such rows is assumed.
    """
    lengths = [
        (number, len(line.split()), row.samples / SAMPLE_RATE)
        for number, (line, row) in enumerate(zip(labels.get("km", []), rows), 1)
        if row
    ]
    misfits = {rate: [one for one in lengths if abs(one[1] / rate - one[2]) > TOLERANCE] for rate in UNIT_RATES}
    rate = min(misfits, key=lambda rate: len(misfits[rate]))
    if misfits[rate]:
        number, units, seconds = misfits[rate][0]
        what = f"units and audio of {len(misfits[rate])} row(s) differ by more than {TOLERANCE} s"
        report.problems.append(
            f"{tsv.stem}.km: {what} at {rate} units per second, the first is line {number}: "
            f"{units} units for {seconds:.2f} s; {REMAKE_UNITS}"
        )


def report_differences(
    what: str, pairs: Iterable[tuple[int, str, str]], report: Report, advice: str = "the order may be wrong: "
) -> None:
    """One problem for all (line number, text, other text) that differ except in white space; it quotes the first."""
    different = [pair for pair in pairs if pair[1].split() != pair[2].split()]
    if different:
        number, one, other = different[0]
        report.problems.append(
            f"{what} on {len(different)} row(s), the first is line {number}: {shorten(one)!r} and {shorten(other)!r}; "
            f"{advice}{REMAKE}"
        )


def check_transcripts(
    tsv: Path,
    root: Path,
    rows: list[NumberedRow | None],
    labels: dict[str, list[str]],
    rule: TextNormalization | None,
    report: Report,
) -> None:
    """Labels must match LibriSpeech's transcripts next to the audio, if any; this detects labels in wrong order.

    ``rule``: how the labels were normalised.
    """
    kind = next((kind for kind in ("wrd", "ltr") if kind in labels), None)
    if kind is None:
        return
    texts: dict[str, dict[str, str]] = {}  # folder -> utterance id -> words
    pairs = []
    for number, (row, line) in enumerate(zip(rows, labels[kind]), start=1):
        if row is None:
            continue
        folder = str(PurePosixPath(row.path).parent)
        if folder not in texts:
            texts[folder] = folder_transcripts(root, folder, report)
        truth = texts[folder].get(utterance_id(row.path))
        if truth is not None:
            pairs.append((number, line if kind == "wrd" else words_of(line), normalized(rule, truth)))
    report_differences(f"{tsv.stem}.{kind} and the *{TRANSCRIPTS} files next to the audio disagree", pairs, report)


def folder_transcripts(root: Path, folder: str, report: Report) -> dict[str, str]:
    """Utterance id -> words of the *.trans.txt files of one folder; empty if it has none."""
    words: dict[str, str] = {}
    try:
        transcripts = sorted((root / folder).glob(f"*{TRANSCRIPTS}"))
    except OSError:  # a name that is too long
        return {}
    for transcript in transcripts:
        words.update(read_transcripts(root, f"{folder}/{transcript.name}", report.problems))
    return words


# ---- audio -----------------------------------------------------------------------------------------------------------


def check_audio(root: Path, rows: list[NumberedRow], workers: int, report: Report) -> None:
    """Decodes every file completely. If no file exists, the root is wrong: one problem instead of one per file."""
    if rows and not any(exists(root / row.path) for row in rows):
        remedy = f"{REMAKE_MANIFEST}, or correct the folder in its first line"
        report.problems.append(f"none of the {len(rows)} files exists under {root}; {remedy}")
        return
    sounds = map_files(lambda row: read_sound(root / row.path, row.samples), rows, workers, "reading audio")
    unfinished = [row.path for row, sound in zip(rows, sounds) if isinstance(sound, Sound) and sound.header.unfinished]
    if unfinished:
        what = "file(s) have a header without a length; all samples in them are used"
        report.notes.append(f"{len(unfinished)} {what}: {first_few(unfinished)}")
    for row, sound in zip(rows, sounds):
        report.problems += [f"{row.path}: {fault}" for fault in sound_faults(row, sound)]


def exists(path: Path) -> bool:
    """Whether a path exists. True if the system cannot tell: reading the file then reports the reason."""
    try:
        return kind_of(path) != "nothing"
    except UserError:
        return True


def sound_faults(row: NumberedRow, sound: Sound | AudioError) -> list[str]:
    """All faults of one file, given its row in the manifest."""
    if isinstance(sound, AudioError):
        return [str(sound)]
    faults = []
    if wrong := wrong_format(sound.header):
        faults.append(f"{wrong}; {MONO_COPIES}")
    if sound.header.samples != row.samples:
        expected = f"{row.samples} on line {row.line} of the manifest"
        faults.append(f"{sound.header.samples} samples, but {expected}; {REMAKE_MANIFEST}")
    if not sound.finite:
        faults.append(NOT_FINITE)
    if sound.silent:
        faults.append("silent: every sample is zero; remove it")
    return faults
