"""The ABX protocol: compared with loops over single triples and with the published scorer, and on known cases."""

import contextlib
import importlib.util
import io
import math
import sys
import types
from collections import defaultdict

import editdistance
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.measures.abx import errors as module
from dinosr_plugin.evaluation.measures.abx.errors import abx
from dinosr_plugin.evaluation.measures.abx.items import Item, write_items
from dinosr_plugin.evaluation.measures.abx.score import PAIR_COLUMNS, SPEAKER_COLUMNS
from dinosr_plugin.evaluation.table import format_table
from support.warping import slow_path

ALL = {"max_group": None, "max_speakers": None}


# ---- reference implementation in loops -------------------------------------------------------------------------------


def slow_distance(x: np.ndarray, y: np.ndarray, distance: str) -> float:
    if distance == "edit":
        one, other = ([u for i, u in enumerate(s) if i == 0 or u != s[i - 1]] for s in (x.tolist(), y.tolist()))
        return np.float32(editdistance.eval(one, other)) / np.float32(max(len(one), len(other)))
    table = np.array(
        [[slow_frames(a, b) if distance == "angular" else float(a != b) for b in y] for a in x], dtype=np.float32
    )
    cost, length = slow_path(table)
    return np.float32(cost) / np.float32(length)


def slow_frames(a: np.ndarray, b: np.ndarray) -> np.float32:
    a, b = a.astype(np.float64), b.astype(np.float64)
    one, other = np.linalg.norm(a), np.linalg.norm(b)
    if not one or not other:
        return np.float32(one != other)
    cosine = np.array([np.dot(a / one, b / other)]).astype(np.float32)
    return (np.arccos(np.clip(cosine, -1, 1)) / np.float32(np.pi))[0]


def slow_segment(features: dict, item: Item, rate: float) -> np.ndarray:
    array = features[item.utt]
    return array[
        max(0, math.ceil(rate * item.onset - 0.5)) : max(0, min(len(array), math.floor(rate * item.offset - 0.5)))
    ]


def slow_abx(features: dict, items: list, rate: float, distance: str) -> dict:
    """{"within": {(speaker, A, B): [error of each group triple]}, "across": ...}, nothing sampled."""
    groups = defaultdict(list)
    for item in items:
        frames = slow_segment(features, item, rate)
        if len(frames):
            groups[item.previous, item.following, item.speaker, item.phone].append(frames)
    errors = {"within": defaultdict(list), "across": defaultdict(list)}
    for (*context, speaker, a), group_a in groups.items():
        for (*context_b, speaker_b, b), group_b in groups.items():
            if context_b != context or speaker_b != speaker or b == a:
                continue
            if len(group_a) > 1:
                triples = [(i, j) for i in range(len(group_a)) for j in range(len(group_a)) if i != j]
                to_a = [
                    slow_distance(group_a[min(t)], group_a[max(t)], distance) for t in triples
                ]  # the earlier item first, as in the published scorer
                errors["within"][speaker, a, b].append(
                    slow_error([group_a[i] for i, _ in triples], to_a, group_b, distance)
                )
            for (*context_x, speaker_x, x), group_x in groups.items():
                if context_x == context and x == a and speaker_x != speaker:
                    to_a = [slow_distance(one, other, distance) for one in group_x for other in group_a]
                    errors["across"][speaker, a, b].append(
                        slow_error([one for one in group_x for _ in group_a], to_a, group_b, distance)
                    )
    return errors


def slow_error(xs: list, to_a: list, group_b: list, distance: str) -> float:
    right = total = 0
    for x, near in zip(xs, to_a):
        for b in group_b:
            far = slow_distance(x, b, distance)
            right, total = right + (near < far) + 0.5 * (near == far), total + 1
    return 1 - right / total


def slow_mean(errors: dict) -> float:
    pairs = defaultdict(list)
    for (_, a, b), values in errors.items():
        pairs[a, b].append(np.mean(values))
    return 100 * np.mean([np.mean(values) for values in pairs.values()])


# ---- small corpora ---------------------------------------------------------------------------------------------------


