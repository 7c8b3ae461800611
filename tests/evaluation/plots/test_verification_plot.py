"""The picture of a verification: its curve, marks and histograms."""

import numpy as np
import pytest
from scipy.special import ndtr

from dinosr_plugin.evaluation.measures.verification import equal_error_rate, error_rates
from dinosr_plugin.evaluation.plots import style, verification
from dinosr_plugin.evaluation.plots.verification import draw_det, draw_scores, plot_verification


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    return rng.normal(2, 1, 500), rng.normal(0, 1, 3000)


def test_the_det_curve_of_normal_scores_is_a_straight_line_through_the_eer(scores):
    rates, axes = error_rates(*scores), style.small_panel()[1]
    draw_det(axes, rates, 500, 3000)
    curve, _, mark = axes.lines
    x, y = curve.get_data()
    middle = (x > -2) & (x < 1)
    slope, offset = np.polyfit(x[middle], y[middle], 1)
    assert slope == pytest.approx(-1, abs=0.1) and offset == pytest.approx(-2, abs=0.1)
    place = mark.get_data()
    assert ndtr(place[0][0]) == ndtr(place[1][0]) == pytest.approx(equal_error_rate(rates))
    assert np.isfinite(x).all() and np.isfinite(y).all()
    assert " ".join(label.get_text() for label in axes.get_xticklabels()) == "0.1 0.5 2 5 10 20 40 60 80"


def test_the_histograms_show_shares_of_each_kind(scores):
    axes = style.small_panel()[1]
    draw_scores(axes, *scores, threshold=1)
    heights = [sum(bar.get_height() for bar in bars) for bars in axes.containers]
    assert heights == pytest.approx([100, 100])


@pytest.mark.parametrize("name", ["det.png", "det", "det.svg", "det.pdf"])
def test_the_kind_of_file_follows_from_the_name(name, scores, tmp_path):
    path = plot_verification(error_rates(*scores), *scores, tmp_path / name)
    starts = {".svg": b"<?xml", ".pdf": b"%PDF"}
    assert path.read_bytes().startswith(starts.get(path.suffix, b"\x89PNG"))


@pytest.mark.parametrize("targets, nontargets", [([1], [0]), ([0], [1]), ([1, 1], [1])])
def test_extreme_scores_are_drawn(targets, nontargets, tmp_path):
    targets, nontargets = np.array(targets, dtype=float), np.array(nontargets, dtype=float)
    plot_verification(error_rates(targets, nontargets), targets, nontargets, tmp_path / "det.png")
    assert verification.LIMITS[0] > 0 and (tmp_path / "det.png").stat().st_size > 10_000
