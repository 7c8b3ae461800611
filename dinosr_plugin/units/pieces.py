"""Acoustic pieces: frequent sequences of units, as labels of frames (R-Spin, NAACL 2024, arXiv 2311.09117).

Each run of a unit is counted once, byte-pair encoding (sentencepiece) finds frequent sequences of the units that
remain, and every frame gets the number of the piece that its run belongs to:

    units   7 7 7 3 3 9 7 7 3      runs   7 3 9 7 3      pieces   73 9 73      labels   0 0 0 0 0 8 0 0 0

To sentencepiece a unit is a character of Unicode's private use areas, which have no meaning elsewhere. Pieces have at
most 16 units, sentencepiece's default.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.piece_model import PieceKind, load, ordinary_pieces, read_model, train
from ..errors import UserError
from ..files import kind_of
from .label_files import label_kind, manifest_names, write_label_file
from .unit_files import UnitInfo, dedup

UNITS = PieceKind(
    option="--pieces",
    text="this speech",
    symbols="units",
    advice="give a number of pieces, or the pieces.km.model of an earlier --pieces",
)
FIRST = 0xF0000  # the first character of Supplementary Private Use Area-A
AREA = 0xFFFE  # characters in each of the two areas; the last two of a plane are not characters
MAX_SYMBOLS = 2 * AREA
LONGEST = 1 << 15  # units; sentencepiece cannot be trained on sequences of more than 2^16


# ---- sequences -------------------------------------------------------------------------------------------------------


def to_text(units: np.ndarray) -> str:
    """(n,) units below ``MAX_SYMBOLS`` -> a text of n characters."""
    return (FIRST + units + 2 * (units // AREA)).astype("<u4").tobytes().decode("utf-32-le")


def to_units(text: str) -> np.ndarray:
    """The inverse of ``to_text``; characters that are not units become numbers outside of 0 to ``MAX_SYMBOLS`` - 1."""
    characters = np.frombuffer(text.encode("utf-32-le"), dtype="<u4").astype(np.int64) - FIRST
    areas, places = np.divmod(characters, 1 << 16)
    return np.where((areas >= 0) & (areas < 2) & (places < AREA), areas * AREA + places, -1)


def run_lengths(units: np.ndarray) -> np.ndarray:
    """(n,) -> (m,): the number of frames of each run, in the order of ``dedup``."""
    starts = np.flatnonzero(np.concatenate([np.ones(min(1, len(units)), bool), units[1:] != units[:-1]]))
    return np.diff(starts, append=len(units))


# ---- models ----------------------------------------------------------------------------------------------------------


class PieceModel:
    """Pieces of units.

    Attributes:
        data: the sentencepiece model, bytes of a file.
        pieces: the units of each piece. Labels are places in this list.
        n_units: number of different units; those from 0 to ``n_units`` - 1 are pieces too.
    """

    def __init__(self, data: bytes, path: Path):
        """Raises UserError for a file that is not a model of units; ``path`` is for the message."""
        self.data = data
        self.processor = load(UNITS, data, path)
        self.pieces = [to_units(piece) for piece in ordinary_pieces(self.processor)]
        self.lengths = np.array([len(piece) for piece in self.pieces])
        single = sorted(int(piece[0]) for piece in self.pieces if len(piece) == 1)
        self.n_units = len(single)
        others = self.processor.get_piece_size() - len(self.pieces)
        if single != list(range(self.n_units)) or others != 1 or not self.processor.is_unknown(0):
            raise UserError(f"--pieces {path}: a sentencepiece model, but not of units; {UNITS.advice}")

    @classmethod
    def fit(cls, sequences: Sequence[np.ndarray], n_units: int, pieces: int) -> "PieceModel":
        """Learn ``pieces`` pieces, single units included, from (n,) units below ``n_units``.

        Raises UserError for a number of pieces that is less than ``n_units``, or that the sequences do not allow.
        """

        def texts() -> Iterator[str]:
            for units in sequences:
                once = dedup(units)
                for start in range(0, len(once), LONGEST):
                    yield to_text(once[start : start + LONGEST])
            yield from to_text(np.arange(n_units))  # each by itself, so that units that do not occur are pieces too

        # a sequence is one word, without a beginning
        whole = {"add_dummy_prefix": False, "split_by_unicode_script": False, "split_by_number": False}
        return cls(train(UNITS, texts(), pieces, **whole), Path(f"of {pieces}"))

    @classmethod
    def read(cls, path: Path) -> "PieceModel":
        """Raises UserError if the file cannot be read or is not a model of units."""
        return cls(read_model(UNITS, path), path)

    def encode(self, units: np.ndarray) -> np.ndarray:
        """(n,) units without repetitions -> (m,) pieces, which contain these units in this order."""
        return np.array(self.processor.encode(to_text(units)), dtype=np.int64) - 1  # 0 is the unknown piece

    def labels(self, units: np.ndarray) -> np.ndarray:
        """(n,) units -> (n,) int64, the piece of every frame."""
        if not len(units):
            return np.zeros(0, dtype=np.int64)
        pieces = self.encode(dedup(units))  # (m,)
        first_runs = np.cumsum(self.lengths[pieces]) - self.lengths[pieces]
        return np.repeat(pieces, np.add.reduceat(run_lengths(units), first_runs))


# ---- label files -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """frames: labels that were written; pieces: of the model; used: pieces among these labels; model: its file."""

    frames: int
    pieces: int
    used: int
    model: Path


def write_piece_labels(
    units: Mapping[str, np.ndarray], info: UnitInfo, tsv: Path, out: Path, pieces: int | Path
) -> Written:
    """Labels of every row of a manifest, and next to them the dictionary and, if it is new, the model.

    Args:
        units: utterance -> (n,) units, at least those of the manifest's rows.
        info: of these units.
        out: the label file, named like the manifest: ``train.km``.
        pieces: number of pieces of a new model, learned from these rows; or the file of an existing model.

    Raises:
        UserError: units without a rate or missing for some rows, more units than the model has, a number of pieces that
            the units do not allow, and as ``write_label_file``.
    """
    if info.rate is None:
        raise UserError(f"--pieces {pieces}: these units have no rate, as after --dedup; give units of frames")
    names = manifest_names(tsv, units, "units", "make them with `dinosr units` from this manifest")
    chosen = [units[name] for name in names]
    n_units = max([info.size or 0, *(int(ids.max()) + 1 for ids in chosen if len(ids))])
    if n_units > MAX_SYMBOLS:
        raise UserError(f"--pieces {pieces}: unit {n_units - 1}; pieces are made of units from 0 to {MAX_SYMBOLS - 1}")
    path = out.parent / f"pieces.{label_kind(out)}.model"
    if isinstance(pieces, Path):
        path, model = pieces, PieceModel.read(pieces)
        if n_units > model.n_units:
            raise UserError(
                f"--pieces {pieces}: made of {model.n_units} units, but these are {n_units}; give those of the same "
                "model"
            )
        more = {}
    else:
        model = PieceModel.fit(chosen, n_units, pieces)
        require_same_model(path, model)
        more = {path.name: model.data}
    used = np.zeros(len(model.pieces), dtype=bool)

    def labels_of(name: str) -> np.ndarray:
        labels = model.labels(units[name])
        used[labels] = True
        return labels

    of_pieces = UnitInfo(info.rate, info.first_centre, len(model.pieces))
    frames = write_label_file(out, tsv, names, labels_of, len(model.pieces), of_pieces, more)
    return Written(frames, len(model.pieces), int(used.sum()), path)


def require_same_model(path: Path, model: PieceModel) -> None:
    """Raise UserError if there is another model, which other labels in the folder may have been made with."""
    if kind_of(path) != "nothing" and read_model(UNITS, path) != model.data:
        raise UserError(
            f"{path}: contains other pieces; use them with --pieces {path}, or give another folder or suffix with --out"
        )