def corpus(
    seed: int, n: int, distance: str, speakers: str = "xyz", phones: str = "ABC", utts: int = 4, seconds: float = 3.0
) -> tuple:
    """(features at 20 Hz, items): frames with few distinct values, so that distances tie; some items end too late."""
    rng = np.random.default_rng(seed)
    length = int(20 * seconds)
    shape = (length, 2) if distance == "angular" else (length,)
    features = {
        f"u{i}": rng.integers(-1, 2, shape).astype(np.float32 if distance == "angular" else np.int16)
        for i in range(utts)
    }
    items = []
    for _ in range(n):
        onset = rng.uniform(0, seconds * 0.9)
        utt, previous, phone = f"u{rng.integers(utts)}", "KP"[rng.integers(2)], phones[rng.integers(len(phones))]
        items.append(
            Item(
                utt, onset, onset + rng.uniform(0.05, 0.5), phone, previous, "T", speakers[rng.integers(len(speakers))]
            )
        )
    return features, items


@pytest.mark.parametrize("distance", ["angular", "onehot", "edit"])
@given(seed=st.integers(0, 2**32), n=st.integers(3, 30))
@example(seed=222, n=3)  # every item is shorter than a frame
@settings(max_examples=25, deadline=None)
def test_against_loops(distance, seed, n):
    features, items = corpus(seed, n, distance)
    expected = slow_abx(features, items, 20, distance)
    if not any(expected.values()):
        has_frames = any(len(slow_segment(features, item, 20)) for item in items)
        with pytest.raises(
            UserError, match="nothing to compare" if has_frames else f"none of {n} items is as long as a frame"
        ):
            abx(features, items, 20, distance, **ALL)
        return
    result = abx(features, items, 20, distance, **ALL)
    for name, errors in expected.items():
        score = getattr(result, name)
        assert (score is None) == (not errors)
        if errors:
            assert score.error == pytest.approx(slow_mean(errors), abs=1e-9)
            for (speaker, a, b), values in errors.items():
                place = score.speakers.index(speaker), score.phones.index(a), score.phones.index(b)
                assert score.triples[place] == len(values)
                assert score.errors[place] == pytest.approx(100 * np.mean(values), abs=1e-9)
            assert score.triples.sum() == sum(map(len, errors.values()))


@pytest.mark.parametrize("distance", ["angular", "edit"])
def test_the_result_does_not_depend_on_task_sizes_and_workers(monkeypatch, distance):
    features, items = corpus(5, 200, distance)
    whole = abx(features, items, 20, distance, workers=1)
    for name in ("TASK_CELLS", "TABLE_CELLS", "COMPARISONS"):
        monkeypatch.setattr(module, name, 50)
    for workers in (1, 3):
        parts = abx(features, items, 20, distance, workers=workers)
        for name in ("within", "across"):
            np.testing.assert_array_equal(getattr(parts, name).errors, getattr(whole, name).errors)


# ---- against the published scorer ------------------------------------------------------------------------------------


@pytest.fixture
def published(monkeypatch, tmp_path):
    """``published(features, items, rate)`` -> errors in %, by zerospeech-libriabx2; skipped if it is not installed."""
    if importlib.util.find_spec("torchaudio") is None:
        monkeypatch.setitem(sys.modules, "torchaudio", types.ModuleType("torchaudio"))  # imported, not used for .npy
    library = pytest.importorskip("zrc_abx2")

    def published(features: dict, items: list, rate: float) -> dict:
        (tmp_path / "npy").mkdir(exist_ok=True)
        for utt, array in features.items():
            np.save(tmp_path / "npy" / f"{utt}.npy", array)
        write_items(tmp_path / "some-test.item", items)
        settings = library.EvalArgs(
            path_data=str(tmp_path / "npy"),
            path_item_file=str(tmp_path / "some-test.item"),
            feature_size=1 / rate,
            context_mode="within",
            max_size_group=10**6,
            max_x_across=10**6,
        )
        with contextlib.redirect_stdout(io.StringIO()):
            return {row["abx-s-condition"]: 100 * row["score"] for row in library.EvalABX().eval_abx(settings)}

    return published


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rate", [20, 50, 100])
def test_features_give_the_errors_of_the_published_scorer(published, rate):
    rng = np.random.default_rng(rate)
    _, items = corpus(1, 150, "onehot")
    items = [item._replace(onset=round(item.onset, 4), offset=round(item.offset, 4)) for item in items]
    features = {f"u{i}": rng.normal(size=(3 * rate, 13)).cumsum(axis=0).astype(np.float32) for i in range(4)}
    features["u0"][7:30] = 0  # some frames of digital silence
    expected, result = published(features, items, rate), abx(features, items, rate, "angular", **ALL)
    assert result.as_dict() == pytest.approx({**result.as_dict(), **expected}, abs=1e-3)


