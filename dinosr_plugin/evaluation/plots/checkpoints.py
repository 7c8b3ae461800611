"""Curves over several checkpoints of a run: how the codebooks develop."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import style
from .style import BASELINE_COLOURS, BASELINE_DASHES, BLUE, VERMILION

PANELS = 4  # of codebooks: the first ones of which there are figures
CODEBOOK_PANELS = (  # key of UnitQuality, title, unit, whether baselines are drawn
    ("active", "Active codes", "number of codes used", False),
    ("perplexity", "Perplexity of the codes", "effective number of codes", False),
    ("phone_purity", "Phone purity", "share of frames", True),
    ("pnmi", "PNMI: phone information in the codes", "I(phone; code) / H(phone)", True),
    ("speaker_pnmi", "Speaker information in the codes", "I(speaker; code) / H(speaker)", False),
    ("run_bit_rate", "Bit rate of runs of equal codes", "bits per second", False),
    ("unit_ms", "Mean length of a run of equal codes", "ms", False),
)

LINESTYLES: dict[str, Any] = {"solid": "-", "dashed": (0, (4, 2)), "dotted": (0, (1, 1.5))}  # of the sets of codes


def plot_curves(
    history: Sequence[Mapping],
    code_sets: Mapping[str, str],
    path: str | Path,
    baselines: Mapping[str, Mapping] | None = None,
    title: str = "Training",
) -> Path:
    """Panels over updates: loss, and active codes, perplexity, phone purity and PNMI of every codebook.

    Without phones, speaker information, bit rate and length of the codes take the place of phone purity and PNMI.

    Args:
        history: measurements in order, each ``{"updates": int, "loss": nats per frame or None}``, and for each set of
            codes its name: ``[UnitQuality.as_dict() of each codebook, lowest layer first]``, which may be missing or
            empty.
        code_sets: name -> title, the default set first; at most as many as ``LINESTYLES``.
        path: file to write; returned.
        baselines: name -> ``Quality.as_dict()``, drawn as horizontal lines; for example MFCC k-means.
    """
    figure = style.figure(width=13, height=7.5)
    figure.suptitle(title, fontsize=14)
    panels = figure.subplots(2, 3)
    _draw_loss_and_entropy(panels[0, 0], history, next(iter(code_sets), ""))
    for panel, (key, heading, unit, has_baselines) in zip(panels.flat[1:5], codebook_panels(history, code_sets)):
        _draw_codebooks(panel, history, code_sets, key, baselines or {} if has_baselines else {})
        style.label(panel, heading, "updates", unit)
    for panel in panels.flat[:-1]:
        if not panel.lines:
            style.mark_not_measured(panel, panel.get_title())
    _draw_curves_legend(panels[1, 2], history, code_sets, baselines or {})
    return style.save(figure, path)


def codebook_panels(history: Sequence[Mapping], code_sets: Mapping[str, str]) -> Sequence[tuple[str, str, str, bool]]:
    """Those of ``CODEBOOK_PANELS`` that are drawn; the first ones if there are no figures at all."""
    codebooks = [codebook for row in history for name in code_sets for codebook in row.get(name) or ()]
    known = [panel for panel in CODEBOOK_PANELS if any(one.get(panel[0]) is not None for one in codebooks)]
    return (known or CODEBOOK_PANELS)[:PANELS]


def _draw_loss_and_entropy(axes, history: Sequence[Mapping], code_set: str) -> None:
    losses = [(row["updates"], row["loss"]) for row in history if row.get("loss") is not None]
    entropies = [(row["updates"], _mean_entropy(row[code_set])) for row in history if row.get(code_set)]
    if losses:
        axes.plot(*zip(*losses), color=BLUE, label="training loss")
    if entropies:
        label = "entropy of the codes (loss of a\nfrequency-only prediction)"
        axes.plot(*zip(*entropies), color=VERMILION, linestyle=(0, (5, 2)), label=label)
    style.label(axes, "Loss and entropy of the codes", "updates", "nats per frame, mean over codebooks")
    if losses or entropies:
        axes.legend(fontsize=8, frameon=False)


def _mean_entropy(codebooks: Sequence[Mapping]) -> float:
    """Nats; perplexity is 2 ** (entropy in bits) = e ** (entropy in nats)."""
    return float(np.mean([np.log(quality["perplexity"]) for quality in codebooks]))


def _draw_codebooks(
    axes, history: Sequence[Mapping], code_sets: Mapping[str, str], key: str, baselines: Mapping[str, Mapping]
) -> None:
    """One colour per codebook, one line style per set of codes; baselines as horizontal lines."""
    for source, linestyle in zip(code_sets, LINESTYLES.values()):
        rows = [row for row in history if row.get(source)]
        updates = [row["updates"] for row in rows]
        for codebook, colour in enumerate(_codebook_colours(history, code_sets)):
            values = [row[source][codebook][key] for row in rows]
            marker = "o" if len(rows) == 1 else None  # a line of one point is invisible
            axes.plot(updates, values, color=colour, linestyle=linestyle, linewidth=1.2, marker=marker)
    style.baseline_lines(axes, baselines, key)
    if key in ("active", "perplexity"):
        axes.set_ylim(bottom=0)  # shows a collapse as such; purity and PNMI vary too little for that
    else:
        axes.margins(y=0.12)


def _codebook_colours(history: Sequence[Mapping], code_sets: Mapping[str, str]) -> np.ndarray:
    sizes = (len(row.get(source) or ()) for row in history for source in code_sets)
    return style.ordered_colours(max(sizes, default=0))


def _draw_curves_legend(
    axes, history: Sequence[Mapping], code_sets: Mapping[str, str], baselines: Mapping[str, Mapping]
) -> None:
    """Use the sixth panel for the legend of the other five."""
    from matplotlib.lines import Line2D

    colours = _codebook_colours(history, code_sets)
    ends = {0: " (lowest layer)", len(colours) - 1: " (highest layer)"} if len(colours) > 1 else {}
    lines = [Line2D([], [], color=colour, label=f"codebook {i}{ends.get(i, '')}") for i, colour in enumerate(colours)]
    lines += [
        Line2D([], [], color="0.2", linestyle=linestyle, label=f"{name}: {title}")
        for title, (name, linestyle) in zip(code_sets.values(), LINESTYLES.items())
    ]
    lines += [
        Line2D([], [], color=colour, linestyle=dashes, label=f"{name}: PNMI {quality['pnmi']:.3f}")
        for (name, quality), colour, dashes in zip(baselines.items(), BASELINE_COLOURS, BASELINE_DASHES)
    ]
    axes.legend(handles=lines, loc="center left", fontsize=9, frameon=False, handlelength=3.2)
    axes.set_axis_off()
