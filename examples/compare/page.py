"""One page that compares the models of run.sh: OUT/page.html, layers.png and figures.csv.

    python examples/compare/page.py OUT

Models that are not complete are left out. For every purpose the page names the best model, and all others that are as
close to it as two seeds of DinoSR are to each other: differences of that size say nothing about the objective.
"""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from dinosr_plugin.checkpoints.file import read_fairseq_checkpoint
from dinosr_plugin.data.audio import SAMPLE_RATE
from dinosr_plugin.data.manifest import read_manifest
from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.plots import style
from dinosr_plugin.evaluation.table import Column, best_row, csv_lines, format_table
from dinosr_plugin.evaluation.web_page import Picture, Section, bullets, gallery, web_page
from dinosr_plugin.files import write_files


class Model(NamedTuple):
    """``stages``: folders of its trainings, the last one has the model; ``style``: of its line in pictures."""

    title: str
    short: str
    stages: tuple[str, ...]
    style: Mapping[str, Any]


BLUE = {"color": style.BLUE, "marker": "o"}
MODELS = {
    "dinosr_1": Model("DinoSR", "DinoSR", ("dinosr",), BLUE),
    "dinosr_2": Model(
        "DinoSR, second seed", "DinoSR", ("dinosr",), {**BLUE, "linestyle": (0, (4, 2)), "markerfacecolor": "white"}
    ),
    "spin": Model("Spin on DinoSR", "Spin", ("dinosr", "spin"), {"color": style.SKY, "marker": "D"}),
    "hubert": Model("HuBERT-style", "HuBERT", ("iteration1", "iteration2"), {"color": style.VERMILION, "marker": "s"}),
    "cpc": Model("CPC", "CPC", ("cpc",), {"color": style.GREEN, "marker": "^"}),
    "cpc_deepcluster": Model("CPC + DeepCluster", "CPC + DC", ("cpc", "round1"), {"color": style.BLACK, "marker": "v"}),
    "apc": Model("APC", "APC", ("apc",), {"color": style.ORANGE, "marker": "P"}),
    "mpc": Model("MPC", "MPC", ("mpc",), {"color": style.PURPLE, "marker": "X"}),
    "ssrl": Model("SSRL (speakers)", "SSRL", ("dino", "ssrl"), {"color": style.BROWN, "marker": "*"}),
}
SEEDS = ("dinosr_1", "dinosr_2")
BASELINES = {"mfcc": "MFCC", "fbank": "log-Mel", "untrained": "random weights"}
UNITS = (
    "layer",
    "output",
    "teacher",
    "codebook",
)  # kinds of rows whose units count; DinoSR's heads imitate its codebooks
# beginnings of the names of the parameters that features depend on, unlike those of heads, predictors and codebooks
ENCODER = ("encoder.", "context.", "post_extract_proj.", "student.encoder.")
Row = dict[str, Any]


class Figure(NamedTuple):
    """A column of the table. ``better``: max or min; None: no value is the best one."""

    key: str
    name: str
    unit: str
    spec: str
    better: Callable | None = None


FIGURES = (
    Figure("pnmi", "units", "PNMI", ".3f", max),
    Figure("speaker_pnmi", "voice in", "these units", ".3f", min),
    Figure("unit_abx", "units’ ABX", "across, %", ".1f", min),
    Figure("abx_across", "ABX", "across, %", ".1f", min),
    Figure("abx_within", "ABX", "within, %", ".1f", min),
    Figure("phone", "phones", "accuracy", ".3f", max),
    Figure("word", "words", "accuracy", ".3f", max),
    Figure("f0", "F0", "R²", ".2f", max),
    Figure("energy", "energy", "R²", ".2f", max),
    Figure("speaker", "speaker", "accuracy", ".3f", max),
    Figure("cer", "CER", "10 min, %", ".1f", min),
    Figure("wer", "WER", "10 min, %", ".1f", min),
    Figure("parameters", "size", "million", ".2f"),
    Figure("updates", "updates", "", "d"),
    Figure("minutes", "training", "minutes", ".1f"),
)
TASKS = ("phone", "word", "f0", "energy", "speaker")


class Purpose(NamedTuple):
    """A tile of the page: which model to take for what. ``key``: the figure that decides."""

    key: str
    title: str
    measure: str