@pytest.mark.filterwarnings("ignore")
def test_units_give_the_errors_of_the_published_scorer(published):
    units, items = corpus(2, 150, "onehot", utts=2)
    items = [item._replace(onset=round(item.onset, 4), offset=round(item.offset, 4)) for item in items]
    one_hot = {utt: np.eye(3, dtype=np.float32)[array] for utt, array in units.items()}
    expected = published(one_hot, items, 20)
    result = abx(units, items, 20, "onehot", **ALL)
    assert result.across.error == pytest.approx(expected["across"], abs=1e-3)
    # ties depend on which of two items is first; the published scorer uses the order of the files
    assert result.within.error == pytest.approx(expected["within"], abs=0.1)
    for name in ("within", "across"):
        np.testing.assert_array_equal(
            getattr(abx(one_hot, items, 20, "angular", **ALL), name).errors, getattr(result, name).errors
        )


# ---- known results ---------------------------------------------------------------------------------------------------


def constant_phones(phones: dict, repeat: int = 3) -> tuple:
    """(features, items): speakers x and y say each phone ``repeat`` times, with the same vector, in frames of 10 ms."""
    names = [phone for phone in phones for _ in range(repeat)]
    features = {utt: np.repeat([phones[phone] for phone in names], 10, axis=0) for utt in "xy"}
    items = [Item(utt, i / 10, (i + 1) / 10, phone, "K", "T", utt) for utt in "xy" for i, phone in enumerate(names)]
    return features, items


def test_no_error_if_a_equals_x_and_b_is_orthogonal():
    features, items = constant_phones({"AA": [0.3, 0.0], "IY": [0.0, -7.0]})
    result = abx(features, items, 100, "angular")
    assert result.within.error == result.across.error == 0


def test_100_percent_across_speakers_with_exchanged_phones():
    features, items = constant_phones({"AA": [0.3, 0.0], "IY": [0.0, -7.0]})
    features["y"] = features["y"][::-1]  # AA of y equals IY of x
    assert abx(features, items, 100, "angular").within.error == 0
    assert abx(features, items, 100, "angular").across.error == 100


@pytest.mark.parametrize("vector", [[0.1, 0.7, -0.3], [0.0, 0.0, 0.0]])
def test_equal_features_are_at_chance(vector):
    features, items = constant_phones({"AA": vector, "IY": vector, "UW": vector})
    assert abx({utt: array.astype(np.float32) for utt, array in features.items()}, items, 100, "angular").as_dict() == {
        "within": 50.0, "across": 50.0, "items": 18, "too_short": 0, "missing": 0
    }  # fmt: skip


def test_zero_vectors_are_distant_from_all_others():
    features, items = constant_phones({"AA": [0.0, 0.0], "IY": [1.0, 0.0], "UW": [-1.0, 1e-3]})
    assert abx(features, items, 100, "angular").across.error == 0


