"""Layers and codebooks of several models beside each other: a table for a page, of the figures of `dinosr quality`.

    python examples/dinosr/side_by_side.py DinoSR=dinosr/quality SpidR=spidr/quality

NAME=DIR: the name of a model in the table, and its folder of `dinosr quality CHECKPOINT --train ... --abx --out DIR`.
Each figure has a column for each model; the best of a row is bold.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from dinosr_plugin.errors import UserError
from dinosr_plugin.files import read_json

KINDS = ("mfcc", "layer", "teacher", "head")
"""The rows of the table, of those of `dinosr quality`."""
NAMES = {
    "mfcc": "k-means on MFCC",
    "layer": "k-means on layer",
    "teacher": "teacher, codebook",
    "head": "student's head",
}
USAGE = "usage: side_by_side.py NAME=DIR NAME=DIR..., folders of `dinosr quality CHECKPOINT --train ... --out DIR`"


class Figure(NamedTuple):
    """``key`` in a row, the ``header`` of its columns, its ``digits``, and ``best`` of several values."""

    key: str
    header: str
    digits: int
    best: Callable = min


FIGURES = (
    Figure("pnmi", "PNMI", 3, max),
    Figure("abx_within", "ABX of features, within (%)", 2),
    Figure("abx_across", "ABX of features, across (%)", 2),
    Figure("unit_abx_within", "ABX of units, within (%)", 2),
    Figure("unit_abx_across", "ABX of units, across (%)", 2),
)
Rows = Mapping[str, Mapping[str, Any]]


def read_rows(folder: Path) -> Rows:
    """Name of a row -> its figures. Raises UserError for anything but the output of `dinosr quality`."""
    path = folder / "quality.json"
    remedy = "give the folder that `dinosr quality CHECKPOINT --out` wrote"
    rows = read_json(path, remedy).get("rows")
    if not isinstance(rows, list) or not all(isinstance(row, dict) and {"name", "kind"} <= row.keys() for row in rows):
        raise UserError(f"{path}: has no rows of a checkpoint; {remedy}")
    return {row["name"]: row for row in rows if row["kind"] in KINDS}


def table(models: Mapping[str, Rows]) -> list[str]:
    """Lines of a Markdown table, without figures that no model has."""
    every = [row for rows in models.values() for row in rows.values()]
    used = [figure for figure in FIGURES if any(row.get(figure.key) is not None for row in every)]
    headers = ["units of", *(f"{figure.header}: {model}" for figure in used for model in models)]
    lines = [headers, ["---"] * len(headers)]
    for row in {row["name"]: row for row in every}.values():
        same = [rows.get(row["name"], {}) for rows in models.values()]
        index = "" if row.get("index") is None else f" {row['index']}"
        cells = (formatted(figure, [one.get(figure.key) for one in same]) for figure in used)
        lines.append([NAMES[row["kind"]] + index, *chain.from_iterable(cells)])
    return ["| " + " | ".join(line) + " |" for line in lines]


def formatted(figure: Figure, values: Sequence[float | None]) -> list[str]:
    """The values as text, the best in bold if they differ."""
    texts = ["-" if value is None else f"{value:.{figure.digits}f}".removeprefix("0") for value in values]
    numbers = [value for value in values if value is not None]
    best = figure.best(numbers) if len(set(texts)) > 1 and len(numbers) > 1 else None
    return [f"**{text}**" if best is not None and value == best else text for text, value in zip(texts, values)]


def main(arguments: Sequence[str]) -> None:
    pairs = [argument.partition("=") for argument in arguments]
    if not pairs or not all(name and folder for name, _, folder in pairs):
        raise UserError(USAGE)
    print("\n".join(table({name: read_rows(Path(folder)) for name, _, folder in pairs})))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
