"""Pictures of what a model learned: codes against phones, curves over training, and one summary page.

Colours are Okabe and Ito's for categories, viridis for an ordered set and magma for shares: all readable
with the common colour-vision deficiencies. matplotlib is imported late, since most commands draw nothing.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from .phones import class_order, phone_class

BLUE, ORANGE, GREEN, VERMILION, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
CATEGORY_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE)
BASELINE_COLOURS = ("#000000", "#8C5109", "#6E6E6E", PURPLE)
BASELINE_DASHES = ((0, (6, 2)), (0, (6, 2, 1, 2)), (0, (1, 1.5)), (0, (3, 1)))

CODEBOOK_PANELS = (  # key of Quality, title, unit, whether a baseline says anything there
    ("active", "Active codes", "codes that occur", False),
    ("perplexity", "Perplexity of the codes", "effective number of codes", False),
    ("phone_purity", "Phone purity", "share of frames", True),
    ("pnmi", "PNMI: phone information in the codes", "I(phone; code) / H(phone)", True),
)

Curve = Sequence[tuple[int, float]]  # (update, value)


def plot_code_by_phone(counts: np.ndarray, phone_names: Sequence[str], path: str | Path, title: str) -> Path:
    """Heat map of P(phone | code): one column a code that occurs, sorted by its majority phone; one row a phone.

    Args:
        counts: (n_phones, n_codes) frame counts as from ``quality.contingency``.
        phone_names: (n_phones,) names of the rows.
        path: picture to write (png, pdf or svg by suffix); returned.
    """
    figure = _figure(width=11, height=7.5)
    _draw_code_by_phone(figure.subplots(), counts, phone_names, title)
    return _save(figure, path)


def plot_curves(
    history: Sequence[Mapping], path: str | Path, baselines: Mapping[str, Mapping] | None = None, title: str = "Training"
) -> Path:
    """Small multiples over updates: loss, active codes, perplexity, phone purity and PNMI of every codebook.

    Args:
        history: measurements in order, each ``{"updates": int, "loss": nats a frame or None,
            "teacher": [Quality.as_dict() a codebook, lowest layer first], "student": the same of the heads' argmax}``;
            ``teacher`` and ``student`` may be missing or empty.
        path: picture to write; returned.
        baselines: name -> ``Quality.as_dict()``, drawn as horizontal lines, for example MFCC k-means.
    """
    figure = _figure(width=13, height=7.5)
    figure.suptitle(title, fontsize=14)
    panels = figure.subplots(2, 3)
    _draw_loss_and_entropy(panels[0, 0], history)
    for panel, (key, heading, unit, has_baselines) in zip(panels.flat[1:5], CODEBOOK_PANELS):
        _draw_codebooks(panel, history, key, baselines or {} if has_baselines else {})
        _label(panel, heading, "updates", unit)
    for panel in panels.flat[:-1]:
        if not panel.lines:
            _say_not_measured(panel, panel.get_title())
    _draw_curves_legend(panels[1, 2], history, baselines or {})
    return _save(figure, path)


def plot_summary(
    path: str | Path,
    loss_curve: Curve,
    codebooks: Sequence[Mapping],
    baselines: Mapping[str, Mapping],
    counts: np.ndarray | None,
    phone_names: Sequence[str],
    wer_curves: Mapping[str, Curve],
    wer: Mapping[str, float],
) -> Path:
    """One page: pre-training loss, PNMI of each codebook, what the best codebook's codes mean, and word error rates.

    Args:
        path: picture to write; returned.
        loss_curve: (update, nats a frame).
        codebooks: ``Quality.as_dict()`` of each codebook, lowest layer first.
        baselines: name -> ``Quality.as_dict()``, drawn as horizontal lines.
        counts: (n_phones, n_codes) of the best codebook, with the names of its rows in ``phone_names``.
        wer_curves: name (pre-trained, from scratch) -> (fine-tuning update, WER in per cent on dev).
        wer: name -> WER in per cent of the final decoding.

    A part that is None or empty leaves a panel that says so.
    """
    figure = _figure(width=13, height=13)
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=(1, 1.9, 1))
    loss_panel, pnmi_panel = top.subplots(1, 2, width_ratios=(1, 1.3))
    curve_panel, bar_panel = bottom.subplots(1, 2, width_ratios=(1.3, 1))
    _draw_or_say(loss_panel, _draw_loss, loss_curve, "Pre-training loss")
    _draw_or_say(pnmi_panel, _draw_pnmi_bars, codebooks, "Phone information in each codebook", baselines or {})
    heading = "What the codes mean" + (f": codebook {_best(codebooks)}, the one with the highest PNMI" if codebooks else "")
    if counts is None or not np.any(counts):
        _say_not_measured(middle.subplots(), heading)
    else:
        _draw_code_by_phone(middle.subplots(), counts, phone_names, heading)
    _draw_or_say(curve_panel, _draw_wer_curves, wer_curves, "Word error rate during fine-tuning (dev)")
    _draw_or_say(bar_panel, _draw_wer_bars, wer, "Word error rate after fine-tuning")
    return _save(figure, path)


def _figure(width: float, height: float):
    """A figure outside pyplot: Agg canvas, no window, no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure, path: str | Path) -> Path:
    """Write beside the target and rename: a reader never sees half a picture."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        figure.savefig(unfinished, dpi=120)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _label(axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.locator_params(axis="x", nbins=6)


def _draw_or_say(axes, draw, data, title: str, *rest) -> None:
    if data:
        draw(axes, data, title, *rest)
    else:
        _say_not_measured(axes, title)


def _say_not_measured(axes, title: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.text(0.5, 0.5, "not measured", ha="center", va="center", color="0.5", transform=axes.transAxes)
    axes.set_axis_off()


# ---- codes against phones


def code_order(counts: np.ndarray, row_order: np.ndarray) -> np.ndarray:
    """Codes that occur, sorted by the place of their majority phone in ``row_order``, the purest first within a phone.

    A tie between two majority phones goes to the one that comes first in ``row_order``.
    """
    ordered = counts[row_order]  # (n_phones, n_codes)
    used = np.flatnonzero(ordered.sum(axis=0))
    majority = ordered[:, used].argmax(axis=0)  # (n_used,)
    purity = ordered[:, used].max(axis=0) / ordered[:, used].sum(axis=0)
    return used[np.lexsort((-purity, majority))]


def _draw_code_by_phone(axes, counts: np.ndarray, phone_names: Sequence[str], title: str) -> None:
    from matplotlib.colors import PowerNorm

    counts = np.asarray(counts)
    rows = class_order(phone_names)
    columns = code_order(counts, rows)
    table = counts[np.ix_(rows, columns)]  # (n_phones, n_used), rows and columns sorted
    share = table / np.maximum(table.sum(axis=0), 1)  # P(phone | code); without any code the table is empty
    # the power spreads the small shares a little: confusions within a class stay visible
    image = axes.imshow(share, aspect="auto", interpolation="nearest", cmap="magma_r", norm=PowerNorm(0.7, 0, 1))
    bar = axes.figure.colorbar(image, ax=axes, pad=0.01, ticks=(0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0))
    bar.set_label("P(phone | code): share of the code's frames")
    _label(
        axes,
        f"{title}\n{len(columns)} of {counts.shape[1]} codes occur; columns sorted by their most frequent phone",
        "codes (one column each), grouped by the class of their most frequent phone",
        "phones by class",
    )
    axes.set_yticks(range(len(rows)), [phone_names[i] for i in rows], fontsize=8)
    axes.set_xticks([])
    classes = [phone_class(phone_names[i]) for i in rows]
    _draw_class_grid(axes, classes, [classes[row] for row in table.argmax(axis=0)] if len(columns) else [])


def _draw_class_grid(axes, row_classes: list[str], column_classes: list[str]) -> None:
    """Lines between classes, and the names of the column groups under the axis: of narrow groups on lines of their own."""
    for start, _, _ in _runs(row_classes)[1:]:
        axes.axhline(start - 0.5, color="0.45", linewidth=0.8)
    line = 0
    for start, end, name in _runs(column_classes):
        axes.axvline(start - 0.5, color="0.45", linewidth=0.8)
        narrow = end - start < 0.008 * len(name) * len(column_classes)  # a letter takes about 0.8 % of the width
        line = (2 if line == 1 else 1) if narrow else 0  # narrow neighbours take turns
        place = dict(xy=((start + end - 1) / 2, 0), xycoords=("data", "axes fraction"), textcoords="offset points")
        arrow = dict(arrowstyle="-", color="0.45", linewidth=0.8) if narrow else None
        axes.annotate(name, xytext=(0, -4 - 11 * line), ha="center", va="top", fontsize=8, arrowprops=arrow, **place)
    axes.xaxis.labelpad = 36


def _runs(labels: list[str]) -> list[tuple[int, int, str]]:
    """Runs of equal neighbours as (start, end, label)."""
    edges = [i for i in range(len(labels)) if i == 0 or labels[i] != labels[i - 1]] + [len(labels)]
    return [(start, end, labels[start]) for start, end in zip(edges, edges[1:])]


# ---- curves over training


def _draw_loss_and_entropy(axes, history: Sequence[Mapping]) -> None:
    losses = [(row["updates"], row["loss"]) for row in history if row.get("loss") is not None]
    entropies = [(row["updates"], _mean_entropy(row["teacher"])) for row in history if row.get("teacher")]
    if losses:
        axes.plot(*zip(*losses), color=BLUE, label="training loss (student)")
    if entropies:
        label = "entropy of the codes: loss of a\nguess by frequency alone"
        axes.plot(*zip(*entropies), color=VERMILION, linestyle=(0, (5, 2)), label=label)
    _label(axes, "Loss against the entropy of the codes", "updates", "nats a frame, mean over codebooks")
    if losses or entropies:
        axes.legend(fontsize=8, frameon=False)


def _mean_entropy(codebooks: Sequence[Mapping]) -> float:
    """Nats; perplexity is 2 ** (entropy in bits) = e ** (entropy in nats)."""
    return float(np.mean([np.log(quality["perplexity"]) for quality in codebooks]))


def _draw_codebooks(axes, history: Sequence[Mapping], key: str, baselines: Mapping[str, Mapping]) -> None:
    """One colour a codebook; teacher solid, student dashed; baselines as horizontal lines."""
    for who, linestyle in (("teacher", "-"), ("student", (0, (4, 2)))):
        rows = [row for row in history if row.get(who)]
        updates = [row["updates"] for row in rows]
        for codebook, colour in enumerate(_codebook_colours(history)):
            values = [row[who][codebook][key] for row in rows]
            axes.plot(updates, values, color=colour, linestyle=linestyle, linewidth=1.2)
    _draw_baselines(axes, baselines, key)
    if key in ("active", "perplexity"):  # from 0, so that a collapse looks like one; the shares differ too little for that
        axes.set_ylim(bottom=0)
    else:
        axes.margins(y=0.12)


def _draw_baselines(axes, baselines: Mapping[str, Mapping], key: str) -> list:
    """Horizontal lines, each a shade and a dash of its own; returns them for a legend."""
    styles = zip(baselines.items(), BASELINE_COLOURS, BASELINE_DASHES)
    return [
        axes.axhline(quality[key], color=colour, linestyle=dashes, linewidth=1.3, label=f"{name} ({quality[key]:.2f})")
        for (name, quality), colour, dashes in styles
    ]


def _codebook_colours(history: Sequence[Mapping]) -> np.ndarray:
    """(codebooks, 4), dark for the lowest layer to light for the highest; the pale end of viridis is left out."""
    from matplotlib import colormaps

    n_codebooks = max((len(row.get(who) or ()) for row in history for who in ("teacher", "student")), default=0)
    return colormaps["viridis"](np.linspace(0.05, 0.88, n_codebooks))


def _draw_curves_legend(axes, history: Sequence[Mapping], baselines: Mapping[str, Mapping]) -> None:
    """The sixth panel says what the lines of the other five are."""
    from matplotlib.lines import Line2D

    colours = _codebook_colours(history)
    ends = {0: " (lowest layer)", len(colours) - 1: " (highest layer)"}
    lines = [Line2D([], [], color=colour, label=f"codebook {i}{ends.get(i, '')}") for i, colour in enumerate(colours)]
    lines += [Line2D([], [], color="0.2", label="solid: the teacher's codes")]
    lines += [Line2D([], [], color="0.2", linestyle=(0, (4, 2)), label="dashed: the student heads' guesses")]
    lines += [
        Line2D([], [], color=colour, linestyle=dashes, label=f"{name}: PNMI {quality['pnmi']:.3f}")
        for (name, quality), colour, dashes in zip(baselines.items(), BASELINE_COLOURS, BASELINE_DASHES)
    ]
    axes.legend(handles=lines, loc="center left", fontsize=9, frameon=False, handlelength=3.2)
    axes.set_axis_off()


# ---- panels of the summary


def _draw_loss(axes, curve: Curve, title: str) -> None:
    axes.plot(*zip(*curve), color=BLUE)
    _label(axes, title, "pre-training updates", "nats a frame")


def _best(codebooks: Sequence[Mapping]) -> int:
    return int(np.argmax([quality["pnmi"] for quality in codebooks]))


def _draw_pnmi_bars(axes, codebooks: Sequence[Mapping], title: str, baselines: Mapping[str, Mapping]) -> None:
    values = [quality["pnmi"] for quality in codebooks]
    colours = [VERMILION if i == _best(codebooks) else BLUE for i in range(len(values))]
    bars = axes.bar(range(len(values)), values, color=colours, width=0.7)
    axes.bar_label(bars, fmt="%.2f", fontsize=8, color="white", label_type="center")
    lines = _draw_baselines(axes, baselines, "pnmi")
    _label(axes, title, "codebook (0: lowest layer; orange: best)", "PNMI: I(phone; code) / H(phone)")
    axes.set_xticks(range(len(values)))
    if lines:
        axes.legend(handles=lines, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, handlelength=3)


def _draw_wer_curves(axes, curves: Mapping[str, Curve], title: str) -> None:
    for (name, curve), colour, marker in zip(curves.items(), CATEGORY_COLOURS, "os^Dv"):
        if curve:
            axes.plot(*zip(*curve), color=colour, marker=marker, markersize=4, label=name)
    _label(axes, title, "fine-tuning updates", "WER (%)")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=9, frameon=False)


def _draw_wer_bars(axes, wer: Mapping[str, float], title: str) -> None:
    bars = axes.bar(range(len(wer)), list(wer.values()), color=CATEGORY_COLOURS[: len(wer)], width=0.6)
    axes.bar_label(bars, fmt="%.1f %%", fontsize=9)
    _label(axes, title, "", "WER (%), lower is better")
    axes.set_xticks(range(len(wer)), list(wer))
