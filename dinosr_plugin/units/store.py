"""Feature folders: the frames of a corpus from ONE layer or of one kind (MFCC, codebook units ...), on disk.

    meta.json                 ``FolderInfo``: rate, width, dtype, source, utterances
    features_1_of_2.npy       (frames, D), the first half of the manifest's utterances, concatenated; for ``numpy.load``
    features_1_of_2.tsv       ``utt<TAB>frames``, one line per utterance, in the same order
    features_2_of_2.npy, .tsv the second half

With ``--layer all`` a folder contains such folders, ``layer_0``, ``layer_1`` ... Names of unfinished files start with
a dot.
"""

import hashlib
import json
import os
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.arrays import map_array
from ..data.manifest import is_number
from ..errors import UserError, first_few
from ..files import (
    Occupied,
    claim_new,
    is_claimed,
    is_file,
    is_folder,
    parse_json,
    read_lines,
    read_text,
    to_record,
    unwritable,
    write_files,
)
from .unit_files import check_timing

DTYPES = ("float16", "float32")
CODE_DTYPES = ("uint8", "uint16", "uint32")  # of units
EMBEDDINGS = "embeddings"  # ``FolderInfo.source["kind"]`` of folders with one row for each recording
MAX_SHARDS = 10_000
SAVE_SECONDS = 10.0  # maximum work lost if the process is killed


@dataclass(frozen=True)
class FolderInfo:
    """What a folder contains.

    rate: frames per second.
    first_centre: time of the centre of frame 0, in seconds; None in folders of earlier versions.
    width: D.
    dtype: one of ``DTYPES``, or of ``CODE_DTYPES`` for units.
    shards: number of files that the manifest is divided into.
    source: origin of the features: ``{"kind": "mfcc"}``; for a layer ``{"kind": "model", "checkpoint",
        "fingerprint", "weights", "layer"}``; for units ``{"kind": "codes", "checkpoint", "fingerprint", "weights"}``;
        for ``EMBEDDINGS`` see ``evaluation.speakers.extraction``.
    utterances, frames: total numbers, over all shards.
    digest: ``digest_of`` the utterances.
    """

    rate: float
    width: int
    dtype: str
    shards: int
    source: dict[str, Any]
    utterances: int
    frames: int
    digest: str
    first_centre: float | None = None

    def check(self) -> None:
        """Raises ValueError for impossible values."""
        check_timing(self.rate, self.first_centre or 0.0)
        if self.dtype not in DTYPES + CODE_DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}, not one of {', '.join(DTYPES + CODE_DTYPES)}")
        if self.width < 1 or self.utterances < 1 or self.frames < 0:
            raise ValueError("width, utterances or frames is too small")
        if not 1 <= self.shards <= min(self.utterances, MAX_SHARDS):
            raise ValueError(f"shards is {self.shards}, not between 1 and the number of utterances, or {MAX_SHARDS}")


def digest_of(names: Sequence[str], lengths: Sequence[int]) -> str:
    """SHA-256 of all lines ``utt<TAB>frames``, in the manifest's order."""
    digest = hashlib.sha256()
    for name, length in zip(names, lengths, strict=True):
        digest.update(f"{name}\t{length}\n".encode())
    return digest.hexdigest()


def shard_rows(lengths: Sequence[int], shard: int, shards: int) -> range:
    """The manifest's rows of shard number ``shard`` (from 1): consecutive, with about as many frames as other shards.

    Raises UserError for a shard that does not exist, and for fewer utterances than shards.
    """
    if not 1 <= shard <= shards:
        raise UserError(f"--shard {shard}/{shards}: the first number must be between 1 and the second")
    if shards > len(lengths):
        raise UserError(
            f"--shard {shard}/{shards}: the manifest has only {len(lengths)} utterances; give a smaller second number"
        )
    ends, cuts = np.cumsum(lengths), [0]
    for cut in range(1, shards):
        fair = int(np.searchsorted(ends, ends[-1] * cut / shards))
        cuts.append(min(max(fair, cuts[-1] + 1), len(lengths) - (shards - cut)))  # no shard without a row
    return range(*[*cuts, len(lengths)][shard - 1 : shard + 1])


# ---- reading ---------------------------------------------------------------------------------------------------------


