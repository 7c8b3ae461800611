"""Pictures of probes show the scores, intervals, baselines and controls of their rows."""

import numpy as np
import pytest

from dinosr_plugin.evaluation.plots import style
from dinosr_plugin.evaluation.plots.probes import limits, plot_loss_probes, plot_probes


@pytest.fixture
def drawn(monkeypatch):
    """Figures that the plot functions would have written."""
    figures = []
    monkeypatch.setattr(style, "save", lambda figure, path: figures.append(figure) or path)
    return figures


def row(kind: str, index: int | None, score: float, low: float | None = None) -> dict:
    figures = {"phone": score, "phone_low": low, "phone_high": low and 2 * score - low, "phone_control": 0.1}
    return {"kind": kind, "index": index, "name": kind, **figures}


ROWS = [
    row("mfcc", None, 0.4), row("fbank", None, 0.35), row("untrained", 0, 0.41, 0.4), row("untrained", 1, 0.42, 0.4),
    row("layer", 0, 0.5, 0.45), row("layer", 1, 0.6, 0.5), row("weighted", None, 0.61),
]  # fmt: skip


def test_a_panel_shows_layers_intervals_and_baselines(drawn):
    plot_probes(ROWS, {"phone": "accuracy"}, "unused.png", "title")
    (figure,) = drawn
    axes = figure.axes[0]
    lines = {line.get_label(): np.asarray(line.get_ydata()).tolist() for line in axes.lines}
    levels = {"MFCC": [0.4] * 2, "log-Mel": [0.35] * 2, "weighted sum of layers": [0.61] * 2}
    assert lines.items() >= levels.items()
    assert lines["layers of the trained model"] == [0.5, 0.6] and lines["layers of the untrained model"] == [0.41, 0.42]
    assert lines["trained model, probe of shuffled labels"] == [0.1, 0.1]
    bands = [band.get_paths()[0].vertices[:, 1] for band in axes.collections]
    assert any(ends.min() == 0.45 and ends.max() == pytest.approx(0.7) for ends in bands)
    assert axes.get_title() == "phone" and axes.get_ylabel() == "accuracy"
    assert {text.get_text() for text in figure.legends[0].get_texts()} == set(lines)


def test_a_panel_of_an_embedding(drawn):
    rows = [row("mfcc", None, 0.4), row("embedding", None, 0.9, 0.8)]
    plot_probes(rows, {"phone": "accuracy"}, "unused.png", "title")
    points = [np.asarray(line.get_ydata()).tolist() for line in drawn[0].axes[0].lines]
    assert [0.9] in points and [0.4] * 2 in points  # and the ends of its interval
    assert [value for point in points if len(point) == 1 for value in point] == pytest.approx([0.9, 0.8, 1.0])


def test_a_long_interval_does_not_hide_the_scores():
    rows = [row("layer", 0, 0.5, -5.0), row("layer", 1, 0.6, -6.0)]
    low, high = limits(rows, "phone")
    assert -0.3 < low < 0.1 and 0.6 < high < 1


def run_of(name: str, r: float | None) -> dict:
    points = [{"loss": 3.0 - n, "updates": 100 * n, "phone": {"last": n / 10, "best": n / 9}} for n in range(4)]
    figures = {"pearson": {"value": r}}
    return {"name": name, "points": points, "correlations": {"phone": {"last": figures, "best": figures}}}


def points_of(axes) -> dict[str, list[list[float]]]:
    return {drawn.get_label(): np.asarray(drawn.get_offsets()).tolist() for drawn in axes.collections}


def test_losses_and_scores(drawn):
    plot_loss_probes([run_of("apc", -1.0)], {"phone": "accuracy"}, "unused.png", "title")
    axes = drawn[0].axes[0]
    assert points_of(axes) == {
        "last layer": [[3 - n, n / 10] for n in range(4)],
        "best layer": [[3 - n, n / 9] for n in range(4)],
    }
    assert len({tuple(colour) for colour in axes.collections[0].get_facecolors()}) == 4  # of the updates
    assert axes.get_title() == "r -1.00 (last), -1.00 (best)" and axes.get_ylabel() == "phone: accuracy"


def test_each_run_has_a_column(drawn):
    runs = [run_of("apc", -1.0), run_of("cpc", None)]
    for point in runs[1]["points"]:
        point["loss"] += 7
        point["f0"] = {"last": 0.5, "best": 0.6}
    for one in runs:
        one["correlations"]["f0"] = one["correlations"]["phone"]
    for point in runs[0]["points"]:
        point["f0"] = {"last": 0.1, "best": 0.2}
    plot_loss_probes(runs, {"phone": "accuracy", "f0": "R²"}, "unused.png", "title")
    axes = drawn[0].axes[:4]
    assert [one.get_title() for one in axes[:2]] == ["apc\nr -1.00 (last), -1.00 (best)", "cpc\nr - (last), - (best)"]
    assert axes[3].get_title() == "r - (last), - (best)" and axes[2].get_ylabel() == "f0: R²"
    assert points_of(axes[3])["last layer"] == [[10 - n, 0.5] for n in range(4)]
    # losses of different runs have no common axis
    assert axes[0].get_xlim()[1] < 7 < axes[1].get_xlim()[0] + 1
