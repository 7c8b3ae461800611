"""Pictures show the numbers passed to them; missing parts are marked as such."""

import os
import warnings

import numpy as np
import pytest

from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.measures.quality.agreement import Quality
from dinosr_plugin.evaluation.plots import plot_code_by_phone, plot_curves, plot_summary, style
from dinosr_plugin.evaluation.plots.code_by_phone import code_order

PHONES = ["AA", "B", "IY", "SIL"]  # by class: IY AA B SIL = rows 2 0 1 3
COUNTS = np.array([[0, 9, 0, 5, 0], [0, 0, 0, 1, 2], [0, 1, 0, 0, 8], [7, 0, 0, 5, 0]])
QUALITY = Quality.from_counts(COUNTS).as_dict()


@pytest.fixture
def drawn(monkeypatch):
    """Figures that the plot functions would have written."""
    figures = []
    monkeypatch.setattr(style, "save", lambda figure, path: figures.append(figure) or path)
    return figures


def codebook(pnmi: float) -> dict:
    return {**QUALITY, "pnmi": pnmi, "phone_purity": pnmi + 0.1}


HISTORY = [
    {"updates": 0, "loss": None, "teacher": [codebook(0.1), codebook(0.2)], "head": []},
    {
        "updates": 100,
        "loss": 5.0,
        "teacher": [codebook(0.3), codebook(0.4)],
        "head": [codebook(0.25), codebook(0.35)],
    },
    {
        "updates": 200,
        "loss": 4.0,
        "teacher": [codebook(0.5), codebook(0.6)],
        "head": [codebook(0.45), codebook(0.55)],
    },
]
CODE_SETS = {"teacher": "the teacher's codes", "head": "the heads' predictions"}
BASELINES = {"MFCC k-means": codebook(0.33), "untrained model": codebook(0.15)}


def test_codes_are_sorted_by_majority_phone_then_purity_without_unused_ones():
    order = code_order(COUNTS, np.array([2, 0, 1, 3]))
    # IY, AA at 0.9, AA at 5/11 (a tie with SIL: the earlier row), SIL; code 2 never occurs
    assert order.tolist() == [4, 1, 3, 0]


def test_heat_map_columns_are_distributions_over_phones(drawn):
    plot_code_by_phone(COUNTS, PHONES, "unused.png", "five codes")
    axes = drawn[0].axes[0]
    image = np.asarray(axes.images[0].get_array())  # (phones by class, codes that occur)
    np.testing.assert_allclose(image.sum(axis=0), 1)
    np.testing.assert_allclose(image[:, 0], [0.8, 0, 0.2, 0])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["IY", "AA", "B", "SIL"]
    assert "five codes" in axes.get_title() and "4 of 5 codes are used" in axes.get_title()
    assert [text.get_text() for text in axes.texts] == ["vowels", "silence"]


def test_curves_draw_teacher_solid_student_dashed_and_baselines(drawn):
    plot_curves(HISTORY, CODE_SETS, "unused.png", BASELINES, title="a run")
    loss, active, perplexity, purity, pnmi, legend = drawn[0].axes
    np.testing.assert_array_equal(loss.lines[0].get_xydata(), [[100, 5.0], [200, 4.0]])
    np.testing.assert_allclose(loss.lines[1].get_ydata(), np.log(QUALITY["perplexity"]))
    teacher, student, lines = pnmi.lines[:2], pnmi.lines[2:4], pnmi.lines[4:]
    np.testing.assert_array_equal(teacher[1].get_xydata(), [[0, 0.2], [100, 0.4], [200, 0.6]])
    np.testing.assert_array_equal(student[0].get_xydata(), [[100, 0.25], [200, 0.45]])
    assert [line.get_linestyle() for line in (*teacher, *student)] == ["-", "-", "--", "--"]
    assert [line.get_ydata()[0] for line in lines] == [0.33, 0.15]
    assert len({tuple(np.atleast_1d(line.get_color())) for line in teacher}) == 2
    assert len(active.lines) == len(perplexity.lines) == 4  # no baseline there
    assert purity.lines[0].get_ydata()[0] == pytest.approx(0.2)
    texts = [text.get_text() for text in legend.get_legend().get_texts()]
    assert "codebook 1 (highest layer)" in texts and "MFCC k-means: PNMI 0.330" in texts
    assert {"solid: the teacher's codes", "dashed: the heads' predictions"} < set(texts)
    assert all(axes.get_xlabel() and axes.get_ylabel() and axes.get_title() for axes in drawn[0].axes[:5])


