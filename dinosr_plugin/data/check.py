"""Is a manifest, with its label files and its audio, fit for training?

``validate_manifest`` looks at the text files only and stops at the first fault: the tasks call it before a run starts.
``check_manifest`` decodes every file as well and collects all faults: that is ``dinosr check``.
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

from ..errors import UserError
from .audio import SAMPLE_RATE, AudioError, Sound, default_workers, map_files, read_sound, wrong_format
from .bpe import words_of_pieces
from .corpora.librispeech import TRANSCRIPTS, read_transcripts
from .labels import REMAKE as REMAKE_UNITS
from .labels import TOLERANCE
from .manifest import (
    duplicate_ids,
    manifest_lines,
    missing_root,
    parse_row,
    read_dictionary,
    read_lines,
    read_root,
    read_rows,
    speaker_of,
    utterance_id,
    words_of,
)

LABELS = ("ltr", "bpe", "wrd", "phn", "km")
REMAKE = "make the manifest and its labels again with `dinosr manifest`"
UNIT_RATES = (50, 100)  # units a second: the trunk's, and those of fairseq's MFCC


# ---- before training: text only, first fault --------------------------------------------------------------------------------


def validate_manifest(tsv: Path, labels: str | None, shortest: int | None, field: str = "min_sample_size") -> None:
    """Raise a one-line UserError for the first fault of the manifest, of its ``.<labels>`` file, or of ``dict.<labels>.txt`` beside it.

    ``labels``: suffix of the label file, such as "ltr", or None where none is used. ``shortest``: samples of the shortest file that is not
    skipped in training, as the task's ``field`` says it; so it is a fault where every file is shorter. No audio is opened, one pass over each file: 2 s and 24 MB for a million rows.
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
        raise UserError(f"{tsv}: empty manifest, no row after its first line; make it with `dinosr manifest`")
    if shortest is not None and longest < shortest:
        raise UserError(f"{tsv}: {all_too_short(longest, shortest, field)}")
    if labels is not None:
        validate_labels(tsv, labels, rows)


def raise_duplicate(tsv: Path) -> None:
    """Raise UserError for the first utterance id that stands there twice, if one does: two may have the same hash by chance."""
    lines_of: dict[str, int] = {}
    for number, path, _ in read_rows(tsv):
        name = utterance_id(path)
        other = lines_of.setdefault(name, number)
        if other != number:
            raise UserError(
                f"{tsv} line {number}: utterance id {name} stands on line {other} already; rename or remove one of the files"
            )


def validate_labels(tsv: Path, labels: str, rows: int) -> None:
    """Raise UserError unless the label file has ``rows`` lines and its dictionary every symbol in them."""
    path, dictionary = tsv.with_suffix(f".{labels}"), tsv.with_name(f"dict.{labels}.txt")
    symbols = frozenset(read_dictionary(dictionary))
    number = 0
    for number, line in enumerate(read_lines(path, REMAKE), start=1):
        if not symbols.issuperset(line.split()):
            unknown = next(symbol for symbol in line.split() if symbol not in symbols)
            raise UserError(
                f"{path} line {number}: symbol {unknown!r} is not in {dictionary}; {REMAKE}, or add the symbol there"
            )
    if number != rows:
        raise UserError(f"{path}: {number} lines for the {rows} rows of {tsv.name}; {REMAKE}")


def all_too_short(longest: int, shortest: int, field: str = "min_sample_size") -> str:
    return (
        f"every file is shorter than {field}={shortest} ({shortest / SAMPLE_RATE:g} s), "
        f"the longest has {longest} samples; lower {field}, or use longer files"
    )


# ---- dinosr check: everything, all faults -----------------------------------------------------------------------------------


class Row(NamedTuple):
    line: int  # in the manifest, from 1
    path: str
    samples: int


