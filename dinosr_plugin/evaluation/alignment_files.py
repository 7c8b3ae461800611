"""Files of phone and word alignments: tables, such as ``.phones.tsv``, and TextGrid files.

The Montreal Forced Aligner (McAuliffe et al. 2017) writes a TextGrid for each recording, in a folder for each speaker,
with the interval tiers ``words`` and ``phones``, or, of several speakers, ``SPEAKER - words`` and ``SPEAKER - phones``.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from ..data.audio_files import find_files
from ..data.manifest import utterance_id
from ..errors import UserError, first_few
from ..files import is_folder, read_lines, system_error
from .textgrid import is_textgrid, read_textgrid

HEADER = "utt\tstart\tend\tphone"
MAX_SECONDS = 10**7  # of a recording: four months, whose microseconds fit into 64 bits
SILENCE = "SIL"
SILENT_PHONES = ("", "sil", "sp", "spn", "<eps>")  # in TextGrid files, in any case; spn: noise or an unknown word
NO_WORDS = ("", "<eps>")

Row = tuple[int, int, str]  # start and end in microseconds, phone or word


def read_rows(path: Path, column: str) -> dict[str, list[Row]]:
    """Utterance -> its segments in order of time.

    Args:
        path: a table, a TextGrid, or a folder of TextGrids, in which folders of speakers may be.
        column: ``phone`` or ``word``.

    Raises:
        UserError: no such file, not such a file, no rows, or a segment that is malformed, empty, negative or overlaps;
            two TextGrids of one name.
    """
    if is_folder(path):
        return rows_of_folder(path, column)
    if is_textgrid(path):
        return {utterance_id(path.name): rows_of_textgrid(path, column)}
    return rows_of_table(path, column)


def check_segment(where: str, utt: str, start: float, end: float, last_end: float) -> None:
    """Raise UserError for times that cannot be, or a start before ``last_end``, the end of the segment before."""
    if not 0 <= start < end <= MAX_SECONDS:
        raise UserError(
            f"{where}: a segment from {start} s to {end} s; times must be positive and end after start, at most at "
            f"{MAX_SECONDS} s"
        )
    if start < last_end - 1e-6:
        raise UserError(
            f"{where}: the segment starts at {start} s, before {last_end} s where the one before it ends; sort the "
            f"rows of {utt} by time and cut overlaps"
        )


def microseconds(seconds: float) -> int:
    return round(seconds * 1e6)


# ---- tables ----------------------------------------------------------------------------------------------------------


def rows_of_table(path: Path, column: str) -> dict[str, list[Row]]:
    """As ``read_rows``, of a file with the columns utt, start, end and ``column``."""
    remedy = f"give a .{column}s.tsv with the columns utt, start, end, {column}, or a folder of TextGrid files"
    lines = read_lines(path, remedy)
    header = next(lines, "")
    if header != HEADER.replace("phone", column):
        raise UserError(
            f"{path}: the first line is {header!r}; it must be the TAB-separated header 'utt start end {column}'"
        )
    rows: dict[str, list[Row]] = defaultdict(list)
    last_end: dict[str, float] = defaultdict(float)
    for number, line in enumerate(lines, start=2):
        utt, start, end, label = parse_row(path, number, line, column)
        check_segment(f"{path}:{number}", utt, start, end, last_end[utt])
        last_end[utt] = end
        rows[utt].append((microseconds(start), microseconds(end), label))
    if not rows:
        raise UserError(f"{path}: the alignment has a header and no rows; it must list the segments of every utterance")
    return dict(rows)


def parse_row(path: Path, number: int, line: str, column: str) -> tuple[str, float, float, str]:
    """An empty phone is silence."""
    try:
        utt, start, end, label = line.split("\t")
        label = label or (SILENCE if column == "phone" else "")
        if utt and label:
            return utt, float(start), float(end), label
    except ValueError:
        pass
    raise UserError(
        f"{path}:{number}: expected 'utt<TAB>start<TAB>end<TAB>{column}' with times in seconds, found {line!r}"
    )


# ---- TextGrids -------------------------------------------------------------------------------------------------------


def rows_of_folder(folder: Path, column: str) -> dict[str, list[Row]]:
    """As ``read_rows``, of all TextGrid files in a folder; an utterance has the name of its file."""
    try:
        files = [folder / path for path in find_files(folder, (".textgrid",))]
    except OSError as error:
        raise system_error(error) from error
    if not files:
        raise UserError(
            f"{folder}: contains no .TextGrid file; give the folder that the Montreal Forced Aligner wrote, or a "
            f".{column}s.tsv"
        )
    file_of: dict[str, Path] = {}
    for file in files:
        other = file_of.setdefault(utterance_id(file.name), file)
        if other is not file:
            raise UserError(f"{file}: has the name of {other}; names must be unique, as those of the recordings")
    bar = tqdm(file_of.items(), desc="TextGrid files", unit="file", disable=None)
    rows = {utt: rows_of_textgrid(file, column) for utt, file in bar}
    if not any(rows.values()):
        raise UserError(f"{folder}: all {column}s in its {len(files)} TextGrid file(s) are empty; align the speech")
    return rows


def rows_of_textgrid(path: Path, column: str) -> list[Row]:
    """The segments of a file. Between and around phones there is silence; between words there is nothing.

    Raises UserError for a file without a tier of that kind, and as ``read_textgrid``.
    """
    grid = read_textgrid(path)
    name = f"{column}s"
    tiers = [tier for tier in grid.tiers if tier.name.lower() == name or tier.name.lower().endswith(f" - {name}")]
    if not tiers:
        found = first_few([tier.name[:40] for tier in grid.tiers], 10)
        raise UserError(
            f"{path}: has no interval tier named {name!r} or 'SPEAKER - {name}' ({found or 'none at all'}); rename "
            f"that with the {name} in Praat"
        )
    silent = SILENT_PHONES if column == "phone" else NO_WORDS
    spoken = sorted(
        (interval for tier in tiers for interval in tier.intervals if interval.label.strip().lower() not in silent),
        key=lambda interval: interval.start,
    )
    utt, last_end = utterance_id(path.name), 0.0
    for interval in spoken:
        check_segment(f"{path}:{interval.line}", utt, interval.start, interval.end, last_end)
        last_end = interval.end
    rows = [(microseconds(start), microseconds(end), label.strip()) for start, end, label, _ in spoken]
    return rows if column == "word" else with_silence(path, rows, grid.start, grid.end)


def with_silence(path: Path, rows: Iterable[Row], start: float, end: float) -> list[Row]:
    """Rows from ``start`` to ``end`` seconds, with silence in all gaps."""
    check_segment(str(path), utterance_id(path.name), max(start, 0.0), end, 0.0)
    last, filled = microseconds(max(start, 0.0)), []
    for row in rows:
        if row[0] > last:
            filled.append((last, row[0], SILENCE))
        filled.append(row)
        last = row[1]
    return [*filled, (last, microseconds(end), SILENCE)] if microseconds(end) > last else filled
