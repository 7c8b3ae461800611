"""Words and speakers of recordings from a table: ``file<TAB>text``, Common Voice's .tsv, or a file of Kaldi."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from ...errors import UserError, first_few
from ...files import read_lines
from ..manifest import shorten, words_fault
from .names import AudioNames

FILE_COLUMNS = ("path", "file", "filename", "file_name", "audio", "wav", "utt", "utt_id", "utterance", "id")
REMEDY = "give a text file in UTF-8"


@dataclass(frozen=True)
class Values:
    """What a table gives for each file: how users write the option, and how tables name the column."""

    option: str
    what: str
    columns: tuple[str, ...]
    kaldi: str  # the file of Kaldi with these values


TRANSCRIPTS = Values("--transcripts", "text", ("sentence", "text", "transcript", "transcription", "words"), "text")
SPEAKERS = Values("--speakers", "speaker", ("client_id", "speaker", "speaker_id", "spk"), "utt2spk")


class TableRow(NamedTuple):
    line: int  # from 1
    file: str  # as the table names it
    value: str  # single spaces, "" if there is none


def match_table(
    path: Path,
    values: Values,
    paths: list[str],
    problems: list[str],
    fault_of: Callable[[str], str | None] = words_fault,
) -> tuple[dict[str, str], list[str]]:
    """(audio path -> value, notes) of a table, for the audio files ``paths``.

    A row may name its file with or without folders and suffix, if that is unique. Rows without audio are counted in a
    note. Added to ``problems``: what contradicts itself, and words that cannot be used, for which ``fault_of`` returns
    the reason.

    Raises:
        UserError: the file cannot be read, is not such a table, or no row names one of the files.
    """
    table = f"{values.option} {path}"
    kind, rows = read_table(path, values)
    names = AudioNames(paths)
    found: dict[str, str] = {}
    strangers, count, empty = [], 0, 0
    for row in rows:
        count += 1
        files = names.find(row.file)
        if not files:
            strangers.append(row.file)
        elif len(files) > 1:
            problems.append(
                f"{table} line {row.line}: {row.file} may be {first_few(files, 2)}; write it with folder and suffix"
            )
        elif not row.value:
            empty += 1
        elif found.setdefault(files[0], row.value) != row.value:
            problems.append(f"{table} line {row.line}: another {values.what} for {files[0]} than before; remove one")
        elif values is TRANSCRIPTS and (fault := fault_of(row.value)):
            problems.append(f"{table} line {row.line}: {row.file}: {fault}")
    if not found and not problems:
        wrong = f"none of its {count} row(s) names an audio file, such as {paths[0]}, and has a {values.what}"
        raise UserError(
            f"{table}: {wrong}; read as {kind}; the first is {shorten(strangers[0] if strangers else '')!r}"
        )
    notes = [f"{table}: read as {kind}; {len(found)} of {len(paths)} audio file(s) are in it"]
    if strangers:
        notes.append(f"{table}: {len(strangers)} of {count} row(s) name no audio file here: {first_few(strangers)}")
    if empty:
        notes.append(f"{table}: {empty} of {count} row(s) have no {values.what}")
    return found, notes


def read_table(path: Path, values: Values) -> tuple[str, Iterator[TableRow]]:
    """(description of the format, rows). With tabs, columns are found by the names in the first line; without such
    names there are two. Without tabs, the first word names the file, as in Kaldi.

    Raises UserError, also while the rows are read, for a file that cannot be read and for lines of another form.
    """
    lines = ((number, line) for number, line in enumerate(read_lines(path, REMEDY), start=1) if line.strip())
    first = next(lines, None)
    if first is None:
        raise UserError(f"{values.option} {path}: empty; write one line file<TAB>{values.what} for each file")
    if "\t" not in first[1]:
        return f"Kaldi's {values.kaldi}", kaldi_rows(path, values, chain([first], lines))
    header = [name.strip().lower() for name in first[1].split("\t")]
    file = next((header.index(name) for name in FILE_COLUMNS if name in header), None)
    value = next((header.index(name) for name in values.columns if name in header), None)
    if file is not None and value is not None:
        kind = f"a table with the columns {header[file]} and {header[value]}"
        kind = "Common Voice's table" if {"client_id", "path", "sentence"} <= set(header) else kind
        return kind, column_rows(path, values, lines, len(header), file, value)
    return f"file<TAB>{values.what}", column_rows(path, values, chain([first], lines), 2, 0, 1)


def column_rows(
    path: Path, values: Values, lines: Iterator[tuple[int, str]], columns: int, file: int, value: int
) -> Iterator[TableRow]:
    for number, line in lines:
        fields = line.split("\t")
        if len(fields) > columns:
            advice = f"name them in the first line, such as file<TAB>{values.what}"
            raise UserError(
                f"{values.option} {path} line {number}: {len(fields)} columns instead of {columns}; {advice}"
            )
        fields += [""] * (columns - len(fields))  # editors remove tabs at the end of a line
        yield TableRow(number, fields[file].strip(), " ".join(fields[value].split()))


def kaldi_rows(path: Path, values: Values, lines: Iterator[tuple[int, str]]) -> Iterator[TableRow]:
    for number, line in lines:
        file, *words = line.split()
        if values is SPEAKERS and len(words) > 1:
            advice = "give utt2spk, not spk2utt, or separate file and speaker by a tab"
            raise UserError(f"{values.option} {path} line {number}: {len(words) + 1} words instead of 2; {advice}")
        yield TableRow(number, file, " ".join(words))
