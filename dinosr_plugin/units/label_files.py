"""Label files of a manifest, as ``task.labels`` reads them: one line of numbers per row, and the dictionary.

train.km        the label of every frame, one line per row of ``train.tsv``
dict.km.txt     all labels in numerical order, each with count 1, so that it is the same for every part of a corpus
train.km.json   ``UnitInfo``: rate, place in time, number of labels
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..data.manifest import duplicate_ids, read_rows, utterance_id
from ..errors import UserError, first_few, printable
from ..files import kind_of, read_lines, text_output, write_files
from .unit_files import UnitInfo, info_file


def label_kind(out: Path) -> str:
    """The kind of the labels in a file, which ``task.labels`` names: its suffix; km for a file without one."""
    return out.suffix[1:] or "km"


def write_label_file(
    out: Path,
    tsv: Path,
    names: Collection[str],
    labels_of: Callable[[str], np.ndarray],
    classes: int,
    info: UnitInfo | None = None,
    more: Mapping[str, bytes] = {},
) -> int:
    """Write the labels of every row, and next to them the dictionary and ``info``.

    An existing dictionary that contains these labels is kept, because models may have been trained with its order.

    Args:
        tsv: the manifest, for messages.
        names: utterances of its rows, in order, as from ``manifest_names``.
        labels_of: utterance -> (n,) labels from 0 to ``classes`` - 1.
        info: rate, place in time and number of the labels.
        more: content of other files of the set, by name.

    Returns:
        The number of frames.

    Raises:
        UserError: an utterance has no frames, or the folder cannot be written or contains labels with another number of
            classes. Nothing is written in these cases.
    """
    new_dictionary(out, classes)  # raises its errors before the work
    frames = 0
    with text_output(out) as file:
        for utt in tqdm(names, desc=printable(out.name), unit="utt", disable=None):
            labels = labels_of(utt)
            if not len(labels):
                raise UserError(f"{utt}: has no frames; remove it from {tsv}")
            frames += len(labels)
            file.write(" ".join(map(str, labels.tolist())) + "\n")
        # another process may have written the dictionary in the meantime
        beside: dict[str, bytes | Iterable[str]] = {
            **more,
            **new_dictionary(out, classes),
            **(info_file(out, info) if info else {}),
        }
        write_files(out.parent, beside)
    return frames


def new_dictionary(out: Path, classes: int) -> dict[str, list[str]]:
    """The name and lines of ``dict.km.txt``, or of another kind of labels; {} if it exists and contains these labels.

    Raises UserError if it contains other labels or cannot be read.
    """
    path, labels = out.parent / f"dict.{label_kind(out)}.txt", [str(label) for label in range(classes)]
    if kind_of(path) == "nothing":
        return {path.name: [f"{label} 1" for label in labels]}
    existing = [line.split(" ")[0] for line in read_lines(path, "remove it")]
    if sorted(existing) != sorted(labels):
        raise UserError(
            f"{path}: contains {len(existing)} other labels, but these are {classes}; give another folder or suffix "
            "with --out"
        )
    return {}


def manifest_names(tsv: Path, known: Collection[str], what: str, remedy: str) -> list[str]:
    """Names of the rows in ``known``, in order: utterance ids, or paths, as in embedding folders.

    Args:
        known: utterances that have what labels are made from.
        what, remedy: what that is, and how to make it, for messages.

    Raises:
        UserError: a manifest without rows, a duplicate id, rows that are not ``known``.
    """
    paths = [path for _, path, _ in read_rows(tsv)]
    known = set(known)
    names = [path if path in known else utterance_id(path) for path in paths]
    if not names:
        raise UserError(f"{tsv}: empty manifest without rows after its first line; create it with `dinosr manifest`")
    if clashes := duplicate_ids(paths):
        raise UserError(f"{tsv}: {clashes[0]}")
    if missing := [name for name in names if name not in known]:
        count = f"{len(missing)} of {len(names)} utterances have no {what}: {first_few(missing)}"
        raise UserError(f"{tsv}: {count}; {remedy}")
    return names
