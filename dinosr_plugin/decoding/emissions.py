"""Emissions in a file: what the network gave for a part of a corpus, to be decoded many times without it.

An ``.npz`` archive (``numpy.load`` opens it without unpickling anything): ``meta``, JSON in bytes; ``0``, ``1``, ...: (F, V) float32
log-probabilities of the manifest's rows.
"""

import io
import json
import os
import weakref
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from fairseq.data import Dictionary

from ..checkpoints.weights import fingerprint  # noqa: F401  (of the model that emissions are of)
from ..data.audio import SAMPLE_RATE
from ..data.manifest import require_writable, unwritable
from ..errors import UserError


@dataclass(frozen=True)
class Meta:
    """What emissions are of. The sound itself is not compared with what it was when they were made.

    model: ``fingerprint`` of the model.
    symbols: the dictionary, in order.
    blank: index of the CTC blank in it.
    root, files, samples: of the manifest: its folder; name and length of every row.
    labels: reference transcript of every row, in symbols of the dictionary with spaces between.
    """

    model: str
    symbols: list[str]
    blank: int
    root: str
    files: list[str]
    samples: list[int]
    labels: list[str]

    @property
    def seconds(self) -> float:
        """Sound in all rows together."""
        return sum(self.samples) / SAMPLE_RATE

    def dictionary(self) -> Dictionary:
        dictionary = Dictionary()
        for symbol in self.symbols[dictionary.nspecial :]:
            dictionary.add_symbol(symbol)
        return dictionary


class EmissionWriter:
    """Takes emissions in any order; the file gets its name with ``close``, which wants those of every row.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, path: str | Path, meta: Meta):
        self.path, self.meta, self.missing = Path(path), meta, set(range(len(meta.files)))
        require_writable(self.path.parent)
        self.unfinished = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.archive = zipfile.ZipFile(self.unfinished, "w")
            weakref.finalize(self, self.unfinished.unlink, missing_ok=True)  # where decoding ends in an error
        except OSError as error:
            raise unwritable(self.path, error.strerror) from error

    def add(self, row: int, emissions: torch.Tensor) -> None:
        """(F, V) float32 of a row of the manifest."""
        self.write(str(row), emissions.numpy())
        self.missing.discard(row)

    def write(self, name: str, array: np.ndarray) -> None:
        data = io.BytesIO()
        np.lib.format.write_array(data, array, allow_pickle=False)
        try:
            self.archive.writestr(f"{name}.npy", data.getbuffer())
        except OSError as error:
            self.discard()
            raise unwritable(self.path, error.strerror) from error

    def close(self) -> None:
        """Finish the file. Raises UserError where rows were not added."""
        if self.missing:
            self.discard()
            raise UserError(
                f"--emissions {self.path}: not written, for {len(self.missing)} of {len(self.meta.files)} utterances were not decoded"
            )
        self.write("meta", np.frombuffer(json.dumps(asdict(self.meta)).encode(), dtype=np.uint8))
        try:
            self.archive.close()
            os.replace(self.unfinished, self.path)
        except OSError as error:
            self.discard()
            raise unwritable(self.path, error.strerror) from error

    def discard(self) -> None:
        self.unfinished.unlink(missing_ok=True)


class EmissionReader:
    """The file, opened; ``self[row]`` is (F, V) float32.

    Raises:
        UserError: no such file, or one that holds something else.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if self.path.is_dir():
            raise UserError(f"{path}: a folder; give the name of a file of emissions")
        if not self.path.is_file():
            raise UserError(f"{path}: no such file; `fairseq-generate ... --emissions {path}` makes it")
        with self.readable():
            self.archive = np.load(self.path, allow_pickle=False)
            self.meta = Meta(**json.loads(self.archive["meta"].tobytes()))

    @contextmanager
    def readable(self) -> Iterator[None]:
        """UserError for whatever numpy and zipfile say of other or damaged files."""
        try:
            yield
        except (
            OSError,
            ValueError,
            KeyError,
            IndexError,
            TypeError,
            EOFError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            remedy = f"remove it, `fairseq-generate ... --emissions {self.path}` makes it again"
            raise UserError(f"{self.path}: not a file of emissions, or damaged; {remedy}") from error

    def __len__(self) -> int:
        return len(self.meta.files)

    def __getitem__(self, row: int) -> torch.Tensor:
        with self.readable():
            return torch.from_numpy(self.archive[str(row)])

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[row] for row in range(len(self)))

    def require_same(self, meta: Meta) -> None:
        """Raise UserError unless they are of this model, dictionary and manifest."""
        for names, what in DIFFERENCES.items():
            if any(getattr(self.meta, name) != getattr(meta, name) for name in names):
                raise UserError(
                    f"--emissions {self.path}: of {what}; remove it to have it made again, or give another name"
                )


DIFFERENCES = {
    ("symbols", "blank"): "a model with another dictionary",
    ("model",): "another model, another order of models in --path, or another precision (--fp16)",
    ("root", "files", "samples"): "another manifest",
    ("labels",): "other transcripts",
}
"""Fields of ``Meta`` -> what it means where they differ."""


def padded(emissions: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """B x (F, V) -> (B, longest F, V), padded with zeros, and the lengths (B,)."""
    return torch.nn.utils.rnn.pad_sequence(list(emissions), batch_first=True), torch.tensor(
        [len(one) for one in emissions]
    )