PURPOSES = (
    Purpose("pnmi", "For discrete units", "phone information of 64 units (PNMI)"),
    Purpose("abx_across", "For features that ignore the speaker", "ABX error across speakers, %"),
    Purpose("phone", "For a linear phone classifier", "frames of unseen speakers that are right"),
    Purpose("word", "For spotting words", "segments of 100 words that are right"),
    Purpose("cer", "For a recogniser from 10 minutes of labels", "character error rate, %"),
    Purpose("f0", "For the pitch", "explained variance of log F0"),
)


# ---- figures ---------------------------------------------------------------------------------------------------------


def read_rows(out: Path, model: str, what: str) -> list[Row]:
    """The rows in OUT/MODEL/quality/quality.json or probes/probes.json; none if there is no such file."""
    path = out / model / what / f"{what}.json"
    return json.loads(path.read_text())["rows"] if path.is_file() else []


def unit_figures(rows: Sequence[Mapping], kinds: Sequence[str]) -> Row:
    """Of the units with the highest PNMI, and of the features with the lowest ABX error, among rows of these kinds."""
    units = best_row(rows, kinds, "pnmi") or {}
    found = {"pnmi": units.get("pnmi"), "speaker_pnmi": units.get("speaker_pnmi"), "units": units.get("name")}
    found["unit_abx"] = units.get("unit_abx_across")
    for key in ("abx_across", "abx_within"):
        found[key] = (best_row(rows, kinds, key, min) or {}).get(key)
    return found


def probe_figures(rows: Sequence[Mapping], kinds: Sequence[str]) -> Row:
    return {task: (best_row(rows, kinds, task) or {}).get(task) for task in TASKS}


def error_rates(out: Path, model: str) -> Row:
    """In percent; empty without a recogniser."""
    path = out / model / "recogniser/dev.txt"
    text = path.read_text() if path.is_file() else ""
    found = {name: re.search(rf"\b{name.upper()}:? *([\d.]+)", text) for name in ("cer", "wer")}
    return {name: match and float(match[1]) for name, match in found.items()}


def training_figures(out: Path, model: str) -> Row:
    """Minutes and updates of all stages, and the size of the encoder: without heads, predictors and teachers."""
    seconds, updates = 0.0, 0
    for stage in MODELS[model].stages:
        state = read_fairseq_checkpoint(out / model / stage / "checkpoint_last.pt")
        seconds += state["extra_state"]["previous_training_time"]
        updates += state["optimizer_history"][-1]["num_updates"]
    size = sum(values.numel() for name, values in state["model"].items() if name.startswith(ENCODER))
    return {"parameters": size / 1e6, "updates": updates, "minutes": seconds / 60}


def model_row(out: Path, model: str) -> Row:
    quality, probes = (read_rows(out, model, what) for what in ("quality", "probes"))
    return {
        "key": model,
        "name": MODELS[model].title,
        "short": MODELS[model].short,
        **unit_figures(quality, UNITS),
        **probe_figures(probes, ("layer", "embedding")),
        **error_rates(out, model),
        **training_figures(out, model),
    }


def baseline_rows(out: Path) -> list[Row]:
    """MFCC, log-Mel and random weights, as measured beside the first model; its recogniser from random weights."""
    quality, probes = (read_rows(out, SEEDS[0], what) for what in ("quality", "probes"))
    rows: list[Row] = [
        {"key": kind, "name": name, "short": name, **unit_figures(quality, (kind,)), **probe_figures(probes, (kind,))}
        for kind, name in BASELINES.items()
    ]
    rows[-1] |= error_rates(out, "scratch")
    return rows


def complete(out: Path) -> list[str]:
    """The models that have been measured. Raises UserError if there are none."""
    found = [model for model in MODELS if (out / model / "probes/probes.json").is_file()]
    if not found:
        raise UserError(f"{out}: no model has been measured; run examples/compare/run.sh CORPUS {out}")
    return found


def seed_gaps(rows: Sequence[Mapping]) -> dict[str, float]:
    """Figure that has a best value -> difference between the two seeds of DinoSR; 0 if one of them lacks it."""
    of = {row["key"]: row for row in rows}
    first, second = (of.get(seed, {}) for seed in SEEDS)
    pairs = {one.key: (first.get(one.key), second.get(one.key)) for one in FIGURES if one.better}
    return {key: 0.0 if a is None or b is None else abs(a - b) for key, (a, b) in pairs.items()}


def leaders(rows: Sequence[Mapping], figure: Figure, gap: float) -> list[Mapping]:
    """The rows that are as good as the best one up to ``gap``, the best one first."""
    if not figure.better:
        return []
    scored = sorted((row for row in rows if row.get(figure.key) is not None), key=lambda row: row[figure.key])
    scored = scored[::-1] if figure.better is max else scored
    return [row for row in scored if abs(row[figure.key] - scored[0][figure.key]) <= gap]


