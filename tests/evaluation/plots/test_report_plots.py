"""The report's pictures show the numbers passed to them, for a tiny model and one of 12 layers and 8 codebooks of
256.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinosr_plugin.evaluation.plots import frame_map, layers, style, training, units

ROWS = [
    {"kind": "mfcc", "index": None, "pnmi": 0.30, "abx": None},
    {"kind": "fbank", "index": None, "pnmi": 0.29, "abx": None},
    *({"kind": "untrained", "index": i, "pnmi": 0.31 - 0.01 * i, "abx": None} for i in range(3)),
    *({"kind": "layer", "index": i, "pnmi": 0.33 + 0.01 * i, "abx": None} for i in range(3)),
    *({"kind": "teacher", "index": k, "pnmi": 0.4 + 0.01 * k, "abx": None} for k in range(2)),
    *({"kind": "head", "index": k, "pnmi": 0.5 + 0.01 * k, "abx": None} for k in range(2)),
]


def code_sets(*layers: int) -> dict:
    return {"teacher": {"title": "codebooks", "layers": layers}, "head": {"title": "student's heads", "layers": layers}}


@pytest.fixture
def drawn(monkeypatch):
    """Figures that would have been written."""
    figures = []
    monkeypatch.setattr(style, "save", lambda figure, path: figures.append(figure) or path)
    return figures


def test_layers_lines_points_and_baselines(drawn):
    layers.plot_by_layer(ROWS, "pnmi", 3, code_sets(1, 2), "unused.png", "PNMI", "share")
    axes = drawn[0].axes[0]
    lines = {line.get_label().split(":")[0]: line.get_xydata() for line in axes.lines}
    np.testing.assert_allclose(lines["layers of the trained model"], [[0, 0.33], [1, 0.34], [2, 0.35]])
    np.testing.assert_allclose(lines["layers of the untrained model"], [[0, 0.31], [1, 0.30], [2, 0.29]])
    assert lines["MFCC"][0, 1] == 0.30 and lines["log-Mel"][0, 1] == 0.29
    points = {collection.get_label().split(" ")[0]: collection.get_offsets() for collection in axes.collections}
    # two codebooks, three layers: next to layers 1 and 2
    np.testing.assert_allclose(points["codebooks"], [[0.88, 0.40], [1.88, 0.41]])
    np.testing.assert_allclose(points["student's"], [[1.12, 0.50], [2.12, 0.51]])
    assert layers.plot_by_layer(ROWS, "abx", 3, code_sets(1, 2), "unused.png", "ABX", "%") is None


def test_outputs_are_points_at_the_last_layer(drawn):
    rows = [{"kind": "output", "index": None, "name": "projection", "pnmi": 0.6}]
    rows += [{"kind": "codebook", "index": 0, "name": "codebook", "pnmi": 0.7}]
    of_model = {"codebook": {"title": "the model's codebook", "layers": [2]}}
    layers.plot_by_layer(rows, "pnmi", 3, of_model, "unused.png", "PNMI", "share")
    points = {one.get_label(): one.get_offsets()[0] for one in drawn[0].axes[0].collections}
    np.testing.assert_allclose(points["projection"], [2.24, 0.6])
    np.testing.assert_allclose(points["the model's codebook"], [1.88, 0.7])
    assert len({tuple(one.get_facecolor()[0]) for one in drawn[0].axes[0].collections}) == 2


def records(codebooks: int) -> list[dict]:
    each = lambda n: {f"active_codes_{k}": 10.0 + k + n for k in range(codebooks)}
    return [
        {
            "num_updates": float(n),
            "loss": 5.0 - n,
            "loss_dinosr": 4.0 - n,
            "target_entropy": 3.5,
            "lr": 0.1,
            "active_codes": 11.0,
            **each(n),
        }
        for n in range(3)
    ]


def test_training(drawn):
    training.plot_loss(records(2), "unused.png", {"valid": [(0, 4.5), (2, 4.0)], "old": [(0, 3.0), (2, 3.5)]})
    training.plot_by_codebook(records(2), "active_codes", "unused.png", "Active codes", "codes", 16)
    training.plot_learning_rate(records(2), "unused.png")
    loss, active, rate = (figure.axes[0] for figure in drawn)
    np.testing.assert_array_equal(loss.lines[0].get_xydata(), [[0, 4], [1, 3], [2, 2]])  # loss on masked frames only
    assert [line.get_label() for line in loss.lines[1:3]] == ["validation loss: valid", "validation loss: old"]
    assert [line.get_ydata().tolist() for line in loss.lines[1:3]] == [[4.5, 4.0], [3.0, 3.5]]
    np.testing.assert_array_equal(loss.lines[3].get_ydata(), [3.5] * 3)
    np.testing.assert_array_equal(
        [line.get_ydata() for line in active.lines[:3]], [[10, 11, 12], [11, 12, 13], [11, 11, 11]]
    )
    assert active.lines[3].get_ydata()[0] == 16 and active.get_ylim() == (0, pytest.approx(17.28))
    assert rate.lines[0].get_ydata().tolist() == [0.1] * 3
    assert all(axes.get_title() and axes.get_xlabel() and axes.get_ylabel() for axes in (loss, active, rate))


def test_code_use_is_sorted_shares(drawn):
    units.plot_code_use(np.array([[1, 0, 3, 4], [2, 2, 2, 2]]), "unused.png")
    first, second, alike = drawn[0].axes[0].lines
    np.testing.assert_allclose(first.get_xydata(), [[1, 50], [2, 37.5], [3, 12.5]])
    np.testing.assert_allclose(second.get_ydata(), 25)
    assert alike.get_ydata()[0] == 25


def test_durations_are_shares_of_all_units(drawn):
    units.plot_durations(np.array([20, 20, 40, 1000]), np.array([25.0, 95.0]), "unused.png", "lengths")
    shown = [patch.get_data() for patch in drawn[0].axes[0].patches]
    shares = [data.values for data in shown[::2]]
    np.testing.assert_allclose([share.sum() for share in shares], 100)
    # bars around 20 and 40 ms; the last one contains all longer units
    assert shares[0][:2].tolist() == [50, 25] and shares[0][-1] == 25
    labels = [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]
    assert "4, mean 270 ms, median 30 ms" in labels[0] and "2, mean 60 ms" in labels[1]


STRETCH = units.Stretch(
    "utt", "anna", 1.0, 2.0, np.zeros(16000, np.float32), np.zeros((80, 100), np.float32),
    [(0.9, 1.4, "AA"), (1.4, 1.405, "S"), (1.405, 2.2, "SIL")], [[(0.95, 1.5, 3), (1.5, 2.1, 0)]],
)  # fmt: skip


def test_stretch_boxes_names_and_colours(drawn):
    units.plot_stretch(
        STRETCH,
        {"AA": "vowels", "S": "fricatives", "SIL": "silence"},
        [["silence", "vowels", "vowels", "vowels"]],
        "unused.png",
    )
    wave, mel, phones, codebook = drawn[0].axes
    assert [text.get_text() for text in phones.texts] == ["AA", "SIL"]  # 5 ms leave no space for a name
    assert phones.texts[0].get_position()[0] == pytest.approx(1.2)  # in the middle of its visible part
    assert [text.get_text() for text in codebook.texts] == ["3", "0"]
    colour = lambda axes, n: tuple(axes.collections[0].get_facecolors()[n])
    assert colour(phones, 0) == colour(codebook, 0) != colour(codebook, 1) == colour(phones, 2)
    assert codebook.get_xlim() == (1.0, 2.0)


def test_without_phones_equal_units_have_equal_colours(drawn):
    units.plot_durations(np.array([20, 20, 40]), None, "unused.png", "lengths")
    assert len(drawn[0].axes[0].get_legend().get_texts()) == 1
    runs = [[(1.0, 1.2, 3), (1.2, 1.5, 4), (1.5, 2.0, 3)]]
    units.plot_stretch(replace(STRETCH, phones=None, units=runs), None, [], "unused.png")
    _, _, codebook = drawn[1].axes
    first, second, third = map(tuple, codebook.collections[0].get_facecolors())
    assert first == third != second and not drawn[1].legends
    assert [text.get_text() for text in codebook.texts] == ["3", "4", "3"]


def test_map_shows_every_frame_in_its_colour(drawn):
    rng = np.random.default_rng(0)
    points, phones = rng.normal(0, 0.1, (40, 2)), np.repeat([0, 1], 20)
    points[20:] += 10
    frame_map.plot_map_of_phones(points, phones, ["AA", "S"], ["vowels", "fricatives"], "unused.png", "by phone")
    frame_map.plot_map_of_speakers(points, np.tile(["anna", "ben"], 20), "unused.png", "by speaker")
    by_phone, by_speaker = (figure.axes[0] for figure in drawn)
    assert {text.get_text() for text in by_phone.texts} == {"AA", "S"}
    for text in by_phone.texts:
        assert (np.asarray(text.get_position()) > 5).all() == (text.get_text() == "S")
    np.testing.assert_array_equal(by_phone.collections[0].get_offsets(), points[:20])
    np.testing.assert_array_equal(by_speaker.collections[1].get_offsets(), points[1::2])
    assert [text.get_text() for text in by_speaker.get_legend().get_texts()] == ["speaker anna", "speaker ben"]


def test_speakers_beyond_the_colours_are_grey(drawn):
    """The seven with the most points are coloured, of equally frequent ones the first."""
    speakers = np.array([f"s{n}" for n in range(9)] + [f"s{n}" for n in range(2, 8)])
    frame_map.plot_map_of_speakers(np.random.default_rng(0).normal(size=(15, 2)), speakers, "unused.png", "t", "axes")
    axes = drawn[0].axes[0]
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["speaker s0", *(f"speaker s{n}" for n in range(2, 8)), "others (2)"]
    assert axes.get_xlabel() == "axes" and len(axes.collections[-1].get_offsets()) == 2
    assert len({tuple(one.get_facecolor()[0]) for one in axes.collections}) == 8


def test_speakers_that_are_not_known_have_one_colour(drawn):
    frame_map.plot_map_of_speakers(np.ones((3, 2)), np.array(["", "", ""]), "unused.png", "t")
    axes = drawn[0].axes[0]
    assert len(axes.collections) == 1 and [text.get_text() for text in axes.get_legend().get_texts()] == ["recordings"]


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=1, max_size=20))
def test_density(points):
    density = frame_map.density(np.array(points), 0.1)
    expected = [sum(np.exp(-((x - a) ** 2 + (y - b) ** 2) / 0.02) for a, b in points) for x, y in points]
    np.testing.assert_allclose(density, expected)


def test_names_on_the_map_do_not_overlap(drawn):
    rng = np.random.default_rng(0)
    phones = rng.integers(0, 40, 3000)
    points = rng.normal(0, 1, (3000, 2)) + 2 * rng.normal(0, 1, (40, 2))[phones]
    frame_map.plot_map_of_phones(
        points, phones, [f"P{i:02}" for i in range(40)], ["vowels"] * 40, "unused.png", "crowded"
    )
    drawn[0].draw_without_rendering()
    boxes = [text.get_window_extent() for text in drawn[0].axes[0].texts]
    assert len(boxes) > 25 and not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_groups_of_phones():
    assert style.phone_groups(["AA", "S", "xx"], [1, 1, 1]) == ["vowels", "fricatives", "other"]
    names = [chr(ord("a") + i) for i in range(10)]  # not ARPABET: each of the eight most frequent ones has a colour
    assert style.phone_groups(names, np.arange(10)) == ["other", "other", *names[2:]]
    for groups in (["silence", "vowels", "other"], names[:8], ["a", "other"]):
        colours = style.group_colours(groups)
        assert set(colours) == set(groups) and len(set(colours.values())) == len(groups)
    assert list(style.group_colours(["other", "silence", "vowels"])) == ["vowels", "silence", "other"]


def test_a_base_model(tmp_path):
    """12 layers and 8 codebooks of 256 can be drawn."""
    rows = [
        {"kind": kind, "index": i, "pnmi": 0.3 + 0.01 * i}
        for kind, n in (("layer", 12), ("untrained", 12), ("teacher", 8), ("head", 8))
        for i in range(n)
    ]
    layers.plot_by_layer(rows, "pnmi", 12, code_sets(*range(4, 12)), tmp_path / "layers.png", "PNMI", "share")
    training.plot_by_codebook(records(8), "active_codes", tmp_path / "active.png", "Active codes", "codes", 256)
    units.plot_code_use(np.random.default_rng(0).integers(0, 100, (8, 256)), tmp_path / "use.png")
    runs = [(1 + 0.02 * i, 1.02 + 0.02 * i, 255 - i) for i in range(50)]
    groups = {"AA": "vowels", "S": "fricatives", "SIL": "silence"}
    units.plot_stretch(replace(STRETCH, units=[runs] * 8), groups, [["vowels"] * 256] * 8, tmp_path / "example.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["active.png", "example.png", "layers.png", "use.png"]
