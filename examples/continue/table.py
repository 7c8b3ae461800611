"""What a model of English learned and forgot when it went on with Spanish: python table.py OUT MEASURED NAME [...]

OUT is the folder of run.sh, MEASURED that of its measures, NAMEs are the models, in the order of the table. Prints
their losses on both languages at the start and in the end, the PNMI of the best codebook and the ABX error of features;
draws OUT/losses.png.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dinosr_plugin.evaluation.plots.style import CATEGORY_COLOURS, GREY, SKY, figure, label, save
from dinosr_plugin.evaluation.table import Column, filled, format_table
from dinosr_plugin.evaluation.training_log import loss_curve, read_training_log

LANGUAGES = ("spanish", "english")
COLOURS = (*CATEGORY_COLOURS, SKY, GREY)


def columns() -> list[Column]:
    """For each figure both languages, side by side."""
    figures = {"start": ("loss at start", ".3f"), "end": ("at end", ".3f")}
    figures |= {"pnmi": ("PNMI", ".3f"), "within": ("ABX within", ".2%"), "across": ("across", ".2%")}
    return [
        Column("name", "model"),
        *(
            Column(f"{language}_{key}", f"{language}: {text}" if key == "start" else text, spec)
            for language in LANGUAGES
            for key, (text, spec) in figures.items()
        ),
    ]


def losses(out: Path, name: str, language: str) -> list[tuple[int, float]]:
    """(update, loss on masked frames) of the validations; [] for the model before."""
    log = out / "runs" / name / "training.log"
    return loss_curve(read_training_log(log, language)) if log.is_file() else []


def figures_of(out: Path, measured: Path, name: str, language: str) -> dict[str, Any]:
    """Keys without the language -> values; those that were not measured are missing."""
    found: dict[str, Any] = {}
    if curve := losses(out, name, language):
        found |= {"start": curve[0][1], "end": curve[-1][1]}
    units = measured / "units" / language / name / "quality.json"
    if units.is_file():
        rows = json.loads(units.read_text())["rows"]
        found["pnmi"] = max(row["pnmi"] for row in rows if row["kind"] == rows[0]["kind"])
    errors = measured / "abx" / language / "abx.json"
    if errors.is_file():
        row = next(row for row in json.loads(errors.read_text())["rows"] if Path(row["name"]).name == name)
        found |= {key: row[key] for key in ("within", "across")}
    return found


def draw(out: Path, names: Sequence[str]) -> Path:
    """Losses over updates, a panel for each language, with the same axis."""
    drawn = figure(width=9, height=3.6)
    panels = drawn.subplots(1, len(LANGUAGES), sharey=True)
    for axes, language in zip(panels, LANGUAGES):
        for name, colour in zip(names, COLOURS):
            if curve := losses(out, name, language):
                axes.plot(*zip(*curve), color=colour, label=name, marker="o", markersize=2.5)
        label(axes, f"{language.capitalize()}, validation", "updates", "nats per masked frame")
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return save(drawn, out / "losses.png")


def main(folder: str, measured: str, *names: str) -> None:
    out = Path(folder)
    rows = []
    for name in names:
        row: dict[str, Any] = {"name": name}
        for language in LANGUAGES:
            row |= {
                f"{language}_{key}": value for key, value in figures_of(out, Path(measured), name, language).items()
            }
        rows.append(row)
    print(format_table(rows, filled(rows, columns())))
    print(draw(out, [name for name in names if name != "before"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