@dataclass
class Report:
    """What ``check_manifest`` found. ``problems`` empty means fit for training; ``notes`` are worth knowing only."""

    manifest: Path
    rows: int = 0  # malformed ones included
    samples: list[int] = field(default_factory=list)  # of the well-formed rows
    speakers: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """A few lines for the screen."""
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
    """Read the manifest, the label files beside it and every audio file to its end; collect all problems.

    ``min_sample_size`` and ``max_sample_size``: the values of the training to come, in samples. ``workers``: threads, None for one a CPU.
    Raises UserError only where there is no manifest to read.
    """
    report = Report(tsv)
    root, rows = check_rows(tsv, report)
    check_sizes(report, min_sample_size, max_sample_size)
    labels = check_labels(tsv, report)
    check_units(tsv, rows, labels, report)
    if root.is_dir():
        check_audio(root, [row for row in rows if row], workers or default_workers(), report)
        check_transcripts(tsv, root, rows, labels, report)
    else:
        report.problems.append(missing_root(root))
    return report


def check_rows(tsv: Path, report: Report) -> tuple[Path, list[Row | None]]:
    """(root folder, rows); None stands for a malformed row, so that labels still find theirs."""
    lines = manifest_lines(tsv)
    root = Path(next(lines))
    rows: list[Row | None] = []
    for number, line in enumerate(lines, start=2):
        try:
            rows.append(Row(number, *parse_row(line)))
        except ValueError as error:
            rows.append(None)
            report.problems.append(f"{tsv.name} line {number}: {error}; make the manifest again with `dinosr manifest`")
    good = [row for row in rows if row]
    report.rows = len(rows)
    report.samples = [row.samples for row in good]
    report.speakers = len({speaker_of(row.path) for row in good})
    report.problems += duplicate_ids(row.path for row in good)
    if not rows:
        report.problems.append(
            f"{tsv.name}: empty manifest, no row after its first line; make it with `dinosr manifest`"
        )
    return root, rows


def check_sizes(report: Report, min_sample_size: int | None, max_sample_size: int | None) -> None:
    """All files too short is a problem; some too short, or too long, is a note."""
    short = sum(samples < (min_sample_size or 0) for samples in report.samples)
    if short and short == len(report.samples):
        report.problems.append(all_too_short(max(report.samples), min_sample_size))
    elif short:
        report.notes.append(
            f"{short} of {report.rows} files are shorter than min_sample_size={min_sample_size} and will be skipped"
        )
    long = sum(samples > max_sample_size for samples in report.samples) if max_sample_size is not None else 0
    if long:
        report.notes.append(
            f"{long} of {report.rows} files are longer than max_sample_size={max_sample_size} and will be cropped to it"
        )


# ---- label files ------------------------------------------------------------------------------------------------------------


def check_labels(tsv: Path, report: Report) -> dict[str, list[str]]:
    """Lines of every label file beside the manifest, by suffix; only of those with one line a row."""
    labels = {}
    for kind in LABELS:
        path = tsv.with_suffix(f".{kind}")
        if not path.exists():
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


def check_label_lines(path: Path, lines: list[str], report: Report) -> None:
    if len(lines) != report.rows:
        report.problems.append(f"{path.name}: {len(lines)} lines for {report.rows} rows; {REMAKE}")
    empty = [number for number, line in enumerate(lines, start=1) if not line.strip()]
    if empty:
        where = f"{len(empty)} empty line(s), the first is line {empty[0]}"
        report.problems.append(f"{path.name}: {where}; {REMAKE}, or remove these utterances")


def check_symbols(path: Path, lines: list[str], dictionary: Path, report: Report) -> None:
    """Every symbol must be in the dictionary; letters and pieces need one, other labels are checked where they have one."""
    if not dictionary.exists() and path.suffix not in (".ltr", ".bpe"):
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
        report.problems.append(
            f"{path.name}: symbol {symbol!r} is not in {dictionary.name} ({unknown[symbol]} line(s), the first is line {first[symbol]}); "
            f"{REMAKE}, or add the symbol there"
        )