# ---- pictures --------------------------------------------------------------------------------------------------------

PANELS = (  # figure of a row, which file has it, title, axis
    ("pnmi", "quality", "k-means (64) on each layer", "PNMI"),
    ("abx_across", "quality", "ABX error across speakers", "%"),
    ("phone", "probes", "phones, linear classifier", "accuracy"),
    ("word", "probes", "words, linear classifier", "accuracy"),
    ("f0", "probes", "F0, linear regression", "R²"),
    ("speaker_pnmi", "quality", "voice in the units", "speaker PNMI"),
)


def draw_layers(out: Path, models: Sequence[str]) -> Path:
    """A panel for each figure: a line for each model, over its layers from the first to the last."""
    read = {(model, what): read_rows(out, model, what) for model in models for what in ("quality", "probes")}
    figure = style.figure(13, 8.2)
    for axes, (key, what, title, unit) in zip(figure.subplots(2, 3).flat, PANELS):
        for model in models:
            layers = [row for row in read[model, what] if row["kind"] == "layer" and row.get(key) is not None]
            x = [row["index"] / max(1, len(layers) - 1) for row in layers]
            axes.plot(x, [row[key] for row in layers], label=MODELS[model].title, markersize=5, **MODELS[model].style)
        for kind, dashes in (("mfcc", (0, (6, 2))), ("fbank", (0, (1, 1.5)))):
            row = best_row(read.get((SEEDS[0], what), []), [kind], key)
            if row:
                axes.axhline(row[key], color=style.GREY, linestyle=dashes, label=BASELINES[kind])
        style.label(axes, title, "", unit)
        axes.set_xticks([0, 1], ["first layer", "last layer"])
    handles = dict(zip(*reversed(axes.get_legend_handles_labels())))
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=5, frameon=False)
    return style.save(figure, out / "layers.png")


# ---- the page --------------------------------------------------------------------------------------------------------


def tile(rows: Sequence[Mapping], purpose: Purpose, gaps: Mapping[str, float]) -> tuple[str, str, str] | None:
    """The best model or models, and the figures of all models and baselines from the best to the worst one."""
    figure = next(one for one in FIGURES if one.key == purpose.key)
    ranked = leaders(rows, figure, float("inf"))
    first = [row["short"] for row in leaders(rows, figure, gaps[figure.key])]
    if not first:
        return None
    figures = " · ".join(f"{row['short']} {row[figure.key]:{figure.spec}}" for row in ranked)
    return escape(purpose.title), escape(", ".join(dict.fromkeys(first))), f"{purpose.measure}. {figures}"


def table(rows: Sequence[Mapping], gaps: Mapping[str, float]) -> str:
    shown = [one for one in FIGURES if any(row.get(one.key) is not None for row in rows)]
    marked = {one.key: [row["key"] for row in leaders(rows, one, gaps.get(one.key, 0.0))] for one in shown}
    header = "".join(f"<th scope=col>{one.name}<br><small>{one.unit}</small></th>" for one in shown)
    lines = [f"<div class=table><table>\n<thead><tr><th scope=col></th>{header}</tr></thead><tbody>"]
    for row in rows:
        cells = "".join(cell(row, one, row["key"] in marked[one.key]) for one in shown)
        lines.append(f"<tr><th scope=row>{escape(row['name'])}</th>{cells}</tr>")
    return "\n".join([*lines, "</tbody></table></div>"])


def cell(row: Mapping, figure: Figure, leads: bool) -> str:
    if row.get(figure.key) is None:
        return "<td>-</td>"
    value = f"{row[figure.key]:{figure.spec}}"
    return f"<td class=best>&#9733;&nbsp;{value}</td>" if leads else f"<td>{value}</td>"


LEGEND = (
    "&#9733; best, or as close to the best as the two seeds of DinoSR are to each other. Every figure of a layer is "
    "that of the model’s best layer on the test speech."
)
TEXTS = {  # section -> title and text (HTML)
    "table": (
        "All figures",
        "Units are those with the most phone information: k-means with 64 clusters on a layer, or the model’s own "
        "codebook. Voice: what the units still say about the speaker (PNMI); lower is better. ABX: the share of "
        "triples of phones in which the wrong one is closer; lower is better. Phones, words: share of correct answers "
        "of a linear classifier on the frozen layer. F0, energy: variance that a linear regression explains. CER, WER: "
        "best path, no language model. Size: the encoder alone.",
    ),
    "layers": (
        "Where in the model it is",
        "One line for each model, from its first to its last layer. Dashed: MFCC, dotted: log-Mel. For ABX and for "
        "the voice, lower is better.",
    ),
    "similarity": (
        "How alike the models are",
        "Linear CKA of the frames of the test speech: 1 means equal up to rotation and scale. First the last layers, "
        "then all layers. The two seeds of DinoSR show how alike two models with the same objective are.",
    ),
    "conventions": ("How it was measured", ""),
}


