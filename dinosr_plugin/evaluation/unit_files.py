"""Unit files and a phone alignment, brought together: which files a path names, whose units they hold, whether both tell of the same speech."""

import json
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..checkpoints.load import is_torch_file
from ..data.manifest import duplicate_ids, read_lines, read_manifest, read_rows, utterance_id, write_files
from ..errors import UserError
from ..units.codes import parse_ids, read_units
from .measures.abx.items import librispeech_speaker, manifest_speakers
from .measures.quality.units import UnitCounts, count_units
from .phones import PhoneAlignment
from .plots import plot_code_by_phone

SUFFIXES = (".units", ".km")
RATES = (12.5, 25.0, 50.0, 100.0)  # usual ones, units a second
TOLERANCE = 0.1  # relative difference of two lengths of the same speech; ends that were not aligned make one
SHOWN = 3  # names listed in a message


def is_checkpoint(path: str | Path) -> bool:
    """Whether a path is that of a checkpoint rather than of units. Raises UserError where it cannot be read."""
    if Path(path).is_dir():
        return False
    try:
        return is_torch_file(path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); give a checkpoint, a file of units, or a folder of these"
        ) from error


def unit_files(path: str | Path) -> list[Path]:
    """The file itself; of a folder its ``.units`` and ``.km`` files, numbers in their names in order. Raises UserError for a folder without."""
    path = Path(path)
    if not path.is_dir():
        return [path]
    files = [file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file()]
    if not files:
        raise UserError(f"{path}: holds no .units and no .km file; `dinosr units` and `dinosr kmeans apply` make them")
    return sorted(
        files,
        key=lambda file: [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", file.name)],
    )


def short_names(files: Sequence[Path]) -> list[str]:
    """Names for a table: without folder and suffix where that keeps them apart, else the whole paths."""
    stems = [file.stem for file in files]
    return stems if len(set(stems)) == len(stems) else [str(file) for file in files]


def measure_files(
    paths: Sequence[str | Path], phones: PhoneAlignment, tsv: str | Path | None, rate: float, skip_missing: bool = False
) -> tuple[list[tuple[dict, UnitCounts]], list[str]]:
    """Figures of unit files and folders of them: for each file a row ``{"name", **UnitQuality.as_dict()}`` and its counts; and notes for the user.

    Args:
        tsv: manifest of the speech, None for none: the names of units that come without, the speakers, and which part of the alignment counts.
        rate, skip_missing: as ``aligned_units``.

    Raises:
        UserError: as ``unit_files``, ``read_labelled_units``, ``aligned_units`` and ``speakers_of``.
    """
    files = [file for path in paths for file in unit_files(path)]
    corpus = None if tsv is None else manifest_speakers(tsv).keys()
    measured, notes = [], []
    for name, file in zip(short_names(files), files):
        units, own = aligned_units(file, read_labelled_units(file, tsv), phones, rate, skip_missing, corpus)
        speakers = speakers_of(list(units), tsv)
        if speakers is None:
            own.append(
                f"{file}: the utterances are not named as in LibriSpeech, so the speakers are not known; --manifest tells them"
            )
        counts = count_units(units, phones, speakers, rate)
        measured.append(({"name": name, **counts.figures().as_dict()}, counts))
        notes += own
    return measured, notes


def write_unit_quality(
    out: Path, measured: Sequence[tuple[dict, UnitCounts]], phone_names: Sequence[str]
) -> list[Path]:
    """``quality.json`` with all rows, and ``code_by_phone.png`` of the one with the highest PNMI, in the folder ``out``."""
    rows = [row for row, _ in measured]
    row, counts = max(measured, key=lambda one: one[0]["pnmi"])
    write_files(out, {"quality.json": [json.dumps({"rows": rows}, indent=1)]})
    return [
        out / "quality.json",
        plot_code_by_phone(
            counts.by_phone, phone_names, out / "code_by_phone.png", f"P(phone | code) of {row['name']}"
        ),
    ]


def read_labelled_units(path: str | Path, tsv: str | Path | None) -> dict[str, np.ndarray]:
    """A file of units, with names (``utt<TAB>ids``) or without (a line for each row of the manifest ``tsv``): utterance -> (n,) int64.

    Raises:
        UserError: as ``read_units``; ids alone and no manifest, or one of another number of rows.
    """
    path = Path(path)
    lines = list(read_lines(path, "give a file that `dinosr units` or `dinosr kmeans apply` made"))
    if not lines or "\t" in lines[0]:
        return read_units(path)
    if tsv is None:
        raise UserError(f"{path}: unit ids without the utterances' names; give --manifest, whose rows they belong to")
    names = [utterance_id(row) for _, row, _ in read_rows(Path(tsv))]
    if clashes := duplicate_ids(row for _, row, _ in read_rows(Path(tsv))):
        raise UserError(f"{tsv}: {clashes[0]}")
    if len(lines) != len(names):
        raise UserError(
            f"{path}: {len(lines)} lines, but {tsv} has {len(names)} rows; give the manifest that they were made from"
        )
    return {
        utt: parse_ids(line, f"{path} line {number}") for number, (utt, line) in enumerate(zip(names, lines), start=1)
    }


def aligned_units(
    name: str | Path,
    units: Mapping[str, np.ndarray],
    phones: PhoneAlignment,
    rate: float,
    skip_missing: bool = False,
    corpus: Collection[str] | None = None,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The units of utterances that the alignment has too, and what the user should know about the others.

    Args:
        name: of the units, for messages.
        rate: units a second, as the user says.
        skip_missing: go on without utterances that only one side has.
        corpus: utterances of the alignment that should have units; None: all.

    Raises:
        UserError: no utterance in common; utterances that only one side has, unless they are skipped; another rate than ``rate``.
    """
    shared = {utt: ids for utt, ids in units.items() if utt in phones.segments}
    if not shared:
        ours, theirs = next(iter(units)), next(iter(phones.segments))
        said = f"none of its {len(units)} utterances ({ours}, ...) is in {phones.path} ({theirs}, ...)"
        raise UserError(f"{name}: {said}; give the alignment of the same corpus")
    aligned = [utt for utt in phones.segments if corpus is None or utt in corpus]
    missing = {
        f"have no alignment in {phones.path}": (len(units), [utt for utt in units if utt not in shared]),
        f"of {phones.path} have no units": (len(aligned), [utt for utt in aligned if utt not in shared]),
    }
    notes = [
        f"{name}: {len(utts)} of {count} utterances {what} ({listed(utts)})"
        for what, (count, utts) in missing.items()
        if utts
    ]
    if notes and not skip_missing:
        raise UserError(
            f"{'; '.join(notes)}; give both of the same utterances, or go on without them with --skip-missing"
        )
    require_rate(name, shared, phones, rate)
    return shared, [f"{note}; left out" for note in notes]


@contextmanager
def aligned_part(tsv: Path, phones: PhoneAlignment, skip_missing: bool) -> Iterator[tuple[Path, list[str]]]:
    """A manifest of those utterances that have an alignment, as long as it is needed, and what the user should know about the others.

    Without ``skip_missing`` the manifest as it is: who measures says what is missing. Raises UserError for a bad manifest, and where nothing is left.
    """
    if not skip_missing:
        yield tsv, []
        return
    split = read_manifest(tsv)
    names = [utterance_id(utterance.path) for utterance in split.utterances]
    missing = [name for name in names if name not in phones.segments]
    if len(missing) == len(names):
        phones.require(names)
    kept = [
        f"{utterance.path}\t{utterance.samples}"
        for name, utterance in zip(names, split.utterances)
        if name in phones.segments
    ]
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), {tsv.name: [str(split.root), *kept]})
        notes = (
            [
                f"{tsv}: {len(missing)} of {len(names)} utterances have no alignment in {phones.path} ({listed(missing)}); left out"
            ]
            if missing
            else []
        )
        yield Path(folder, tsv.name), notes


def listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def require_rate(name: str | Path, units: Mapping[str, np.ndarray], phones: PhoneAlignment, rate: float) -> None:
    """Raise UserError where units of ``rate`` Hz last more than 10 % longer or shorter than the alignment of the same utterances."""
    count, seconds = sum(map(len, units.values())), sum(int(phones.ends[utt][-1]) for utt in units) / 1e6
    if count == 0 or abs(count / rate / seconds - 1) <= TOLERANCE:  # of no unit at all ``Quality`` says so
        return
    found = count / seconds
    near = min(RATES, key=lambda usual: abs(np.log(usual / found)))
    if not any((ids[1:] == ids[:-1]).any() for ids in units.values()):
        likely = "no unit is repeated, so these are deduplicated, which have no rate; make them again without --dedup"
    elif abs(near / found - 1) <= TOLERANCE:
        likely = f"--rate {near:g} is likely"
    else:
        likely = "that is no usual rate (deduplicated units have none); give the right one, or the alignment of the same speech"
    raise UserError(
        f"{name}: {count} units for the {seconds:.1f} s in {phones.path} are {found:.1f} a second, not {rate:g} (--rate); {likely}"
    )


def speakers_of(utts: Sequence[str], tsv: str | Path | None) -> dict[str, str] | None:
    """Utterance -> speaker: by the manifest's folders, or without one by LibriSpeech's names; None where these tell nothing.

    Raises:
        UserError: an utterance that the manifest does not have.
    """
    if tsv is None:
        try:
            return {utt: librispeech_speaker(utt) for utt in utts}
        except UserError:  # other names
            return None
    known = manifest_speakers(tsv)
    if missing := [utt for utt in utts if utt not in known]:
        raise UserError(
            f"{tsv}: {len(missing)} of {len(utts)} utterances are not in it ({listed(missing)}); give the manifest that the units were made from"
        )
    return {utt: known[utt] for utt in utts}
