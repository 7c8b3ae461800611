"""Tables, files and pictures of similarities."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import printable
from ...files import output, write_bytes, write_files
from ..measures.similarity.measure import MEASURES
from ..plots.similarity import plot_similarity
from ..table import Column, csv_lines, format_table
from .pairs import Similarity

COLUMNS = ("measure", "a", "b", "value", "low", "high", "std")  # of the CSV file


def tables(similarity: Similarity) -> str:
    """For the terminal: a matrix for each measure, its columns numbered if there are many; one table for a pair."""
    plan = similarity.plan
    if len(plan.rows) == 1 or plan.rows == plan.columns and len(plan.rows) == 2:
        return pair_table(similarity)
    parts = [matrix(similarity, name) for name in plan.measures]
    numbers = "\n".join(f"{number}: {name}" for number, name in enumerate(plan.columns))
    return "\n\n".join([*parts, f"columns\n{numbers}"])


def pair_table(similarity: Similarity) -> str:
    """Of two representations: measures as rows."""
    rows = [row | {"title": MEASURES[row["measure"]].title} for row in rows_of(similarity) if row["a"] != row["b"]]
    shown = [row for row in rows if row["a"] == similarity.plan.rows[0] or not MEASURES[row["measure"]].symmetric]
    columns = [Column("measure", "measure"), Column("a", "of"), Column("b", "with"), Column("value", "value", ".4f")]
    columns += [
        Column(key, header, ".4f")
        for key, header in (("low", "95 % from"), ("high", "to"), ("std", "deviation"))
        if any(row[key] is not None for row in shown)
    ]
    return format_table(shown, [*columns, Column("title", "name")])


def matrix(similarity: Similarity, name: str) -> str:
    """Rows and numbered columns of one measure."""
    plan, values = similarity.plan, similarity.values[name]
    columns = [Column("name", f"{name}: {MEASURES[name].title}")]
    columns += [Column(str(number), str(number), ".3f") for number in range(len(plan.columns))]
    over = similarity.over_models if name == "maxcorr" else {}
    if over:
        columns += [Column("max", "maxcorr", ".3f"), Column("min", "mincorr", ".3f")]
    rows = [
        {"name": row, **{str(j): number(value) for j, value in enumerate(of_row)}, **over.get(row, {})}
        for row, of_row in zip(plan.rows, values)
    ]
    return format_table(rows, columns)


# ---- files -----------------------------------------------------------------------------------------------------------


def write_similarity(out: Path, similarity: Similarity) -> list[Path]:
    """``similarity.json``, ``similarity.csv`` and a heat map for each measure, ``MEASURE.png``, in folder ``out``.

    With intervals also ``draws.npz``, which has the values of the resamples, (draws, rows, columns) of each measure:
    for intervals of differences and means of similarities.
    """
    write_files(
        out,
        {
            "similarity.json": [json.dumps(figures(similarity), indent=1)],
            "similarity.csv": csv_lines(rows_of(similarity), COLUMNS),
        },
    )
    kind_of = {one.name: one.kind for one in similarity.representations}
    pictures = [
        plot_similarity(
            values,
            [printable(row) for row in similarity.plan.rows],
            [printable(column) for column in similarity.plan.columns],
            [kind_of[row] for row in similarity.plan.rows],
            [kind_of[column] for column in similarity.plan.columns],
            f"{MEASURES[name].title} ({'frames' if similarity.plan.level == 'frames' else 'means of utterances'})",
            out / f"{name}.png",
        )
        for name, values in similarity.values.items()
    ]
    written = [out / "similarity.json", out / "similarity.csv", *pictures]
    if similarity.draws:
        archive = io.BytesIO()
        np.savez(archive, **similarity.draws)  # type: ignore[arg-type]  # names of arrays, not options
        with output(out / "draws.npz") as unfinished:
            write_bytes(unfinished, archive.getvalue())
        written.append(out / "draws.npz")
    return written


def figures(similarity: Similarity) -> dict[str, Any]:
    """For JSON."""
    plan = similarity.plan
    return {
        "level": plan.level,
        "n": similarity.n,
        "every": similarity.every,
        "utterances": similarity.utterances,
        "hours": similarity.hours,
        "bootstrap": plan.bootstrap,
        "representations": [
            {
                **{key: getattr(one, key) for key in ("name", "model", "kind", "width")},
                "rate": one.timing and one.timing.rate,
                "constant_dimensions": similarity.dead[one.name],
            }
            for one in similarity.representations
        ],
        "rows": list(plan.rows),
        "columns": list(plan.columns),
        "measures": {
            name: {
                "title": MEASURES[name].title,
                **{
                    key: [[number(value) for value in row] for row in of_measure[name]]
                    for key, of_measure in (
                        ("values", similarity.values),
                        ("low", similarity.low),
                        ("high", similarity.high),
                        ("std", similarity.std),
                    )
                    if name in of_measure
                },
            }
            for name in plan.measures
        },
        "neurons_over_models": {row: dict(of_row) for row, of_row in similarity.over_models.items()},
        "notes": list(similarity.notes),
    }


def rows_of(similarity: Similarity) -> list[dict[str, Any]]:
    """One row for each measure and ordered pair, by ``COLUMNS``."""
    rows, low, high = [], similarity.low, similarity.high
    for name, values in similarity.values.items():
        for i, a in enumerate(similarity.plan.rows):
            for j, b in enumerate(similarity.plan.columns):
                extra = {
                    key: number(of_measure[name][i, j]) if name in of_measure else None
                    for key, of_measure in (("low", low), ("high", high), ("std", similarity.std))
                }
                rows.append({"measure": name, "a": a, "b": b, "value": number(values[i, j]), **extra})
    return rows


def number(value: float) -> float | None:
    """For tables and files; None instead of NaN."""
    return None if np.isnan(value) else float(value)
