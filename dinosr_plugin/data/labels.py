"""Frame labels (``NAME.km``: a line of whole numbers for every row of ``NAME.tsv``), held in little memory that loader workers share."""

from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UserError
from .audio import SAMPLE_RATE
from .manifest import read_dictionary, read_lines

if TYPE_CHECKING:  # torch is imported where it is used: `dinosr check` reads labels without it
    from torch import Tensor

TOLERANCE = 0.1  # seconds that labels may be shorter or longer than their audio, fairseq's
SHOWN = 3  # lines named in a message
REMAKE = "make the labels again with `dinosr kmeans apply`"


@dataclass
class FrameLabels:
    """One label set of a split, in the order of its utterances.

    values: (n,) int16, or int32 for more labels than that holds, in shared memory: fairseq keeps its worker processes from epoch to epoch,
        and what is written here they read in the next one. ends: (utterances,) int64, where each one's labels end. classes: labels are below this.
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
    """``task.labels``, "km" or "km,km2" -> the suffixes."""
    return [kind.strip() for kind in labels.split(",")] if labels else []


def count_classes(folder: Path, kind: str) -> int:
    """How many labels ``dict.<kind>.txt`` in the folder has. Raises UserError unless they are 0, 1, 2, ... in any order."""
    path = Path(folder) / f"dict.{kind}.txt"
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; `dinosr kmeans apply` writes it beside the labels, or put the one of the training data there"
        )
    symbols = read_dictionary(path)
    if set(symbols) != {str(number) for number in range(len(symbols))}:
        raise UserError(
            f"{path}: the labels of frames must be the numbers 0 to {len(symbols) - 1}, each once; {REMAKE}"
        )
    return len(symbols)


def read_labels(
    path: Path, classes: int, sizes: Sequence[int], rate: int, skipped: Collection[int] = ()
) -> FrameLabels:
    """The labels of a split, after a check of every line.

    Args:
        path: the label file.
        classes: labels are numbers below this.
        sizes: samples of each utterance that is used, in the manifest's order.
        rate: labels a second.
        skipped: rows of the manifest, from 0, that are not used; their labels are left out.

    Raises:
        UserError: no such rate, no such file, another number of lines than rows, what is no label, or labels that are shorter or longer than their audio
            by more than ``TOLERANCE``.
    """
    if rate < 1:
        raise UserError(f"task.label_rate={rate}: give the labels a second, 50 or 100")
    values, ends, misfits = array("h" if classes <= 2**15 else "i"), array("q"), []
    rows, row = len(sizes) + len(skipped), -1
    for row, line in enumerate(
        read_lines(path, "make it with `dinosr kmeans apply`, or name other labels in task.labels")
    ):
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
            f"{path}: labels and audio of {len(misfits)} utterance(s) differ by more than {TOLERANCE} s at task.label_rate={rate} "
            f"({'; '.join(misfits[:SHOWN] + ['...'] * (len(misfits) > SHOWN))}); {REMAKE}, or correct task.label_rate"
        )
    import torch

    shared = torch.from_numpy(np.frombuffer(values, dtype=values.typecode)).share_memory_()
    return FrameLabels(shared, np.array(ends, dtype=np.int64), classes)


def parse_labels(line: str, classes: int) -> np.ndarray:
    """(L,) int32, from 0 to classes - 1. Raises ValueError that says what is wrong."""
    symbols = line.split()
    try:
        labels = np.array(symbols, dtype=np.int32)
    except (ValueError, OverflowError):
        wrong = next(symbol for symbol in symbols if not symbol.isdecimal() or len(symbol) > 9)
        raise ValueError(f"{wrong!r} is no label, a whole number from 0 to {classes - 1}") from None
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        wrong = labels[(labels < 0) | (labels >= classes)][0]
        raise ValueError(f"label {wrong} is not in the dictionary, whose labels are 0 to {classes - 1}")
    return labels


def collate_labels(sets: Sequence[FrameLabels], utterances: Sequence[int]) -> "Tensor":
    """Labels of B utterances in S sets, padded with -1: (S, B, L) int64."""
    from torch.nn.utils.rnn import pad_sequence

    rows = [labels[index] for labels in sets for index in utterances]
    return pad_sequence(rows, batch_first=True, padding_value=-1).long().unflatten(0, (len(sets), len(utterances)))


def label_lines(labels: FrameLabels, skipped: Collection[int] = ()) -> Iterator[str]:
    """What ``read_labels`` read: a line a row of the manifest, empty for the rows that are ``skipped``."""
    utterance = 0
    for row in range(len(labels) + len(skipped)):
        if row in skipped:
            yield ""
            continue
        yield " ".join(map(str, labels[utterance].tolist()))
        utterance += 1
