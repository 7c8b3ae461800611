"""`dinosr check`: reads a manifest, its label files and all its audio, and collects all faults."""

from pathlib import Path

from ..errors import UserError, first_few
from ..files import is_folder, kind_of
from .audio import MONO_COPIES, NOT_FINITE, REMAKE_MANIFEST, AudioError, Sound, read_sound, wrong_format
from .audio_files import default_workers, map_files
from .check_labels import check_labels, check_transcripts, check_units, check_words
from .check_report import NumberedRow, Report
from .manifest import NO_ROWS, duplicate_ids, manifest_lines, missing_root, parse_row, speaker_of
from .validation import all_too_short


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