class FeatureFolder:
    """A finished folder: ``folder[utt]`` is (n, D), memory-mapped, in the dtype of the file.

    Iteration yields (utterance, array) in the manifest's order.

    Attributes:
        meta: ``FolderInfo``; also ``rate``, ``width``, ``dtype`` and ``source`` of it.
        first_centre: time of the centre of frame 0, in seconds; half a frame if the folder does not specify it.
        utterances: names, in the manifest's order.
        lengths: (N,) int64, numbers of frames.
        shards: the memory-mapped arrays, each (frames, D), in the manifest's order.

    Raises:
        UserError: no such folder, missing shards, a width or dtype that differs from ``meta.json``, or damaged files.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.meta = read_meta(self.path)
        require_shards(self.path, self.meta.shards)
        self.rate, self.width = self.meta.rate, self.meta.width
        self.dtype, self.source = np.dtype(self.meta.dtype), self.meta.source
        self.first_centre = 0.5 / self.rate if self.meta.first_centre is None else self.meta.first_centre
        self.utterances: list[str] = []
        self.shards: list[np.ndarray] = []
        lengths: list[int] = []
        for shard in range(1, self.meta.shards + 1):
            names, shard_lengths = read_index(shard_file(self.path, shard, self.meta.shards, "tsv"))
            self.shards.append(
                map_shard(
                    shard_file(self.path, shard, self.meta.shards, "npy"), (sum(shard_lengths), self.width), self.dtype
                )
            )
            self.utterances += names
            lengths += shard_lengths
        if digest_of(self.utterances, lengths) != self.meta.digest:
            raise damaged(self.path, "its .tsv files and meta.json name different utterances")
        self.lengths = np.array(lengths, dtype=np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths  # as if all shards were one array
        self.shard_starts = np.cumsum([0, *map(len, self.shards)])
        self.row_of = {name: row for row, name in enumerate(self.utterances)}

    def __len__(self) -> int:
        """Number of utterances."""
        return len(self.utterances)

    def __contains__(self, utt: str) -> bool:
        return utt in self.row_of

    def __getitem__(self, utt: str) -> np.ndarray:
        if utt not in self.row_of:
            raise UserError(
                f"{self.path}: no features of utterance {utt!r}; compute them from a manifest that contains it"
            )
        return self.row(self.row_of[utt])

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        return ((name, self.row(row)) for row, name in enumerate(self.utterances))

    def row(self, row: int) -> np.ndarray:
        """(n, D): the utterance in this row of the manifest."""
        start, length = int(self.starts[row]), int(self.lengths[row])
        shard = int(np.searchsorted(self.shard_starts, start, side="right")) - 1 if length else 0
        start -= int(self.shard_starts[shard])
        return self.shards[shard][start : start + length] if length else self.shards[0][:0]


def read_meta(folder: Path) -> FolderInfo:
    """Raise UserError if the folder is missing, or contains no features, or folders of layers instead."""
    if not is_folder(folder):
        raise UserError(f"{folder}: no such folder; create it with `dinosr features ... --out {folder}`")
    path = folder / "meta.json"
    if not is_file(path):
        if inside := [str(layer) for layer in layer_folders(folder)]:
            raise UserError(f"{folder}: contains a folder for each layer; give one of {first_few(inside)}")
        raise UserError(
            f"{folder}: contains no features (no meta.json); create them with `dinosr features ... --out {folder}`"
        )
    text = read_text(path, f"remove the folder {folder} and create it again")
    try:
        meta = to_record(FolderInfo, parse_json(text))
        meta.check()
    except ValueError as error:
        raise damaged(folder, f"meta.json: {error}") from error
    return meta


def layer_folders(folder: str | Path) -> list[Path]:
    """The folders of single layers inside one from ``--layer all``, lowest layer first."""
    folders = [path.parent for path in Path(folder).glob("layer_*/meta.json") if path.parent.name[6:].isdecimal()]
    return sorted(folders, key=lambda path: int(path.name[6:]))


def require_unmixed(folder: Path, layers: bool) -> None:
    """Raise UserError if features of one kind would be mixed with folders of layers: readers could take either."""
    if layers and is_file(folder / "meta.json"):
        raise UserError(
            f"{folder}: already contains features of one layer or kind, so it cannot contain a folder per layer; "
            "give another --out"
        )
    if not layers and layer_folders(folder):
        raise UserError(
            f"{folder}: contains a folder per layer, so it cannot contain other features; give another --out"
        )


def shard_file(folder: Path, shard: int, shards: int, suffix: str) -> Path:
    return folder / f"features_{shard}_of_{shards}.{suffix}"


def is_complete(folder: Path, shard: int, shards: int) -> bool:
    return all(is_file(shard_file(folder, shard, shards, suffix)) for suffix in ("npy", "tsv"))


def missing_shards(folder: Path, shards: int) -> list[int]:
    """Numbers, from 1, of the shards that are missing or unfinished."""
    return [shard for shard in range(1, shards + 1) if not is_complete(folder, shard, shards)]


def require_shards(folder: Path, shards: int) -> None:
    if missing := missing_shards(folder, shards):
        remedy = f"run `dinosr features ... --shard {missing[0]}/{shards}` (again)"
        raise UserError(f"{folder}: shard(s) {first_few(missing)} of {shards} are missing or unfinished; {remedy}")


def read_index(path: Path) -> tuple[list[str], list[int]]:
    """Names and numbers of frames from the .tsv file of a shard."""
    names, lengths = [], []
    for number, line in enumerate(read_lines(path, "compute these features again"), start=1):
        name, _, length = line.rpartition("\t")
        if not name or not is_number(length):
            raise damaged(path.parent, f"{path.name} line {number} is not `utt<TAB>frames`")
        names.append(name)
        lengths.append(int(length))
    return names, lengths


def map_shard(path: Path, shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    try:
        array = map_array(path)
    except ValueError as error:
        raise damaged(path.parent, f"{path.name} cannot be read, or is truncated") from error
    if array.ndim != 2 or array.shape[1] != shape[1] or array.dtype != dtype:
        raise damaged(
            path.parent,
            f"{path.name} contains {array.dtype} of shape {array.shape}, meta.json says {dtype} of width {shape[1]}",
        )
    if array.shape != shape:
        raise damaged(path.parent, f"{path.name} contains {array.shape[0]} frames, its .tsv says {shape[0]}")
    return array


def damaged(folder: Path, what: str) -> UserError:
    return UserError(f"{folder}: damaged, {what}; remove the folder and create it again")


# ---- writing ---------------------------------------------------------------------------------------------------------


class FeatureWriter:
    """Writes one shard, utterances in any order; after a kill a new writer resumes where the last one stopped.

        with FeatureWriter(out, 50.0, 0.0125, 256, "float16", {"kind": "mfcc"}, names, lengths) as writer:
            for row in writer.missing():
                writer.add(row, features)  # (lengths[row], 256)
            writer.close()

    Args:
        folder: created if missing; may contain other shards of the same features.
        rate, first_centre: as in ``FolderInfo``.
        names, lengths: utterances of the WHOLE manifest and their numbers of frames, for every shard.
        shard, shards: as ``shard_rows``.

    Raises:
        UserError: the folder cannot be written, has too little space, or contains other features; another process
            is writing this shard.
    """

    def __init__(
        self,
        folder: str | Path,
        rate: float,
        first_centre: float,
        width: int,
        dtype: str,
        source: dict[str, Any],
        names: Sequence[str],
        lengths: Sequence[int],
        shard: int = 1,
        shards: int = 1,
    ):
        if dtype not in DTYPES + CODE_DTYPES:
            raise UserError(f"--dtype {dtype}: choose one of {', '.join(DTYPES)}")
        self.folder, self.dtype, self.width = Path(folder), np.dtype(dtype), width
        self.shard, self.shards = shard, shards
        self.rows = shard_rows(lengths, shard, shards)
        self.names, self.lengths = (
            list(names[self.rows.start : self.rows.stop]),
            np.array(lengths[self.rows.start : self.rows.stop], dtype=np.int64),
        )
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.npy = shard_file(self.folder, shard, shards, "npy")
        self.unfinished = self.npy.with_name(f".{self.npy.name}.unfinished")
        self.marks_path = self.npy.with_name(f".{self.npy.name}.done")
        self.done = np.zeros(len(self.rows), dtype=bool)
        self.unsaved: list[int] = []
        info = FolderInfo(
            rate=float(rate),
            width=width,
            dtype=dtype,
            shards=shards,
            source=source,
            utterances=len(lengths),
            frames=int(sum(lengths)),
            digest=digest_of(names, lengths),
            first_centre=float(first_centre),
        )
        with ExitStack() as stack:
            stack.enter_context(claim_shard(self.npy))
            write_meta(self.folder, info)
            self.complete = is_complete(self.folder, shard, shards)
            if self.complete:
                self.done[:] = True
            else:
                self.open()
            self.stack = stack.pop_all()
        weakref.finalize(self, self.stack.close)

    def open(self) -> None:
        """``allocate`` the files. Raises UserError for errors of the system."""
        try:
            self.allocate()
        except OSError as error:
            raise unwritable(f"--out {self.folder}", error) from error

    def allocate(self) -> None:
        """Open the unfinished file, with its final size, and a file with a byte per utterance: 1 once it is written."""
        frames = int(self.lengths.sum())
        descriptor = os.open(self.marks_path, os.O_RDWR | os.O_CREAT, 0o666)
        self.marks = open(descriptor, "r+b")  # noqa: SIM115 (closed by close)
        marks = self.marks.read()
        if is_file(self.unfinished) and len(marks) == len(self.done):
            self.done[:] = np.frombuffer(marks, dtype=np.uint8)
        else:
            create_array(self.unfinished, (frames, self.width), self.dtype)
            self.marks.truncate(0)
            self.marks.seek(0)
            self.marks.write(bytes(len(self.done)))
            self.marks.flush()
        self.data = open(self.unfinished, "r+b")  # noqa: SIM115 (closed by close)
        # number of bytes before the first frame
        self.header_size = os.path.getsize(self.unfinished) - frames * self.width * self.dtype.itemsize
        self.saved_at = time.monotonic()

    def missing(self) -> list[int]:
        """Rows of the manifest that belong to this shard and are not written yet."""
        return [self.rows.start + int(i) for i in np.flatnonzero(~self.done)]

    def add(self, row: int, features: np.ndarray) -> None:
        """Write the features (lengths[row], D) of a row of the manifest; a row that is already written does not change.

        Raises UserError for NaN and infinity (in float16: beyond 65504), ValueError for an unexpected shape.
        """
        i = row - self.rows.start
        if self.done[i]:
            return
        with np.errstate(over="ignore"):
            frames = np.ascontiguousarray(features, dtype=self.dtype)
        if frames.shape != (self.lengths[i], self.width):
            raise ValueError(
                f"{self.names[i]}: features of shape {frames.shape}, expected {(int(self.lengths[i]), self.width)}"
            )
        if not np.isfinite(frames).all():
            raise not_finite(self.names[i], bool(np.isfinite(features).all()))
        try:
            self.data.seek(self.header_size + int(self.starts[i]) * self.width * self.dtype.itemsize)
            self.data.write(frames.data if frames.size else b"")
            self.done[i] = True
            self.unsaved.append(i)
            if time.monotonic() - self.saved_at > SAVE_SECONDS:
                self.save()
        except OSError as error:
            raise unwritable(f"--out {self.folder}", error) from error

    def save(self) -> None:
        """Write to disk, so that a power failure loses nothing that was added: first the frames, then their marks."""
        self.data.flush()
        os.fsync(self.data.fileno())
        for i in self.unsaved:
            self.marks.seek(i)
            self.marks.write(b"\1")
        self.marks.flush()
        self.unsaved, self.saved_at = [], time.monotonic()

    def close(self) -> None:
        """Give the finished files their names. Raises UserError if utterances are missing."""
        if self.complete:
            return
        if missing := self.missing():
            raise UserError(
                f"{self.folder}: {len(missing)} of {len(self.rows)} utterances are missing; run the same command again"
            )
        try:
            self.save()
            index = [f"{name}\t{length}" for name, length in zip(self.names, self.lengths)]
            write_files(self.folder, {shard_file(self.folder, self.shard, self.shards, "tsv").name: index})
            os.replace(self.unfinished, self.npy)
            self.marks_path.unlink()
        except OSError as error:
            raise unwritable(f"--out {self.folder}", error) from error
        self.complete = True

    def __enter__(self) -> "FeatureWriter":
        return self

    def __exit__(self, *_) -> None:
        """Save what was added, whether or not the block ended with an error."""
        if hasattr(self, "data"):
            if not self.complete:
                self.save()
            self.data.close()
            self.marks.close()
        self.stack.close()


@contextmanager
def claim_shard(npy: Path) -> Iterator[None]:
    """Claim a shard for one ``FeatureWriter``. Raises UserError if another process or writer writes it."""
    with ExitStack() as stack:
        try:
            if is_claimed(npy):
                raise Occupied(str(npy), "this one")
            stack.enter_context(claim_new(npy))
        except Occupied as error:
            raise UserError(
                f"{npy}: another process is writing it; wait, or give each process a different --shard"
            ) from error
        yield


def write_meta(folder: Path, info: FolderInfo) -> None:
    """Raise UserError if the folder already contains other features, saying how they differ."""
    if not is_file(folder / "meta.json"):
        write_files(folder, {"meta.json": json.dumps(asdict(info), indent=1).splitlines()})
    stored, expected = asdict(read_meta(folder)), asdict(info)
    stored, expected = {**stored.pop("source"), **stored}, {**expected.pop("source"), **expected}
    if stored["first_centre"] is None:  # written by an earlier version
        del stored["first_centre"], expected["first_centre"]
    if differing := [name for name in expected | stored if stored.get(name) != expected.get(name)]:
        name = differing[0]
        how = (
            "of other utterances"
            if name in ("utterances", "frames", "digest")
            else f"with {name} {stored.get(name)}, not {expected.get(name)}"
        )
        raise UserError(f"{folder}: contains features {how}; remove it, or give another folder with --out")


def create_array(path: Path, shape: tuple[int, int], dtype: np.dtype) -> None:
    """Create an .npy file of this shape and allocate its space, so that a full disk is detected now. Raises OSError."""
    try:
        with open(path, "wb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            )
            file.flush()
            size = file.tell() + shape[0] * shape[1] * dtype.itemsize
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(size)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def not_finite(name: str, was_finite: bool) -> UserError:
    if was_finite:
        return UserError(
            f"{name}: features exceed the range of float16 (65504); give --dtype float32 and another --out"
        )
    return UserError(
        f"{name}: NaN or infinity in its features; check the audio with `dinosr check`; if it is valid, the checkpoint "
        "is damaged"
    )
