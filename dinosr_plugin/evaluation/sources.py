"""Sources from files, feature folders and unit files, with their place in time; and checks against their speech."""

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.audio import SAMPLE_RATE
from ..data.manifest import NO_ROWS, read_rows, utterance_id
from ..errors import UserError, first_few
from ..files import is_file, is_folder
from ..units.store import EMBEDDINGS, FeatureFolder, layer_folders
from ..units.unit_files import read_info, read_labelled_units
from .measuring import Source
from .phones import PhoneAlignment

SUFFIXES = (".units", ".km")
RATES = (12.5, 25.0, 50.0, 100.0)  # usual ones, units per second
TOLERANCE = 0.1  # relative difference of two durations of the same speech: alignments may leave out the ends


def expand(path: Path) -> list[Path]:
    """The layers in a folder from `dinosr features --layer all`, the unit files in a folder, or the path itself."""
    if not is_folder(path) or is_file(path / "meta.json"):
        return [path]
    return layer_folders(path) or unit_files_in(path) or [path]


def unit_files_in(folder: Path) -> list[Path]:
    """Its ``.units`` and ``.km`` files, numbers in their names in numerical order."""
    files = [file for file in folder.iterdir() if file.suffix in SUFFIXES and is_file(file)]
    return sorted(
        files,
        key=lambda file: [
            (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", file.name)
        ],
    )


def open_features(path: Path) -> Source:
    """A feature folder. Raises UserError as ``FeatureFolder``, and for embeddings of whole recordings."""
    features = FeatureFolder(path)
    if features.source.get("kind") == EMBEDDINGS:
        raise UserError(f"{path}: contains embeddings of recordings, not frames; give a folder from `dinosr features`")
    digest = hashlib.sha256((path / "meta.json").read_bytes()).hexdigest()
    return Source(str(path), features.rate, features.first_centre, features=features, digest=digest)


def open_units(
    path: Path,
    rate: float | None = None,
    first_centre: float | None = None,
    tsv: str | Path | None = None,
    default_rate: float | None = None,
    unit_distance: str = "onehot",
) -> Source:
    """A unit file.

    Args:
        rate, first_centre: given by the user; None: as the file beside the units says (``unit_files.UnitInfo``).
            Without such a file the rate is ``default_rate`` and the first centre half a frame.
        tsv: manifest that names the utterances of files without names.

    Raises:
        UserError: as ``read_labelled_units``; no rate; units without repetitions, which have none; a unit larger than
            the size of the codebook.
    """
    units, info = read_labelled_units(path, tsv), read_info(path)
    if info is not None and info.rate is None:
        raise UserError(f"{path}: each run of units is written once, so they have no rate; make them without --dedup")
    if rate is None:
        rate = info.rate if info else default_rate
    if info and rate == info.rate and first_centre is None:
        first_centre = info.first_centre
    if rate is None:
        raise UserError(f"{path}: --rate HZ is required, the units per second (of a DinoSR model: 50)")
    size = info.size if info else None
    largest = max((int(ids.max()) for ids in units.values() if len(ids)), default=0)
    if size is not None and largest >= size:
        raise UserError(
            f"{path}: unit {largest}, but its .json file says that there are {size} units; make both again, or remove "
            "the .json file"
        )
    return Source(
        name=str(path),
        rate=rate,
        first_centre=0.5 / rate if first_centre is None else first_centre,
        units=units,
        n_codes=size,
        unit_distance=unit_distance,
        digest=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def short_names(files: Sequence[Path]) -> list[str]:
    """Names for a table: without folder and suffix if they stay different, else the whole paths."""
    stems = [file.stem for file in files]
    return stems if len(set(stems)) == len(stems) else [str(file) for file in files]


# ---- units and their speech ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Durations:
    """How long the utterances of a corpus are, which units of them must match.

    Attributes:
        path: the phone alignment, or without one the manifest.
        noun, entry: for messages: what it is, and what an utterance has in it.
        seconds: utterance -> duration.
    """

    path: Path
    noun: str
    entry: str
    seconds: Mapping[str, float]

    @classmethod
    def of_alignment(cls, phones: PhoneAlignment) -> "Durations":
        seconds = {utt: int(ends[-1]) / 1e6 for utt, ends in phones.ends.items()}
        return cls(phones.path, "alignment", "alignment", seconds)

    @classmethod
    def of_manifest(cls, tsv: str | Path) -> "Durations":
        """Raises UserError for a bad or empty manifest."""
        seconds = {utterance_id(path): samples / SAMPLE_RATE for _, path, samples in read_rows(Path(tsv))}
        if not seconds:
            raise UserError(f"{tsv}: {NO_ROWS}")
        return cls(Path(tsv), "manifest", "row", seconds)


def matched_units(
    name: str | Path,
    units: Mapping[str, np.ndarray],
    durations: Durations,
    rate: float,
    skip_missing: bool = False,
    corpus: Collection[str] | None = None,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The units of the utterances whose duration is known, and notes about the others for the user.

    Args:
        name: of the units, for messages.
        rate: units per second.
        skip_missing: leave out utterances that only one side has.
        corpus: utterances that should have units; None: all of ``durations``.

    Raises:
        UserError: no utterance in common; utterances that only one side has, unless they are skipped; another rate.
    """
    known, path = durations.seconds, durations.path
    shared = {utt: ids for utt, ids in units.items() if utt in known}
    if not shared:
        ours, theirs = next(iter(units)), next(iter(known))
        none = f"none of its {len(units)} utterances ({ours}, ...) is in {path} ({theirs}, ...)"
        raise UserError(f"{name}: {none}; give the {durations.noun} of the same corpus")
    expected = [utt for utt in known if corpus is None or utt in corpus]
    missing = {
        f"have no {durations.entry} in {path}": (len(units), [utt for utt in units if utt not in shared]),
        f"of {path} have no units": (len(expected), [utt for utt in expected if utt not in shared]),
    }
    notes = [
        f"{name}: {len(utts)} of {count} utterances {what} ({first_few(utts)})"
        for what, (count, utts) in missing.items()
        if utts
    ]
    if notes and not skip_missing:
        raise UserError(
            f"{'; '.join(notes)}; give both for the same utterances, or leave these out with --skip-missing"
        )
    require_rate(name, shared, durations, rate)
    return shared, [f"{note}; left out" for note in notes]


def require_rate(name: str | Path, units: Mapping[str, np.ndarray], durations: Durations, rate: float) -> None:
    """Raise UserError if units of ``rate`` Hz are over 10 % longer or shorter than their speech."""
    count, seconds = sum(map(len, units.values())), sum(durations.seconds[utt] for utt in units)
    if count == 0 or abs(count / rate / seconds - 1) <= TOLERANCE:  # without any unit, ``Quality`` raises
        return
    actual = count / seconds
    near = min(RATES, key=lambda usual: abs(np.log(usual / actual)))
    if not any((ids[1:] == ids[:-1]).any() for ids in units.values()):
        likely = "no unit is repeated, so these are deduplicated, which have no rate; make them again without --dedup"
    elif abs(near / actual - 1) <= TOLERANCE:
        likely = f"try --rate {near:g}"
    else:
        likely = (
            "not a usual rate (deduplicated units have none); give the right one, or the "
            f"{durations.noun} of this speech"
        )
    raise UserError(
        f"{name}: {count} units for the {seconds:.1f} s in {durations.path} are {actual:.1f} per second, not {rate:g} "
        f"(--rate); {likely}"
    )
