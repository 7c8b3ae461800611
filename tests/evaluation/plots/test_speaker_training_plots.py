"""The pictures of a training of speaker embeddings show the numbers passed to them."""

import numpy as np
import pytest

from dinosr_plugin.evaluation.plots import speaker_training, style

LABELS = [
    {"epoch": epoch, "clusters": 9 - epoch, "speakers": 4, "nmi": 0.5, "accuracy": 0.25 * epoch, "purity": 0.75}
    | {"labels_changed": None if epoch == 0 else 0.1 * epoch, "mean_weight": 0.8 if epoch == 2 else None}
    for epoch in range(3)
]
EPOCHS = [
    {"epoch": 1, "eer": 0.2, "min_dcf_0.01": 0.9, "min_dcf_0.05": 0.7}
    | {"intervals": {"eer": (0.15, 0.3), "min_dcf_0.01": (0.8, 1.0), "min_dcf_0.05": (0.6, 0.75)}},
    {"epoch": 4, "eer": 0.1, "min_dcf_0.01": 0.5, "min_dcf_0.05": 0.4, "intervals": {}},
    {"epoch": 5, "eer": 0.05, "min_dcf_0.01": 0.4, "min_dcf_0.05": 0.3}
    | {"intervals": {"eer": (0.04, 0.06), "min_dcf_0.01": (0.3, 0.5), "min_dcf_0.05": (0.2, 0.35)}},
]


@pytest.fixture
def drawn(monkeypatch):
    """Axes that would have been written."""
    axes = []
    monkeypatch.setattr(style, "save", lambda figure, path: axes.append(figure.axes[0]) or path)
    return axes


def test_clusters_and_speakers(drawn):
    speaker_training.plot_clusters(LABELS, "unused.png")
    clusters, speakers = drawn[0].lines
    np.testing.assert_array_equal(clusters.get_xydata(), [[0, 9], [1, 8], [2, 7]])
    assert set(speakers.get_ydata()) == {4} and drawn[0].get_ylim() == (0, pytest.approx(9.72))
    speaker_training.plot_clusters([row | {"speakers": 20} for row in LABELS], "unused.png")
    assert drawn[1].get_ylim() == (0, pytest.approx(21.6))


def test_agreement(drawn):
    speaker_training.plot_agreement(LABELS, "unused.png")
    lines = {line.get_label(): line.get_ydata().tolist() for line in drawn[0].lines}
    assert lines == {"NMI": [0.5] * 3, "accuracy": [0, 0.25, 0.5], "purity": [0.75] * 3}
    assert (
        len({line.get_color() for line in drawn[0].lines}) == len({line.get_marker() for line in drawn[0].lines}) == 3
    )


def test_values_that_are_not_known_are_left_out(drawn):
    speaker_training.plot_changes(LABELS, "unused.png")
    speaker_training.plot_weights(LABELS, "unused.png")
    changes, weights = ((axes.lines[0].get_xydata()) for axes in drawn)
    np.testing.assert_allclose(changes, [[1, 10], [2, 20]])
    np.testing.assert_allclose(weights, [[2, 0.8]])
    assert speaker_training.plot_weights(LABELS[:2], "unused.png") is None
    assert speaker_training.plot_changes(LABELS[:1], "unused.png") is None and len(drawn) == 2


def test_verification_with_bands(drawn):
    speaker_training.plot_eer(EPOCHS, "unused.png")
    speaker_training.plot_min_dcf(EPOCHS, "unused.png")
    eer, dcf = drawn
    np.testing.assert_allclose(eer.lines[0].get_xydata(), [[1, 20], [4, 10], [5, 5]])
    corners = eer.collections[0].get_paths()[0].vertices
    assert {(x, round(y, 6)) for x, y in corners} == {(1, 15), (1, 30), (5, 4), (5, 6)}
    lines = {line.get_label(): line.get_ydata().tolist() for line in dcf.lines}
    assert lines == {"minDCF(0.01)": [0.9, 0.5, 0.4], "minDCF(0.05)": [0.7, 0.4, 0.3]}
    assert [band.get_paths()[0].vertices[:, 1].max() for band in dcf.collections] == [1.0, 0.75]


def test_the_ticks_are_whole_epochs(drawn):
    speaker_training.plot_eer(EPOCHS[1:], "unused.png")
    assert all(tick == round(tick) for tick in drawn[0].get_xticks())


def test_files(tmp_path):
    for name in ("clusters", "agreement", "changes", "weights"):
        path = getattr(speaker_training, f"plot_{name}")(LABELS, tmp_path / name)
        assert path.read_bytes().startswith(b"\x89PNG")
    assert speaker_training.plot_eer(EPOCHS, tmp_path / "eer.svg").read_bytes().startswith(b"<?xml")
