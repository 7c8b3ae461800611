"""Emission files: a model's frame-wise log-probabilities for a whole manifest, to be decoded many times without the
model.

An ``.npz`` archive, which ``numpy.load`` opens without unpickling. ``meta``: JSON as bytes; ``0``, ``1``, ...: (F, V)
float32 log-probabilities of the manifest's rows.
"""

import io
import json
import weakref
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from fairseq.data import Dictionary

from ..checkpoints.weights import fingerprint  # noqa: F401  (callers compute ``EmissionMetadata.model`` with it)
from ..data.arrays import ArrayArchive
from ..data.audio import SAMPLE_RATE
from ..errors import UserError
from ..files import is_folder, output, parse_json, require_file, to_record, unwritable


@dataclass(frozen=True)
class EmissionMetadata:
    """Where emissions come from. The audio itself is not compared with the audio that they were computed from.

    model: ``fingerprint`` of the models.
    symbols: the dictionary, in order.
    blank: index of the CTC blank in the dictionary.
    root, files, samples: the manifest's folder, and the name and length of every row.
    labels: reference transcript of every row, as space-separated symbols of the dictionary.
    """

    model: str
    symbols: list[str]
    blank: int
    root: str
    files: list[str]
    samples: list[int]
    labels: list[str]

    def check(self) -> None:
        """Raises ValueError for impossible values."""
        if not len(self.files) == len(self.samples) == len(self.labels) or min(self.samples, default=1) < 1:
            raise ValueError("files, samples and labels do not match")
        if not 0 <= self.blank < len(self.symbols):
            raise ValueError("the blank is not in the dictionary")

    @property
    def seconds(self) -> float:
        """Total duration of the audio."""
        return sum(self.samples) / SAMPLE_RATE

    def dictionary(self) -> Dictionary:
        dictionary = Dictionary()
        for symbol in self.symbols[dictionary.nspecial :]:
            dictionary.add_symbol(symbol)
        return dictionary


class EmissionWriter:
    """Writes emissions, added in any order. ``close`` gives the file its name; by then every row must have been added.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, path: str | Path, meta: EmissionMetadata):
        self.path, self.meta, self.missing = Path(path), meta, set(range(len(meta.files)))
        with ExitStack() as stack:
            unfinished = stack.enter_context(output(self.path, "--emissions"))
            self.archive = stack.enter_context(zipfile.ZipFile(unfinished, "w"))
            self.stack = stack.pop_all()
        self.discard = weakref.finalize(self, discard_output, self.stack)  # also if decoding fails

    def add(self, row: int, emissions: torch.Tensor) -> None:
        """Add the (F, V) float32 emissions of a row of the manifest."""
        self.write(str(row), emissions.numpy())
        self.missing.discard(row)

    def write(self, name: str, array: np.ndarray) -> None:
        data = io.BytesIO()
        np.lib.format.write_array(data, array, allow_pickle=False)
        try:
            self.archive.writestr(f"{name}.npy", data.getbuffer())
        except OSError as error:
            self.discard()
            raise unwritable(f"--emissions {self.path}", error) from error

    def close(self) -> None:
        """Finish the file. Raises UserError if rows are missing."""
        if self.missing:
            self.discard()
            raise UserError(
                f"--emissions {self.path}: not written, "
                f"because {len(self.missing)} of {len(self.meta.files)} utterances were not decoded; "
                "decode the whole manifest"
            )
        self.write("meta", np.frombuffer(json.dumps(asdict(self.meta)).encode(), dtype=np.uint8))
        self.discard.detach()
        self.stack.close()


class Incomplete(Exception):
    """The emissions are incomplete."""


def discard_output(stack: ExitStack) -> None:
    """Leave the contexts of an output as after an error."""
    with suppress(Incomplete):
        stack.__exit__(Incomplete, Incomplete(), None)


class EmissionReader:
    """Reads an emission file; ``self[row]`` is (F, V) float32.

    Raises:
        UserError: the file does not exist or is not an emission file.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if is_folder(self.path):
            raise UserError(f"{path}: is a folder; give the name of an emission file")
        require_file(self.path, f"create it with `fairseq-generate ... --emissions {path}`")
        with self.readable():
            self.archive = ArrayArchive(self.path)
            self.meta = to_record(EmissionMetadata, parse_json(self.archive["meta"].tobytes()))
            self.meta.check()

    @contextmanager
    def readable(self) -> Iterator[None]:
        """Raise UserError for other or damaged files."""
        try:
            yield
        except ValueError as error:
            remedy = f"remove it and create it again with `fairseq-generate ... --emissions {self.path}`"
            raise UserError(f"{self.path}: not an emission file, or damaged; {remedy}") from error

    def __len__(self) -> int:
        return len(self.meta.files)

    def __getitem__(self, row: int) -> torch.Tensor:
        with self.readable():
            table = self.archive[str(row)]
            if table.dtype != np.float32 or table.ndim != 2 or table.shape[1] != len(self.meta.symbols):
                raise ValueError(f"{table.dtype} of shape {table.shape}")
            return torch.from_numpy(table)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[row] for row in range(len(self)))

    def require_same(self, meta: EmissionMetadata) -> None:
        """Raise UserError unless the emissions belong to this model, dictionary and manifest."""
        for names, what in DIFFERENCES.items():
            if any(getattr(self.meta, name) != getattr(meta, name) for name in names):
                raise UserError(
                    f"--emissions {self.path}: computed from {what}; remove the file to create it again, "
                    "or give another file name"
                )


DIFFERENCES = {
    ("symbols", "blank"): "a model with another dictionary",
    ("model",): "another model, another order of models in --path, or another precision (--fp16)",
    ("root", "files", "samples"): "another manifest",
    ("labels",): "other transcripts",
}
"""Fields of ``EmissionMetadata`` -> what a difference in them means."""


def padded(emissions: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """B x (F, V) -> (B, longest F, V), padded with zeros, and the lengths (B,)."""
    lengths = torch.tensor([len(one) for one in emissions])
    return torch.nn.utils.rnn.pad_sequence(list(emissions), batch_first=True), lengths