def test_curves_without_phones(drawn):
    """Instead of phone purity and PNMI: speaker information, bit rate."""
    unknown = {"phone_purity": None, "pnmi": None, "speaker_pnmi": 0.2, "run_bit_rate": 100.0, "unit_ms": 40.0}
    history = [{"updates": n, "loss": None, "codebook": [{**QUALITY, **unknown}]} for n in (1, 2)]
    plot_curves(history, {"codebook": "the model's codebook"}, "unused.png")
    _, active, perplexity, speaker, bit_rate, _ = drawn[0].axes
    assert [axes.lines[0].get_ydata()[0] for axes in (active, perplexity, speaker, bit_rate)] == [
        QUALITY["active"],
        QUALITY["perplexity"],
        0.2,
        100.0,
    ]


def test_curves_of_one_codebook(drawn):
    history = [{"updates": n, "loss": 5.0, "codebook": [codebook(n / 10)]} for n in (1, 2)]
    plot_curves(history, {"codebook": "the model's codebook"}, "unused.png")
    *_, pnmi, legend = drawn[0].axes
    np.testing.assert_array_equal(pnmi.lines[0].get_xydata(), [[1, 0.1], [2, 0.2]])
    texts = [text.get_text() for text in legend.get_legend().get_texts()]
    assert len(pnmi.lines) == 1 and texts == ["codebook 0", "solid: the model's codebook"]
    plot_curves(history[:1], {"codebook": "the model's codebook"}, "unused.png")
    assert (pnmi.lines[0].get_marker(), drawn[1].axes[4].lines[0].get_marker()) == ("None", "o")


def test_summary_shows_every_part(drawn):
    curve = [(0, 100.0), (50, 60.0)]
    plot_summary(
        "unused.png", [(1, 5.0), (2, 4.0)], [codebook(0.2), codebook(0.4)], BASELINES, COUNTS, PHONES,
        {"pre-trained": curve, "from scratch": []}, {"pre-trained": 40.0, "from scratch": 80.0},
    )  # fmt: skip
    by_title = {axes.get_title().split(":")[0]: axes for axes in drawn[0].axes}
    assert not any(text.get_text() == "not measured" for axes in drawn[0].axes for text in axes.texts)
    assert [bar.get_height() for bar in by_title["Phone information in each codebook"].patches] == [0.2, 0.4]
    assert [bar.get_height() for bar in by_title["Word error rate after fine-tuning"].patches] == [40.0, 80.0]
    np.testing.assert_array_equal(by_title["Word error rate during fine-tuning (dev)"].lines[0].get_xydata(), curve)
    assert "codebook 1, the one with the highest PNMI" in by_title["What the codes mean"].get_title()


@pytest.mark.parametrize("nothing", [None, []])
def test_missing_data_is_marked(drawn, nothing):
    plot_summary("unused.png", nothing, nothing, nothing, None, PHONES, nothing, nothing)
    plot_curves([], {}, "unused.png")
    for figure in drawn:
        assert sum(text.get_text() == "not measured" for axes in figure.axes for text in axes.texts) == 5


def test_files_are_written_completely_and_alone(tmp_path):
    target = plot_code_by_phone(COUNTS, PHONES, tmp_path / "new" / "codes.png", "codes")
    assert target.read_bytes().startswith(b"\x89PNG") and [target] == list(target.parent.iterdir())
    plot_curves(HISTORY, CODE_SETS, tmp_path / "curves.svg", BASELINES)
    assert "<svg" in (tmp_path / "curves.svg").read_text()


def test_a_failed_picture_leaves_the_old_one(tmp_path, monkeypatch):
    target = tmp_path / "codes.png"
    target.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="codes.png: cannot be written .No space left on device.; free some space"):
        plot_code_by_phone(COUNTS, PHONES, target, "codes")
    assert target.read_bytes() == b"old" and [target] == list(tmp_path.iterdir())


def test_text_in_pictures_is_literal(tmp_path):
    """Names between dollar signs are no TeX, and control characters are escapes; also in the labels of ticks."""
    figure, axes = style.small_panel()
    axes.plot([0, 1], label="$\\foo{$")
    axes.set_title("$a_1$ \x1b[2J\x9b")
    axes.set_xticks([0, 1], ["$\\bar{$", "a\tb"])
    axes.legend()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph that is missing
        style.save(figure, tmp_path / "a.svg")
    assert axes.get_title() == "$a_1$ \\x1b[2J\\x9b"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["$\\bar{$", "a\\tb"]


def test_a_folder_that_vanishes_is_one_line(tmp_path, monkeypatch):
    figure, _ = style.small_panel()
    target = tmp_path / "gone" / "a.png"
    save = type(figure).savefig

    def vanishes(*arguments, **options):
        (target.parent / ".a.png.lock").unlink()
        target.parent.rmdir()
        save(*arguments, **options)

    monkeypatch.setattr(type(figure), "savefig", vanishes)
    with pytest.raises(UserError, match="a.png: cannot be written .No such file or directory.; give another folder"):
        style.save(figure, target)
    assert list(tmp_path.iterdir()) == []
