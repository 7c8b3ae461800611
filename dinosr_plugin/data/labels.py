"""Frame labels, one line of integers in ``NAME.km`` for every row of ``NAME.tsv``, in memory that loader workers
share.
"""

from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UserError, first_few
from ..files import is_file, read_lines
from .audio import SAMPLE_RATE
from .manifest import is_number, read_dictionary, shorten

if TYPE_CHECKING:  # torch is imported where it is used: `dinosr check` reads labels without it
    from torch import Tensor

TOLERANCE = 0.1  # seconds by which labels may be shorter or longer than their audio; the value of fairseq
REMAKE = "make the labels again with `dinosr kmeans apply`"


@dataclass
class FrameLabels:
    """One label set of a split, in the order of its utterances.

    Attributes:
        values: (n,) int16, or int32 if there are more than 2^15 classes, in shared memory: fairseq keeps its worker
            processes from epoch to epoch, and labels that are refreshed here reach them in the next epoch.
        ends: (utterances,) int64, where the labels of each utterance end in ``values``.
        classes: number of classes; labels are 0 to classes - 1.
    """

    values: "Tensor"
    ends: np.ndarray
    classes: int

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> "Tensor":
        """(L,), a view."""
        return self.values[self.ends[index - 1] if index else 0 : self.ends[index]]


def label_kinds(labels: str | None) -> list[str]:
    """``task.labels`` such as "km" or "km,km2" -> list of suffixes."""
    return [kind.strip() for kind in labels.split(",")] if labels else []


def count_classes(folder: Path, kind: str) -> int:
    """Number of labels in ``dict.<kind>.txt``. Raises UserError unless they are 0, 1, 2, ... in any order."""
    path = Path(folder) / f"dict.{kind}.txt"
    if not is_file(path):
        raise UserError(
            f"{path}: no such file; `dinosr kmeans apply` writes it with the labels, or copy that of the training data"
        )
    symbols = read_dictionary(path)
    if set(symbols) != {str(number) for number in range(len(symbols))}:
        raise UserError(f"{path}: frame labels must be the numbers 0 to {len(symbols) - 1}, each once; {REMAKE}")
    return len(symbols)


def read_labels(
    path: Path, classes: int, sizes: Sequence[int], rate: int, skipped: Collection[int] = ()
) -> FrameLabels:
    """Reads and checks the labels of a split.

    Args:
        path: the label file.
        classes: number of classes; labels are 0 to classes - 1.
        sizes: samples of each utterance that is used, in the manifest's order.
        rate: labels per second.
        skipped: rows of the manifest, from 0, that are not used; their labels are left out.

    Raises:
        UserError: invalid rate, missing file, number of lines different from the number of rows, invalid label, or
            labels that are more than ``TOLERANCE`` shorter or longer than their audio.
    """
    if rate < 1:
        raise UserError(f"task.label_rate={rate}: must be at least 1; give the labels per second, such as 50 or 100")
    values, ends, misfits = array("h" if classes <= 2**15 else "i"), array("q"), []
    rows, row = len(sizes) + len(skipped), -1
    remedy = "make it with `dinosr kmeans apply`, or set task.labels to another suffix"
    for row, line in enumerate(read_lines(path, remedy)):
        if row in skipped or row >= rows:
            continue
        try:
            labels = parse_labels(line, classes)
        except ValueError as error:
            raise UserError(f"{path} line {row + 1}: {error}; {REMAKE}") from error
        seconds = sizes[len(ends)] / SAMPLE_RATE
        if not len(labels) or abs(len(labels) / rate - seconds) > TOLERANCE:
            misfits.append(f"line {row + 1}: {len(labels)} labels for {seconds:.2f} s")
        values.frombytes(labels.astype(values.typecode).tobytes())
        ends.append(len(values))
    if row + 1 != rows:
        raise UserError(f"{path}: {row + 1} lines for the {rows} rows of {path.stem}.tsv; {REMAKE}")
    if misfits:
        raise UserError(
            f"{path}: labels and audio of {len(misfits)} utterance(s) differ by more than {TOLERANCE} s "
            f"at task.label_rate={rate} ({first_few(misfits)}); {REMAKE}, or correct task.label_rate"
        )
    import torch

    shared = torch.from_numpy(np.frombuffer(values, dtype=values.typecode)).share_memory_()
    return FrameLabels(shared, np.array(ends, dtype=np.int64), classes)


def parse_labels(line: str, classes: int) -> np.ndarray:
    """(L,) int32, from 0 to classes - 1. Raises ValueError whose message describes the fault."""
    symbols = line.split()
    wrong = next((symbol for symbol in symbols if not is_number(symbol)), None)
    if wrong is not None:
        raise ValueError(f"{shorten(wrong)!r} is not a label, which is an integer from 0 to {classes - 1}")
    labels = np.array(symbols, dtype=np.int64)
    if len(labels) and labels.max() >= classes:
        wrong = labels[labels >= classes][0]
        raise ValueError(f"label {wrong} is not in the dictionary, whose labels are 0 to {classes - 1}")
    return labels.astype(np.int32)


def collate_labels(sets: Sequence[FrameLabels], utterances: Sequence[int]) -> "Tensor":
    """Labels of B utterances in S sets, padded with -1: (S, B, L) int64."""
    from torch.nn.utils.rnn import pad_sequence

    rows = [labels[index] for labels in sets for index in utterances]
    padded = pad_sequence(rows, batch_first=True, padding_value=-1).long()  # (S * B, L)
    return padded.unflatten(0, (len(sets), len(utterances)))


def label_lines(labels: FrameLabels, skipped: Collection[int] = ()) -> Iterator[str]:
    """The lines that ``read_labels`` reads: one per row of the manifest, empty for the ``skipped`` rows."""
    utterance = 0
    for row in range(len(labels) + len(skipped)):
        if row in skipped:
            yield ""
            continue
        yield " ".join(map(str, labels[utterance].tolist()))
        utterance += 1
