"""Cutting items out of features, messages about invalid features, and frame distances."""

import numpy as np
import pytest

from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.measures.abx.items import Item
from dinosr_plugin.evaluation.measures.abx.segments import cut, frame_distances, frame_vectors


def item(utt: str = "u", onset: float = 0.0, offset: float = 1.0) -> Item:
    return Item(utt, onset, offset, "AA", "B", "D", "anna")


def ramp(frames: int = 100, width: int = 1) -> np.ndarray:
    return np.repeat(np.arange(1.0, frames + 1)[:, None], width, axis=1)


@pytest.mark.parametrize(
    "rate, onset, offset, frames",
    [
        (100, 0.0, 0.1, range(0, 9)),  # ceil(-0.5) and floor(9.5)
        (100, 0.003, 0.026, range(0, 2)),
        (100, 0.006, 0.0249, range(1, 1 + 0)),
        (100, 0.006, 0.035, range(1, 3)),
        (50, 0.03, 0.11, range(1, 5)),
        (50, 1.9, 5.0, range(95, 100)),  # past the end of the features
        (12.5, 0.4, 0.8, range(5, 9)),
    ],
)
def test_the_frames_of_an_item(rate, onset, offset, frames):
    items = [item(onset=onset, offset=offset), item(offset=99.0)]
    segments = cut({"u": ramp()}, items, rate, "angular", False)
    assert segments.too_short == (0 if frames else 1)
    assert [f[0] - 1 for f in segments.frames[0]] == (list(frames) or list(range(100)))
    assert len(segments.items) == len(segments.frames) == 2 - segments.too_short


def test_only_the_edit_distance_merges_repetitions_of_units():
    units = {"u": np.array([6, 6, 6, 1, 1, 6, 7, 7])}
    assert cut(units, [item()], 9, "onehot", False).frames[0].tolist() == units["u"].tolist()
    assert cut(units, [item()], 9, "edit", False).frames[0].tolist() == [6, 1, 6, 7]


def test_missing_utterances_are_counted_named_and_skipped_on_request():
    items = [item(utt) for utt in "abcde"] + [item("u"), item("a")]
    with pytest.raises(
        UserError, match=r"5 of 6 utterances of the items have no features \(a, b, c, ...\).*--skip-missing"
    ):
        cut({"u": ramp()}, items, 50, "angular", False)
    segments = cut({"u": ramp()}, items, 50, "angular", True)
    assert (len(segments.items), segments.missing, segments.too_short) == (1, 6, 0)
    with pytest.raises(UserError, match=r"2 of 2 utterances .*\(a, b\); give features of the same corpus$"):
        cut({"u": ramp()}, items[:2], 50, "angular", True)


def nan_at(frame: int) -> np.ndarray:
    features = ramp(width=2)
    features[frame, 1] = np.nan
    return features


@pytest.mark.parametrize(
    "features, distance, message",
    [
        ({"u": ramp(), "v": ramp(width=3)}, "angular", "v: features of width 3, those of u have width 1"),
        ({"u": nan_at(7), "v": ramp(width=2)}, "angular", "u: NaN or infinity in frame 7"),
        ({"u": ramp(width=2) * np.inf, "v": ramp(width=2)}, "angular", "u: NaN or infinity in frame 0"),
        ({"u": ramp(), "v": np.arange(100)}, "angular", r"v: int64 features of shape \(100,\)"),
        ({"u": ramp(), "v": ramp()}, "onehot", "u: float64 features of shape .* requires integers"),
        ({"u": np.arange(100.0), "v": ramp()}, "edit", "u: float64 features"),
        ({"u": ramp(40), "v": ramp(40)}, "angular", "1 of 2 items start past the end of their features at 50 Hz"),
    ],
)
def test_bad_features(features, distance, message):
    with pytest.raises(UserError, match=message) as error:
        cut(features, [item("u", 0.9, 1.0), item("v", 0.1, 1.0)], 50, distance, False)
    assert "\n" not in str(error.value)


def test_a_rate_at_which_the_end_of_every_utterance_is_unused():
    features = {str(i): ramp(100) for i in range(10)}
    items = [item(utt, 0.5, 2.0) for utt in features]
    with pytest.raises(
        UserError,
        match=r"all 10 items are in the first 50% of their features at 25 Hz; give the right rate \(about 50 Hz",
    ):
        cut(features, items, 25, "angular", False)
    with_later_item = [*items, item("3", 3.0, 3.5)]
    assert len(cut(features, with_later_item, 25, "angular", False).items) == 11
    assert len(cut(features, items[:9], 25, "angular", False).items) == 9  # with so few utterances it may be chance


def test_an_item_of_length_zero_contains_no_frame():
    assert cut({"u": ramp()}, [item(), item(onset=0.5, offset=0.5)], 50, "angular", False).too_short == 1


@pytest.mark.parametrize("rate", [0, -50, float("nan"), float("inf")])
def test_bad_rates(rate):
    with pytest.raises(UserError, match="a frame rate of"):
        cut({"u": ramp()}, [item()], rate, "angular", False)


def test_items_shorter_than_a_frame():
    with pytest.raises(UserError, match="none of 1 items is as long as a frame at 50 Hz"):
        cut({"u": ramp()}, [item(onset=0.5, offset=0.51)], 50, "angular", False)


def test_angular_distances():
    vectors = frame_vectors(
        [np.array([[2.0, 0], [0, 5]]), np.array([[-1.0, 0], [3, 3], [0, 0], [2, 0]])], discrete=False
    )
    distances = frame_distances(vectors, vectors)
    assert distances.dtype == np.float32
    np.testing.assert_allclose(distances[0], [0, 0.5, 1, 0.25, 1, 0], atol=1e-7)
    assert distances[4].tolist() == [1, 1, 1, 1, 0, 1]  # a zero vector: distant from all but zero vectors
    assert (np.diag(distances) == 0).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_distances_of_equal_vectors_do_not_depend_on_their_position(dtype):
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(5, 77)).astype(dtype)
    which = rng.integers(0, 5, 123)
    vectors = frame_vectors([kinds[which]], discrete=False)
    distances = frame_distances(vectors[:50], vectors)
    for a in range(5):
        for b in range(5):
            assert len(set(distances[which[:50] == a][:, which == b].ravel())) == 1
        assert (distances[which[:50] == a][:, which == a] == 0).all()


def test_distances_of_units():
    units = frame_vectors([np.array([3, 4]), np.array([3])], discrete=True)
    assert frame_distances(units, units).tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
