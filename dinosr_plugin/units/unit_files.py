"""Sequences of discrete units, and their text files, with or without the names of the utterances.

codebook_0.units        ``utt<TAB>space-separated ids``, one line per row of the manifest
codebook_0.units.json   ``UnitInfo``: rate, place in time, number of units
codebook_0.txt          the ids alone: what ``fairseq-preprocess --only-source --trainpref codebook_0.txt`` reads
"""

import json
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..data.manifest import duplicate_ids, is_number, read_rows, shorten, utterance_id
from ..errors import UserError
from ..files import is_file, read_lines, read_record, text_output, write_files

# Units are indices into tables of counts (phones x units, speakers x units), whose size the largest unit determines.
# The largest codebook in use, the product of the two of 320 in wav2vec 2.0, has 102,400 units.
MAX_UNITS = 1 << 17


@dataclass(frozen=True)
class UnitInfo:
    """What is known about the units of a file.

    rate: units per second; None for units without repetitions, which have no rate.
    first_centre: time of the centre of unit 0, in seconds.
    size: number of different units; None if unknown.
    """

    rate: float | None
    first_centre: float
    size: int | None = None

    def check(self) -> None:
        """Raises ValueError for impossible values."""
        check_timing(1.0 if self.rate is None else self.rate, self.first_centre)
        if self.size is not None and not 0 < self.size <= MAX_UNITS:
            raise ValueError(f"size is {self.size}, not between 1 and {MAX_UNITS}")

    def at_rate(self, rate: float) -> "UnitInfo":
        """Of the same units after ``at_rate``: copies of a unit divide its time among them; units that are kept stay in
        place."""
        if self.rate is None or rate <= self.rate:
            return UnitInfo(rate, self.first_centre, self.size)
        return UnitInfo(rate, self.first_centre - 0.5 / self.rate + 0.5 / rate, self.size)


def check_timing(rate: float, first_centre: float) -> None:
    """Raises ValueError for an impossible rate (frames per second) or time of the first frame (seconds)."""
    if not 1e-3 <= rate <= 1e6:
        raise ValueError(f"rate is {rate}, not between 0.001 and 1000000 a second")
    if not abs(first_centre) <= 1e6:
        raise ValueError(f"first_centre is {first_centre}, not between -1000000 and 1000000 seconds")


def info_path(path: str | Path) -> Path:
    return Path(f"{path}.json")


def info_file(path: str | Path, info: UnitInfo) -> dict[str, list[str]]:
    """Name and lines of the ``UnitInfo`` file of a unit file."""
    return {info_path(path).name: [json.dumps(asdict(info))]}


def read_info(path: str | Path) -> UnitInfo | None:
    """The ``UnitInfo`` of a unit file; None if it has none. Raises UserError if it is damaged."""
    beside = info_path(path)
    if not is_file(beside):
        return None
    remedy = "remove it and give --rate and --first-centre, or make the units again"
    try:
        info = read_record(beside, UnitInfo, remedy)
        info.check()
        return UnitInfo(info.rate and float(info.rate), float(info.first_centre), info.size)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{beside}: {error}; {remedy}") from error


# ---- sequences -------------------------------------------------------------------------------------------------------


def dedup(units: np.ndarray) -> np.ndarray:
    """(n,) -> (m,): each run of a unit once. Durations are lost, so such units have no rate."""
    changes = np.ones(len(units), dtype=bool)
    changes[1:] = units[1:] != units[:-1]
    return units[changes]


def at_rate(units: np.ndarray, rate: float, target: float) -> np.ndarray:
    """(n,) units at ``rate`` Hz -> at ``target`` Hz: each repeated, or every second, third ... kept.

    Repeating says the same in shorter frames. Keeping every second unit leaves out those in between: the others keep
    their places, but a unit that lasted a single frame may disappear. (Units at 25 Hz from k-means on features that
    were averaged in pairs differ.)

    Raises UserError for rates of which neither is a whole multiple of the other.
    """
    if target > 0 and (target / rate).is_integer():
        return np.repeat(units, round(target / rate))
    if target > 0 and (rate / target).is_integer():
        return units[:: round(rate / target)]
    raise UserError(
        f"--rate {target:g}: not a whole multiple or fraction of these units' {rate:g} Hz; give one that is"
    )


# ---- writing ---------------------------------------------------------------------------------------------------------


