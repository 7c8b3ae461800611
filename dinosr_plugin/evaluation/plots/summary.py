"""The quickstart's summary on one page: a run from pre-training to word error rates."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from . import style
from .code_by_phone import draw_code_by_phone
from .style import BLUE, CATEGORY_COLOURS, VERMILION

Curve = Sequence[tuple[int, float]]  # (update, value)


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
    """One page: pre-training loss, PNMI of each codebook, phones of the best codebook's codes, and word error rates.

    Args:
        path: file to write; returned.
        loss_curve: (update, nats per frame).
        codebooks: ``Quality.as_dict()`` of each codebook, lowest layer first.
        baselines: name -> ``Quality.as_dict()``, drawn as horizontal lines.
        counts: (n_phones, n_codes) frame counts of the best codebook.
        phone_names: (n_phones,) names of the rows of ``counts``.
        wer_curves: name (pre-trained, from scratch) -> (fine-tuning update, WER in percent on dev).
        wer: name -> WER in percent of the final decoding.

    The panel of an argument that is None or empty shows "not measured".
    """
    figure = style.figure(width=13, height=13)
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=(1, 1.9, 1))
    loss_panel, pnmi_panel = top.subplots(1, 2, width_ratios=(1, 1.3))
    curve_panel, bar_panel = bottom.subplots(1, 2, width_ratios=(1.3, 1))
    _draw_if_measured(loss_panel, _draw_loss, loss_curve, "Pre-training loss")
    _draw_if_measured(pnmi_panel, _draw_pnmi_bars, codebooks, "Phone information in each codebook", baselines or {})
    heading = "What the codes mean" + (
        f": codebook {_best(codebooks)}, the one with the highest PNMI" if codebooks else ""
    )
    if counts is None or not np.any(counts):
        style.mark_not_measured(middle.subplots(), heading)
    else:
        draw_code_by_phone(middle.subplots(), counts, phone_names, heading)
    _draw_if_measured(curve_panel, _draw_wer_curves, wer_curves, "Word error rate during fine-tuning (dev)")
    _draw_if_measured(bar_panel, _draw_wer_bars, wer, "Word error rate after fine-tuning")
    return style.save(figure, path)


def _draw_if_measured(axes, draw, data, title: str, *rest) -> None:
    if data:
        draw(axes, data, title, *rest)
    else:
        style.mark_not_measured(axes, title)


def _draw_loss(axes, curve: Curve, title: str) -> None:
    axes.plot(*zip(*curve), color=BLUE)
    style.label(axes, title, "pre-training updates", "nats per frame")


def _best(codebooks: Sequence[Mapping]) -> int:
    return int(np.argmax([quality["pnmi"] for quality in codebooks]))


def _draw_pnmi_bars(axes, codebooks: Sequence[Mapping], title: str, baselines: Mapping[str, Mapping]) -> None:
    values = [quality["pnmi"] for quality in codebooks]
    colours = [VERMILION if i == _best(codebooks) else BLUE for i in range(len(values))]
    bars = axes.bar(range(len(values)), values, color=colours, width=0.7)
    axes.bar_label(bars, fmt="%.2f", fontsize=8, color="white", label_type="center")
    lines = style.baseline_lines(axes, baselines, "pnmi")
    style.label(axes, title, "codebook (0 = lowest layer; best in orange)", "PNMI: I(phone; code) / H(phone)")
    axes.set_xticks(range(len(values)))
    if lines:
        axes.legend(
            handles=lines, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, handlelength=3
        )


def _draw_wer_curves(axes, curves: Mapping[str, Curve], title: str) -> None:
    for (name, curve), colour, marker in zip(curves.items(), CATEGORY_COLOURS, "os^Dv"):
        if curve:
            axes.plot(*zip(*curve), color=colour, marker=marker, markersize=4, label=name)
    style.label(axes, title, "fine-tuning updates", "WER (%)")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=9, frameon=False)


def _draw_wer_bars(axes, wer: Mapping[str, float], title: str) -> None:
    bars = axes.bar(range(len(wer)), list(wer.values()), color=CATEGORY_COLOURS[: len(wer)], width=0.6)
    axes.bar_label(bars, fmt="%.1f %%", fontsize=9)
    style.label(axes, title, "", "WER (%), lower is better")
    axes.set_xticks(range(len(wer)), list(wer))