def check_units(tsv: Path, rows: list[Row | None], labels: dict[str, list[str]], report: Report) -> None:
    """One problem for all units in ``.km`` that are shorter or longer than their audio, at the rate at which fewest are."""
    lengths = [
        (number, len(line.split()), row.samples / SAMPLE_RATE)
        for number, (line, row) in enumerate(zip(labels.get("km", []), rows), 1)
        if row
    ]
    misfits = {rate: [one for one in lengths if abs(one[1] / rate - one[2]) > TOLERANCE] for rate in UNIT_RATES}
    rate = min(misfits, key=lambda rate: len(misfits[rate]))
    if misfits[rate]:
        number, units, seconds = misfits[rate][0]
        what = (
            f"units and audio of {len(misfits[rate])} row(s) differ by more than {TOLERANCE} s at {rate} units a second"
        )
        report.problems.append(
            f"{tsv.stem}.km: {what}, the first is line {number}: {units} units for {seconds:.2f} s; {REMAKE_UNITS}"
        )


def report_differences(what: str, pairs: Iterable[tuple[int, str, str]], report: Report) -> None:
    """One problem for all the (line number, text, other text) that differ (white space aside), quoting the first of them."""
    different = [pair for pair in pairs if pair[1].split() != pair[2].split()]
    if different:
        number, one, other = different[0]
        report.problems.append(
            f"{what} on {len(different)} row(s), the first is line {number}: {shorten(one)!r} and {shorten(other)!r}; wrong order? {REMAKE}"
        )


def shorten(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def check_transcripts(
    tsv: Path, root: Path, rows: list[Row | None], labels: dict[str, list[str]], report: Report
) -> None:
    """Where LibriSpeech's transcripts lie beside the audio, the labels must say the same: this finds labels in another order."""
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
            pairs.append((number, line if kind == "wrd" else words_of(line), truth))
    report_differences(f"{tsv.stem}.{kind} and the *{TRANSCRIPTS} beside the audio disagree", pairs, report)


def folder_transcripts(root: Path, folder: str, report: Report) -> dict[str, str]:
    """Utterance id -> words of the *.trans.txt files of one folder; empty where there is none."""
    words: dict[str, str] = {}
    for transcript in sorted((root / folder).glob(f"*{TRANSCRIPTS}")):
        words.update(read_transcripts(root, f"{folder}/{transcript.name}", report.problems))
    return words


# ---- audio ------------------------------------------------------------------------------------------------------------------


def check_audio(root: Path, rows: list[Row], workers: int, report: Report) -> None:
    """Decode every file to its end. Where not one of them exists the root is wrong, which is one problem and not a million."""
    if rows and not any((root / row.path).exists() for row in rows):
        remedy = "make the manifest again with `dinosr manifest`, or correct its first line"
        report.problems.append(f"none of the {len(rows)} files is under {root}; {remedy}")
        return
    sounds = map_files(read_sound, [root / row.path for row in rows], workers, "reading audio")
    for row, sound in zip(rows, sounds):
        report.problems += [f"{row.path}: {fault}" for fault in sound_faults(row, sound)]


def sound_faults(row: Row, sound: Sound | AudioError) -> list[str]:
    """What is wrong with one file, judged against its row."""
    if isinstance(sound, AudioError):
        return [str(sound)]
    faults = []
    if wrong := wrong_format(sound.header):
        faults.append(f"{wrong}; `dinosr manifest folder --convert` makes 16 kHz mono copies")
    if sound.header.samples != row.samples:
        told = f"{row.samples} in line {row.line} of the manifest"
        faults.append(f"{sound.header.samples} samples, but {told}; make it again with `dinosr manifest`")
    if not sound.finite:
        faults.append("holds NaN or infinite samples; remove it or make it again")
    if sound.silent:
        faults.append("silent, every sample is zero; remove it")
    return faults
