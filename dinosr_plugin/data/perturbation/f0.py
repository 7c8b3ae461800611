"""The range of each speaker, in which Praat looks for F0: measured from the speaker's audio, or read from a table.

Floor and ceiling follow the two-pass rule of De Looze and Hirst (cpran.net/docs/plugins/twopass): F0 is measured
between wide limits; the floor is 0.75 times its first quartile, the ceiling 1.5 times its third. The public code of
Spin reads them from a file that is not public, and raises a floor of 50 Hz to 75.

A table has a line ``speaker<TAB>floor<TAB>ceiling``, in Hz, for each speaker. Speakers are the folders of a manifest
(``manifest.speaker_of``); equal names in several manifests are one speaker. Lines that begin with ``#`` are comments. A
table that was measured begins with one for each manifest:

    # measured from data/train.tsv, utterances 3b0c...: 1 file(s) cannot be read and are left out (anna/2.flac)
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm import tqdm

from ...errors import UserError, first_few
from ...files import is_file, make_folder, output, read_lines, write_lines
from ...files.locks import hold, lock_beside
from ..audio import SAMPLE_RATE, AudioError, read_part, with_retries
from ..manifest import speaker_of
from . import praat

if TYPE_CHECKING:  # imports fairseq, which `dinosr perturb` does not need
    from ..dataset import SpeechDataset

logger = logging.getLogger(__name__)


class Range(NamedTuple):
    """Floor and ceiling in Hz."""

    floor: float
    ceiling: float


EVERYONE = Range(75.0, 500.0)
"""The range of a speaker who is not known, and the limits of the ranges that are measured."""
LOWEST, HIGHEST = 20.0, 2000.0  # Hz that a table may contain
BOUNDARY = 170.0  # Hz
SECONDS = 30.0  # of a speaker's audio that are measured
FRAMES = 50  # voiced frames that a measurement needs: half a second
TABLE = "f0_ranges.tsv"  # in checkpoint.save_dir
COMMENT = "# "
SAVE_EVERY = 30.0  # seconds
REMEDY = "a line is speaker<TAB>floor<TAB>ceiling, in Hz; correct it, or set task.f0_ranges=null to measure"


def is_low(floor: float, ceiling: float) -> bool:
    """Whether a range is that of a low voice: the geometric mean of its ends is below 170 Hz.

    A choice of this package: it separates the two ranges for LibriSpeech's men and women, 75 to 250 and 100 to 400 Hz,
    and is about 1.06 times the median F0 where floor and ceiling come from quartiles.
    """
    return math.sqrt(floor * ceiling) < BOUNDARY


# ---- measuring -------------------------------------------------------------------------------------------------------


def range_of(waves: Iterable[np.ndarray]) -> Range:
    """The range of one speaker's F0 in these waveforms at 16 kHz, each (T,) float32; ``EVERYONE`` if none has a voice.

    Raises UserError if parselmouth is not installed.
    """
    found = [np.zeros(0, dtype=np.float32)]
    for wave in waves:
        try:
            found.append(praat.measure_f0(wave, EVERYONE))
        except praat.PraatFailed:
            continue  # too short
    voiced = np.concatenate(found)
    if len(voiced) < FRAMES:
        return EVERYONE
    low, high = np.quantile(voiced, [0.25, 0.75])
    return Range(
        round(max(EVERYONE.floor, 0.75 * float(low)), 1),
        round(min(EVERYONE.ceiling, 1.5 * float(high)), 1),
    )


def first_seconds(data: "SpeechDataset", rows: Sequence[int], rate: int = SAMPLE_RATE) -> Iterable[np.ndarray]:
    """The first 30 s of these utterances, (T,) float32 each.

    A file that cannot be read is left out and counted, with ``task.skip_bad_audio``; otherwise it raises UserError.
    """
    left = int(SECONDS * rate)
    for row in rows:
        samples = int(data.sizes[row])
        try:
            wave = with_retries(partial(read_part, data.path(row), samples, 0, min(samples, left), rate))
        except AudioError as error:
            data.refuse(row, error)
            continue
        yield wave
        left -= len(wave)
        if left <= 0:
            return


def measure(data: "SpeechDataset", rows: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, Range]]:
    """Each speaker and the range, from up to 30 s of the utterances ``rows``, with a progress bar."""
    praat.require_parselmouth()
    try:
        for speaker, of_speaker in tqdm(rows.items(), desc="F0 of speakers", unit="speaker", disable=None):
            yield speaker, range_of(first_seconds(data, of_speaker))
    finally:
        praat.close()


# ---- tables ----------------------------------------------------------------------------------------------------------


def read_table(path: str | Path, what: str = "") -> dict[str, Range]:
    """Speaker -> range. Raises UserError, whose message begins with ``what``, for a file or a line that is wrong."""
    what = what or str(path)
    table: dict[str, Range] = {}
    for number, line in enumerate(read_lines(path, REMEDY), start=1):
        if line.startswith(COMMENT):
            continue
        fields = line.split("\t")
        if len(fields) != 3 or not fields[0]:
            raise UserError(f"{what} line {number}: {len(fields)} field(s) instead of three; {REMEDY}")
        speaker, *numbers = fields
        if speaker in table:
            raise UserError(f"{what} line {number}: speaker {speaker!r} occurs twice; remove one of the lines")
        table[speaker] = parse_range(numbers, f"{what} line {number}")
    if not table:
        raise UserError(f"{what}: empty; {REMEDY}")
    return table


def parse_range(numbers: Sequence[str], where: str) -> Range:
    try:
        floor, ceiling = map(float, numbers)
    except ValueError:
        raise UserError(f"{where}: floor and ceiling must be numbers; {REMEDY}") from None
    if not LOWEST <= floor < ceiling <= HIGHEST:  # false for NaN
        raise UserError(
            f"{where}: floor {floor:g} and ceiling {ceiling:g}: the floor must be below the ceiling, and both between "
            f"{LOWEST:g} and {HIGHEST:g} Hz; {REMEDY}"
        )
    return Range(floor, ceiling)


def table_lines(table: Mapping[str, Range]) -> list[str]:
    return [f"{speaker}\t{floor:g}\t{ceiling:g}" for speaker, (floor, ceiling) in sorted(table.items())]


def read_comments(path: Path) -> list[str]:
    return [line for line in read_lines(path, REMEDY) if line.startswith(COMMENT)]


def measured_table(path: Path, data: "SpeechDataset", rows: Mapping[str, Sequence[int]]) -> dict[str, Range]:
    """The table in ``path``, after measuring the speakers that it lacks.

    One process measures, the others wait for it, then read the same numbers. A run that resumes reads them too. The
    table is saved every ``SAVE_EVERY`` seconds, so that a run that is stopped meanwhile loses little. If the manifest
    has changed since its speakers were measured, they are measured again.
    """
    from ..fingerprint import describe_rows

    make_folder(path.parent, "checkpoint.save_dir")
    with hold(lock_beside(path), f"checkpoint.save_dir={path.parent}", wait=math.inf):
        table, comments = (read_table(path), read_comments(path)) if is_file(path) else ({}, [])
        manifest = f"{COMMENT}measured from {data.manifest_path}, utterances "
        source = manifest + describe_rows(data)["digest"]
        if any(line.startswith(manifest) and not line.startswith(source) for line in comments):
            logger.info(f"{data.manifest_path} has changed since F0 was measured for {path}: it is measured again")
            table = {speaker: known for speaker, known in table.items() if speaker not in rows}
            comments = [line for line in comments if not line.startswith(manifest)]
        missing = {speaker: of_speaker for speaker, of_speaker in rows.items() if speaker not in table}
        if missing:
            logger.info(f"measuring F0 of {len(missing)} speaker(s), up to {SECONDS:g} s of each; kept in {path}")
            saved = time.monotonic()
            for speaker, measured in measure(data, missing):
                table[speaker] = measured
                if time.monotonic() - saved >= SAVE_EVERY:
                    save_table(path, table, [*comments, source + left_out(data)])
                    saved = time.monotonic()
            save_table(path, table, [*comments, source + left_out(data)])
            if left := left_out(data):
                logger.warning(f"F0 of speakers{left}; repair the files and remove {path} to measure again")
        return table


def left_out(data: "SpeechDataset") -> str:
    """Which files could not be read, for a message; "" if there are none."""
    names = [data.name(row) for row in data.bad.nonzero().flatten().tolist()]
    return f": {len(names)} file(s) cannot be read and are left out ({first_few(names)})" if names else ""


def save_table(path: Path, table: Mapping[str, Range], comments: Sequence[str]) -> None:
    with output(path, "checkpoint.save_dir") as unfinished:
        write_lines(unfinished, [*comments, *table_lines(table)])


# ---- of the utterances of a manifest ---------------------------------------------------------------------------------


def speaker_ranges(speakers: Sequence[str], table: Callable[..., Mapping[str, Range]]) -> np.ndarray:
    """Floor and ceiling of each utterance's speaker, (utterances, 2) float32.

    A speaker who is not in the table, or an utterance outside of any folder, has the range ``EVERYONE``; the log says
    how many there are.

    Args:
        speakers: of each utterance, its speaker; "" if unknown.
        table: a function of the utterances of each speaker, speaker -> rows, that returns the ranges.
    """
    rows: dict[str, list[int]] = {}
    for row, speaker in enumerate(speakers):
        if speaker:
            rows.setdefault(speaker, []).append(row)
    known = table(rows) if rows else {}
    missing = [speaker for speaker in rows if speaker not in known]
    everyone = f"F0 between {EVERYONE.floor:g} and {EVERYONE.ceiling:g} Hz"
    if missing:
        logger.warning(f"no range of F0 for {len(missing)} speaker(s) ({first_few(missing)}): {everyone} for them")
    if alone := sum(not speaker for speaker in speakers):
        logger.warning(f"{alone} utterance(s) are in no speaker's folder: {everyone} for them")
    return np.array([known.get(speaker, EVERYONE) for speaker in speakers], dtype=np.float32).reshape(-1, 2)


def ranges_of(data: "SpeechDataset", file: str | None, save_dir: str | Path, by_praat: bool) -> np.ndarray:
    """Floor and ceiling of each utterance's speaker, (utterances, 2) float32.

    Args:
        file: ``task.f0_ranges``, a table; None: measured, and kept in ``save_dir``.
        by_praat: otherwise F0 is needed by nothing but the choice between a low and a high voice, and is not measured.

    Raises:
        UserError: the table is wrong, parselmouth is not installed, or the table cannot be written.
    """
    if file is not None:
        given = read_table(file, f"task.f0_ranges={file}")
        find = lambda rows: given
    elif by_praat:
        find = lambda rows: measured_table(Path(save_dir, TABLE), data, rows)
    else:
        return np.tile(np.float32(EVERYONE), (len(data.sizes), 1))
    return speaker_ranges([speaker_of(data.name(row)) for row in range(len(data.sizes))], find)