def test_averages_are_over_contexts_then_speakers_then_pairs():
    vectors = {"AA": [1.0, 0.0], "IY": [0.0, 1.0]}
    features, items = constant_phones(vectors, repeat=2)
    features["mixed"] = np.repeat([vectors[p] for p in ("AA", "IY", "AA", "IY")], 10, axis=0)
    # in context P, speaker x says each phone once as AA and once as IY: one b is closer to x than a, the other ties
    items += [Item("mixed", i / 10, (i + 1) / 10, p, "P", "T", "x") for i, p in enumerate(("AA", "AA", "IY", "IY"))]
    score = abx(features, items, 100, "angular").within
    assert np.isnan(np.diagonal(score.errors, axis1=1, axis2=2)).all()
    assert score.errors[:, 0, 1].tolist() == score.errors[:, 1, 0].tolist() == [37.5, 0]  # x: mean of 0 and 75
    assert score.error == 18.75
    assert [row["error"] for row in score.speaker_rows()] == [37.5, 0.0]
    assert [(row["a"], row["b"], row["error"], row["speakers"], row["triples"]) for row in score.pair_rows()] == [
        ("AA", "IY", 18.75, 2, 3),
        ("IY", "AA", 18.75, 2, 3),
    ]
    assert "18.75" in format_table(score.pair_rows(), PAIR_COLUMNS) and "37.50" in format_table(
        score.speaker_rows(), SPEAKER_COLUMNS
    )


def test_one_speaker_gives_no_error_across_speakers():
    features, items = constant_phones({"AA": [1.0, 0.0], "IY": [0.0, 1.0]})
    result = abx(features, [item for item in items if item.speaker == "x"], 100, "angular")
    assert result.across is None and result.as_dict()["across"] is None and result.within.error == 0


# ---- items that are left out -----------------------------------------------------------------------------------------


def test_short_items_and_missing_utterances_are_counted():
    features, items = constant_phones({"AA": [1.0, 0.0], "IY": [0.0, 1.0]})
    items += [Item("x", 0.101, 0.104, "AA", "K", "T", "x"), Item("z", 0.0, 1.0, "AA", "K", "T", "z")]
    with pytest.raises(UserError, match=r"1 of 3 utterances of the items have no features \(z\)"):
        abx(features, items, 100, "angular")
    result = abx(features, items, 100, "angular", skip_missing=True)
    assert (result.items, result.too_short, result.missing) == (12, 1, 1)


def test_samples_depend_on_the_seed():
    features, items = corpus(3, 400, "angular", speakers="stuvwxyz", phones="AB")
    limits = {"max_group": 3, "max_speakers": 2}
    first, again, other = (abx(features, items, 20, "angular", seed=seed, **limits) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.across.errors, again.across.errors)
    assert first.across.error != other.across.error
    assert abx(features, items, 20, "angular", **ALL).across.triples.sum() == 2 * 2 * 8 * 7
    assert first.across.triples.sum() == 2 * 2 * 8 * 2  # contexts, ordered pairs, speakers, other speakers


def test_limits_that_are_not_reached_have_no_effect():
    features, items = corpus(4, 60, "angular")
    np.testing.assert_array_equal(
        abx(features, items, 20, "angular", max_group=60, max_speakers=2, seed=9).across.errors,
        abx(features, items, 20, "angular", **ALL).across.errors,
    )


def test_groups_are_limited_to_max_group(monkeypatch):
    features, items = constant_phones({"AA": [1.0, 0.0], "IY": [0.0, 1.0]}, repeat=12)
    seen = []
    monkeypatch.setattr(
        module, "_compute_distances", lambda task, distance: seen.extend(len(block.context.frames) for block in task)
    )
    abx(features, items, 100, "angular")
    assert set(seen) == {4 * module.MAX_GROUP}


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"distance": "cosine"}, "distance 'cosine': unknown; choose one of angular, onehot, edit"),
        ({"rate": 0}, "a frame rate of 0 Hz"),
        ({"max_group": 0}, "max_group is 0"),
        ({"max_speakers": -1}, "max_speakers is -1"),
        ({"distance": "edit"}, "x: float64 features"),
    ],
)
def test_bad_arguments(changed, message):
    features, items = constant_phones({"AA": [1.0, 0.0], "IY": [0.0, 1.0]})
    with pytest.raises(UserError, match=message):
        abx(features, items, **{"rate": 100, "distance": "angular", **changed})


def test_features_may_be_any_mapping_and_each_utterance_is_read_once():
    features, items = constant_phones({"AA": [1.0, 0.0], "IY": [0.0, 1.0]})
    reads = []

    class Lazy(dict):
        def __getitem__(self, utt):
            reads.append(utt)
            return super().__getitem__(utt).astype(np.float16)

    assert abx(Lazy(features), items, 100, "angular").within.error == 0
    assert reads == ["x", "y"]
