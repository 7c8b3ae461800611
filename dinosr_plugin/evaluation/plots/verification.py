"""Speaker verification: DET curve and distributions of the scores."""

from pathlib import Path

import numpy as np

from ..measures.verification import Rates, det_points, equal_error_rate, equal_error_threshold
from . import style
from .style import BLACK, BLUE, GREY, VERMILION

TICKS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
LIMITS = (0.0005, 0.8)  # of both axes of the DET curve
BINS = 60


def plot_verification(rates: Rates, targets: np.ndarray, nontargets: np.ndarray, path: str | Path) -> Path:
    """The DET curve, and histograms of the scores of target (N,) and nontarget trials (M,).

    Both axes of the DET curve are normal deviates, on which scores with normal distributions give a straight line.
    """
    figure = style.figure(11, 4.6)
    left, right = figure.subplots(1, 2)
    draw_det(left, rates, len(targets), len(nontargets))
    draw_scores(right, targets, nontargets, equal_error_threshold(rates))
    return style.save(figure, path)


def draw_det(axes, rates: Rates, n_targets: int, n_nontargets: int) -> None:
    """Rates of 0 and 1, which have no deviate, are drawn half a trial away from it."""
    from scipy.special import ndtri

    floors = 0.5 / n_nontargets, 0.5 / n_targets
    x, y = (ndtri(part.clip(floor, 1 - floor)) for part, floor in zip(det_points(rates), floors))
    axes.plot(x, y, color=BLUE, linewidth=1.5)
    eer = equal_error_rate(rates)
    ends = ndtri(LIMITS)
    axes.plot(ends, ends, color=GREY, linewidth=1, linestyle=(0, (5, 3)))
    place = ndtri(np.clip(eer, *LIMITS))
    axes.plot([place], [place], "o", color=VERMILION, label=f"EER {eer:.2%}")
    style.label(axes, "Detection error trade-off", "false alarm rate (%)", "miss rate (%)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ndtri(TICKS), [f"{100 * tick:g}" for tick in TICKS])
    axes.set_xlim(ends)
    axes.set_ylim(ends)
    axes.set_aspect("equal")
    axes.grid(color="0.9", linewidth=0.8)
    style.legend_below(axes)


def draw_scores(axes, targets: np.ndarray, nontargets: np.ndarray, threshold: float) -> None:
    edges = np.histogram_bin_edges(np.concatenate([targets, nontargets]), BINS)
    for scores, colour, name in ((nontargets, VERMILION, "different speakers"), (targets, BLUE, "same speaker")):
        label = f"{name} ({len(scores)} trials)"
        axes.hist(scores, edges, weights=np.full(len(scores), 100 / len(scores)), color=colour, alpha=0.55, label=label)
    axes.axvline(threshold, color=BLACK, linewidth=1, linestyle=(0, (5, 3)), label=f"score at the EER: {threshold:.3g}")
    style.label(axes, "Scores", "score", "share of the trials (%)")
    style.legend_below(axes)