def unit_line(utt: str, units: np.ndarray, plain: bool) -> str:
    """Line of a unit file; ``units`` (n,) integers, n may be 0. ``plain``: without the name."""
    return ("" if plain else f"{utt}\t") + " ".join(map(str, units.tolist())) + "\n"


def write_units(
    path: str | Path, units: Iterable[tuple[str, np.ndarray]], plain: bool = False, info: UnitInfo | None = None
) -> Path:
    """(utt, (n,) integers) for each utterance -> a unit file; other arguments and errors as ``write_unit_files``."""
    return write_unit_files([Path(path)], ((utt, [ids]) for utt, ids in units), plain, info)[0]


def write_unit_files(
    paths: list[Path],
    units: Iterable[tuple[str, list[np.ndarray]]],
    plain: bool = False,
    info: UnitInfo | None = None,
) -> list[Path]:
    """Several unit files at once, all of them or none: (utt, one (n,) array per file) for each utterance.

    ``plain`` leaves out the names, for ``fairseq-preprocess``; ``info`` is written beside each. Raises UserError if a
    file cannot be written.
    """
    with ExitStack() as stack:
        outputs = [stack.enter_context(text_output(path)) for path in paths]
        for utt, arrays in units:
            for file, ids in zip(outputs, arrays, strict=True):
                file.write(unit_line(utt, ids, plain))
        if info and not plain:
            for path in paths:
                write_files(path.parent, info_file(path, info))
    return paths


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_units(path: str | Path) -> dict[str, np.ndarray]:
    """A file with names: utterance -> (n,) int64, in the file's order.

    Raises:
        UserError: no such file, empty, a line that is not ``utt<TAB>ids``, an invalid id, a duplicate utterance.
    """
    units: dict[str, np.ndarray] = {}
    for number, line in enumerate(read_lines(Path(path), "make it with `dinosr units`"), start=1):
        utt, tab, ids = line.partition("\t")
        if not utt or not tab:
            raise UserError(
                f"{path} line {number}: expected `utt<TAB>unit ids`; make it with `dinosr units` "
                "(`--plain` and `dinosr kmeans apply` leave out the names)"
            )
        if utt in units:
            raise UserError(f"{path} line {number}: duplicate utterance {utt!r}; make it again with `dinosr units`")
        units[utt] = parse_ids(ids, f"{path} line {number}")
    if not units:
        raise UserError(f"{path}: no units in it; make it with `dinosr units`")
    return units


def read_labelled_units(path: str | Path, tsv: str | Path | None) -> dict[str, np.ndarray]:
    """A file with names, or without (a line for each row of the manifest ``tsv``): utterance -> (n,) int64.

    Raises:
        UserError: as ``read_units``; ids alone without a manifest, or with one of another number of rows.
    """
    path = Path(path)
    lines = list(read_lines(path, "give a file that `dinosr units` or `dinosr kmeans apply` wrote"))
    if not lines or "\t" in lines[0]:
        return read_units(path)
    if tsv is None:
        raise UserError(f"{path}: unit ids without names of utterances; give --manifest, whose rows they belong to")
    names = [utterance_id(row) for _, row, _ in read_rows(Path(tsv))]
    if clashes := duplicate_ids(row for _, row, _ in read_rows(Path(tsv))):
        raise UserError(f"{tsv}: {clashes[0]}")
    if len(lines) != len(names):
        raise UserError(
            f"{path}: {len(lines)} lines, but {tsv} has {len(names)} rows; give the manifest they were made from"
        )
    return {
        utt: parse_ids(line, f"{path} line {number}") for number, (utt, line) in enumerate(zip(names, lines), start=1)
    }


def parse_ids(text: str, where: str) -> np.ndarray:
    """``"3 3 17"`` -> (n,) int64.

    Raises UserError for anything but whole numbers from 0 and below ``MAX_UNITS``; ``where`` begins the message.
    """
    words = text.split()
    units = np.array(words, dtype=np.int64) if all(map(is_number, words)) else None
    if units is None or (units >= MAX_UNITS).any():
        wrong = next(word for word in words if not is_number(word) or int(word) >= MAX_UNITS)
        what = f"{shorten(wrong)!r} is not a unit id, a whole number from 0 to {MAX_UNITS - 1}"
        raise UserError(f"{where}: {what}; make the file again with `dinosr units`")
    return units
