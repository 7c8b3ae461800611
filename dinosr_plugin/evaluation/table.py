"""Tables: aligned for the terminal, and rows that are kept on the disk as they are measured."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError, printable
from ..files import read_record, write_files


class Column(NamedTuple):
    """A column: ``key`` of its values in a row, its ``header``, and ``spec``, the format as in an f-string."""

    key: str
    header: str
    spec: str = ""


def format_table(rows: Sequence[Mapping], columns: Sequence[tuple[str, str, str]]) -> str:
    """Rows as lines of aligned columns under a header and a rule; numbers right-aligned, text left-aligned.

    Args:
        rows: one mapping per row; a missing key or None prints as ``-``.
        columns: ``Column``s in order.
    """
    cells = [[_cell(row.get(key), spec) for key, _, spec in columns] for row in rows]
    headers = [header for _, header, _ in columns]
    widths = [max(map(len, column)) for column in zip(headers, *cells)]
    left = [all(isinstance(row.get(key), str | None) for row in rows) for key, _, _ in columns]
    lines = [headers, ["-" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(cell.ljust(w) if is_left else cell.rjust(w) for cell, w, is_left in zip(line, widths, left)).rstrip()
        for line in lines
    )


def filled(rows: Sequence[Mapping], columns: Sequence[Column]) -> list[Column]:
    """The columns of which at least one row has a value."""
    return [column for column in columns if any(row.get(column.key) is not None for row in rows)]


def _cell(value: Any, spec: str) -> str:
    return "-" if value is None else printable(value) if isinstance(value, str) else format(value, spec)


def best_row(rows: Sequence[Mapping], kinds: Sequence[str], key: str, better: Callable = max) -> Mapping | None:
    """The row of these kinds with the highest (``max``) or lowest (``min``) figure, the first of equals.

    None if no row has the figure.
    """
    candidates = (row for row in rows if row["kind"] in kinds and row.get(key) is not None)
    return better(candidates, key=lambda row: row[key], default=None)


def best_units(rows: Sequence[Mapping], kinds: Sequence[str]) -> Mapping | None:
    """The row of these kinds with the highest PNMI; without phones, the one whose units are used most evenly.

    None if there is no such row.
    """
    return best_row(rows, kinds, "pnmi") or best_row(rows, kinds, "perplexity")


def csv_lines(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    """The lines of a CSV file: the keys, then their values in each row; None is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, keys, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: row[key] for key in keys} for row in rows)
    return text.getvalue().splitlines()


@dataclass(frozen=True)
class Rows:
    """The file of a ``RowTable``."""

    digest: str
    rows: dict[str, dict[str, Any]]


class RowTable:
    """Rows by key, written to ``path`` after each new one, so that a run that was killed loses at most one row.

    Args:
        path: None: in memory only.
        digest: of everything that the rows depend on; rows of another digest, and a damaged file, are ignored.
    """

    def __init__(self, path: Path | None = None, digest: str = ""):
        self.path, self.digest = path, digest
        self.rows: dict[str, dict[str, Any]] = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            kept = read_record(self.path, Rows, "remove it") if self.path else Rows("", {})
        except UserError:
            return {}
        return kept.rows if kept.digest == self.digest else {}

    def get(self, key: str) -> dict[str, Any] | None:
        return self.rows.get(key)

    def add(self, key: str, row: dict[str, Any]) -> dict[str, Any]:
        """Keep a row, and return it. Raises UserError if the file cannot be written."""
        self.rows[key] = row
        if self.path:
            kept = {"digest": self.digest, "rows": self.rows}
            write_files(self.path.parent, {self.path.name: [json.dumps(kept, indent=1)]})
        return row