def conventions(out: Path, rows: Sequence[Mapping], gaps: Mapping[str, float]) -> list[str]:
    about = json.loads((out / SEEDS[0] / "probes/probes.json").read_text())["about"]
    hours = sum(row.samples for row in read_manifest(out / "data/train.tsv").utterances) / SAMPLE_RATE / 3600
    minutes = [row["minutes"] for row in rows if row["minutes"]]
    lines = [
        f"Training: {hours:.2f} h, {about['train_speakers']} speakers, no labels. The numbers of updates were chosen "
        "so that all models take the same time on an idle core. The table has the time that passed, with all stages: "
        f"{min(minutes):.0f} to {max(minutes):.0f} minutes, which depends on what else the machine did.",
        f"Test: {about['test_hours']:.2f} h, {about['test_speakers']} other speakers. No setting was chosen on them, "
        "but the best layer of each figure was.",
        f"Probes: fitted on {about['train_hours']:.2f} h, at most {about['examples']} examples, L2 penalty chosen on "
        f"{about['penalty_chosen_on']}; the speaker probe is fitted and measured on different utterances of the test "
        "speakers, on the mean over an utterance.",
        "Recognisers: CTC on letters, every tenth training utterance (ten minutes), the same updates and learning rate "
        "for all; “random weights” is DinoSR’s architecture without pre-training.",
        "The commands: examples/compare/run.sh. What each figure is: dinosr quality, abx, probe, similarity --help.",
    ]
    if differences := [f"{one.name} {one.unit} {gaps[one.key]:{one.spec}}" for one in FIGURES if gaps.get(one.key)]:
        lines.append(f"Differences between the two seeds of DinoSR: {', '.join(differences)}.")
    return lines


def notes(rows: Sequence[Mapping]) -> list[str]:
    found = [
        "Small models after minutes of training: they show what the objectives favour, not what the published models "
        "reach. One seed each, two for DinoSR."
    ]
    speaker = [row["speaker"] for row in rows if row["key"] in MODELS and row.get("speaker") is not None]
    if speaker and min(speaker) > 0.95:
        found.append(
            "The speaker probe does not separate the models: whole utterances of a few test speakers are too easy for "
            "all of them. For SSRL see examples/ssrl."
        )
    return found


def write_page(out: Path) -> list[Path]:
    models = complete(out)
    trained = [model_row(out, model) for model in models]
    gaps = seed_gaps(trained)
    columns = ["key", "name", "short", "units", *(one.key for one in FIGURES)]
    rows = [dict.fromkeys(columns) | row for row in [*trained, *baseline_rows(out)]]
    bodies = {
        "table": f"{table(rows, gaps)}\n<p>{LEGEND}</p>",
        "layers": gallery(
            [Picture(draw_layers(out, [one for one in models if one != "ssrl"]), "Figures over layers", wide=True)]
        ),
        "conventions": bullets(conventions(out, rows, gaps)),
    }
    maps = [out / "similarity" / "cka.png", out / "similarity_layers" / "cka.png"]
    if all(path.is_file() for path in maps):
        bodies["similarity"] = gallery([Picture(path, "Heat map of linear CKA", wide=True) for path in maps])
    tiles = [found for purpose in PURPOSES if (found := tile(rows, purpose, gaps))]
    sections = [Section(key, *TEXTS[key], bodies[key]) for key in TEXTS if key in bodies]
    head = f"{len(models)} small models, the same audio and about the same minutes of training for each"
    page = web_page("Which objective for what?", head, notes(rows), tiles, sections)
    write_files(out, {"page.html": [page], "figures.csv": csv_lines(rows, columns)})
    shown = [Column("name", "model"), *(Column(one.key, f"{one.name} {one.unit}".strip(), one.spec) for one in FIGURES)]
    print(format_table(rows, shown))
    return [out / "page.html", out / "layers.png", out / "figures.csv"]


if __name__ == "__main__":
    try:
        print(*write_page(Path(sys.argv[1])), sep="\n")
    except UserError as error:
        sys.exit(str(error))
