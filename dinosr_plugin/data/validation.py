"""A manifest and its labels before a training: text only, up to the first fault. `dinosr check` finds all of them."""

from array import array
from pathlib import Path

import numpy as np

from ..errors import UserError, setting
from ..files import kind_of, read_lines
from .audio import SAMPLE_RATE
from .manifest import LABELLED, NO_ROWS, read_dictionary, read_root, read_rows, utterance_id

REMAKE = "make the manifest and its labels again with `dinosr manifest`"


def validate_manifest(tsv: Path, labels: str | None, shortest: int | None, field: str = "min_sample_size") -> None:
    """Checks the text of a manifest, of its label file and of the dictionary.

    No audio is opened, and each file is read once: a million rows take 2 s and 24 MB.

    Args:
        tsv: the manifest.
        labels: suffix of the label file next to it, such as "ltr", which needs a ``dict.<labels>.txt``; None for no
            labels.
        shortest: minimum number of samples of a file; shorter ones are skipped in training. None for no minimum.
        field: name of the task's field that ``shortest`` comes from, for the message.

    Raises:
        UserError: one line that describes the first fault, which can be that every file is shorter than ``shortest``.
    """
    read_root(tsv)
    longest = 0
    hashes = array("q")  # of the utterance ids, which would take ten times the memory
    for _, path, samples in read_rows(tsv):
        hashes.append(hash(utterance_id(path)))
        longest = max(longest, samples)
    rows = len(hashes)
    if (np.diff(np.sort(hashes)) == 0).any():
        raise_duplicate(tsv)
    if rows == 0:
        raise UserError(f"{tsv}: {NO_ROWS}")
    if shortest is not None and longest < shortest:
        raise UserError(f"{tsv}: {all_too_short(longest, shortest, setting(f'task.{field}', shortest))}")
    if labels is not None:
        validate_labels(tsv, labels, rows)


def raise_duplicate(tsv: Path) -> None:
    """Raises UserError for the first duplicate utterance id, if there is one: different ids can have the same hash."""
    lines_of: dict[str, int] = {}
    for number, path, _ in read_rows(tsv):
        name = utterance_id(path)
        other = lines_of.setdefault(name, number)
        if other != number:
            raise UserError(
                f"{tsv} line {number}: duplicate utterance id {name}, already on line {other}; "
                "rename or remove one of the two files"
            )


def validate_labels(tsv: Path, labels: str, rows: int) -> None:
    """Raises UserError unless the label file has ``rows`` lines and its dictionary contains every symbol in them."""
    path, dictionary = tsv.with_suffix(f".{labels}"), tsv.with_name(f"dict.{labels}.txt")
    part = f"{tsv.stem}{LABELLED}"
    if kind_of(path) == "nothing" and kind_of(tsv.with_name(f"{part}.{labels}")) == "file":
        raise UserError(f"{path}: no such file; only the files in {part}.tsv are transcribed: use the split {part}")
    symbols = frozenset(read_dictionary(dictionary))
    number = 0
    for number, line in enumerate(read_lines(path, REMAKE), start=1):
        if not symbols.issuperset(line.split()):
            unknown = next(symbol for symbol in line.split() if symbol not in symbols)
            raise UserError(
                f"{path} line {number}: symbol {unknown!r} is not in {dictionary}; {REMAKE}, or add the symbol to it"
            )
    if number != rows:
        raise UserError(f"{path}: {number} lines for the {rows} rows of {tsv.name}; {REMAKE}")


def all_too_short(longest: int, shortest: int, name: str) -> str:
    """``name``: the setting with its value, as users write it."""
    return (
        f"every file is shorter than {name} ({shortest / SAMPLE_RATE:g} s); "
        f"the longest has {longest} samples; lower it, or use longer files"
    )
