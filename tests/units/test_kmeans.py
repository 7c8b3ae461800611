"""k-means: quality compared with scikit-learn, reproducibility, bounded memory, its file, label files for manifests."""

import json
import re
import tracemalloc
from dataclasses import asdict, replace

import faiss
import numpy as np
import pytest
import soundfile

from dinosr_plugin import cli
from dinosr_plugin.data.check import check_manifest
from dinosr_plugin.data.validation import validate_labels
from dinosr_plugin.errors import UserError
from dinosr_plugin.units import clustering, kmeans
from dinosr_plugin.units import frames as frames_module
from dinosr_plugin.units.clustering import (
    Sums,
    assign,
    chunked,
    cluster,
    inertia_after,
    move,
    nearest,
    plus_plus,
    principal_components,
    step,
)
from dinosr_plugin.units.features import extract
from dinosr_plugin.units.frames import Reservoir, frames_of, stacked
from dinosr_plugin.units.kmeans import KMeans, KMeansMetadata, fit_kmeans, write_labels
from dinosr_plugin.units.unit_files import read_info
from support import paths
from support.training import write_corpus

GOLDEN = paths.GOLDEN / "official_format_tiny.pt"


class Frames(dict):
    """Features in a dictionary; counts the reads."""

    def __init__(self, arrays: dict):
        super().__init__(arrays)
        self.width, self.reads = next(iter(arrays.values())).shape[1], 0

    @property
    def utterances(self) -> list:
        return list(self)

    def __getitem__(self, utt: str) -> np.ndarray:
        self.reads += 1
        return super().__getitem__(utt)


def speechlike(n: int, width: int = 24, seed: int = 0) -> np.ndarray:
    """(n, width) float32: overlapping clusters of many sizes, far from the origin, most of the variance in few
    dimensions.
    """
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(40, width)) * 3
    scale = np.linspace(2, 0.1, width)
    which = rng.choice(40, n, p=rng.dirichlet(np.ones(40)))
    return (((centres[which] + rng.normal(size=(n, width))) * scale) + 50).astype(np.float32)


def corpus(frames: np.ndarray, utterances: int = 20) -> Frames:
    return Frames({f"u{i:03d}": part for i, part in enumerate(np.array_split(frames, utterances))})


def mean_distance(frames: np.ndarray, centroids: np.ndarray) -> float:
    """Computed from the definition, in float64."""
    squares = [
        ((part[:, None].astype(np.float64) - centroids[None]) ** 2).sum(axis=2).min(axis=1)
        for part in np.array_split(frames, 50)
    ]
    return float(np.concatenate(squares).mean())


# ---- quality ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", clustering.INITS)
def test_blobs_are_found(init):
    rng = np.random.default_rng(0)
    which = rng.integers(0, 4, 3000)
    frames = (np.eye(4)[which] * 20 + rng.normal(0, 1, (3000, 4))).astype(np.float32)
    found = fit_kmeans(corpus(frames), 4, seed=1, init=init, restarts=5, passes=1)
    assert found.centroids.shape == (4, 4) and found.centroids.dtype == np.float32
    assert len(set(zip(found.units(frames), which))) == 4
    assert found.meta.inertia == pytest.approx(mean_distance(frames, found.centroids), rel=1e-4)


@pytest.mark.parametrize("k", [8, 64])
def test_inertia_is_no_worse_than_scikit_learns(k):
    sklearn = pytest.importorskip("sklearn.cluster")
    frames = speechlike(20_000)
    ours = {
        passes: mean_distance(frames, fit_kmeans(corpus(frames), k, seed=0, passes=passes).centroids)
        for passes in (0, 10)
    }
    mini = sklearn.MiniBatchKMeans(k, random_state=0, n_init=3).fit(frames).cluster_centers_
    full = sklearn.KMeans(k, random_state=0, n_init=1).fit(frames).cluster_centers_
    assert ours[10] <= ours[0] <= 1.01 * mean_distance(frames, mini)
    assert ours[10] <= min(1.02 * mean_distance(frames, full), mean_distance(frames, mini))


def test_offset_does_not_cost_precision():
    frames = speechlike(500) + 3000
    _, labels = nearest(frames, frames[:30])
    exact = ((frames[:, None].astype(np.float64) - frames[None, :30]) ** 2).sum(axis=2)
    np.testing.assert_allclose(exact[np.arange(500), labels], exact.min(axis=1), rtol=1e-4)


def test_assign_is_the_nearest_on_any_layout_and_length(monkeypatch):
    monkeypatch.setattr(clustering, "CHUNK", 7)
    frames, centroids = speechlike(50), speechlike(9, seed=1)
    expected = ((frames[:, None] - centroids[None]) ** 2).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(assign(np.asfortranarray(frames), centroids), expected)
    assert assign(frames[:0], centroids).shape == (0,) and assign(frames[:0], centroids).dtype == np.int64


def test_the_best_start_is_chosen(monkeypatch):
    frames, tried = speechlike(4000), []
    start = clustering.plus_plus
    monkeypatch.setattr(clustering, "plus_plus", lambda *given: tried.append(start(*given)) or tried[-1])
    chosen = clustering.best_start(frames, 30, "k-means++", 4, np.random.default_rng(0))
    assert len(tried) == 4

    def steps(centroids):
        for _ in range(clustering.TRIAL_STEPS):
            centroids = move(centroids, step(chunked(frames), centroids), frames, np.random.default_rng(0))
        return mean_distance(frames, centroids)

    assert mean_distance(frames, chosen) == pytest.approx(min(map(steps, tried)), rel=1e-5)


# ---- parts of the algorithm ------------------------------------------------------------------------------------------


def test_a_step_gives_the_means_and_the_inertia(monkeypatch):
    monkeypatch.setattr(clustering, "CHUNK", 64)
    frames = speechlike(1000)
    centroids = frames[:12]
    sums, labels = step(chunked(frames), centroids), assign(frames, centroids)
    np.testing.assert_array_equal(sums.counts, np.bincount(labels, minlength=12))
    means = np.stack([frames[labels == i].mean(axis=0, dtype=np.float64) for i in range(12)])
    np.testing.assert_allclose(sums.means(), means, rtol=1e-5)
    assert sums.inertia / 1000 == pytest.approx(mean_distance(frames, centroids), rel=1e-4)
    assert inertia_after(centroids, sums) == pytest.approx(((frames - means[labels]) ** 2).sum(), rel=1e-4)
    np.testing.assert_allclose(move(centroids, sums, frames, np.random.default_rng(0)), means, rtol=1e-5)
    np.testing.assert_allclose(
        move(centroids, sums, frames, np.random.default_rng(0), 2), 2 * means - centroids, rtol=1e-4
    )


def test_empty_clusters_get_frames_far_from_all_centroids():
    frames = np.concatenate([np.zeros((90, 2)), np.full((10, 2), 100.0)]).astype(np.float32)
    centroids = np.array([[0, 0], [1e4, 1e4], [-1e4, 1e4]], np.float32)
    sums = step(chunked(frames), centroids)
    assert sums.counts.tolist() == [100, 0, 0]
    moved = move(centroids, sums, frames, np.random.default_rng(0))
    np.testing.assert_allclose(moved[0], [10, 10])
    assert {tuple(row) for row in moved[1:].tolist()} == {
        (100.0, 100.0),
        (0.0, 0.0),
    }  # once the farther one is taken, the nearer one is the farthest


def test_plus_plus_draws_no_frame_twice_and_spreads():
    frames = np.repeat(np.eye(5, dtype=np.float32) * 10, 200, axis=0)
    assert len(np.unique(plus_plus(frames, 5, np.random.default_rng(0)), axis=0)) == 5
    assert len(np.unique(plus_plus(frames, 4, np.random.default_rng(0), frames[:1]), axis=0)) == 4
    assert np.isfinite(plus_plus(frames, 9, np.random.default_rng(0))).all()  # more than there are distinct frames


def test_principal_components_keep_distances():
    frames = speechlike(2000, width=96)
    few = principal_components(frames)(frames)
    assert few.shape[1] < 64 and few.dtype == np.float32
    variance = np.var(frames, axis=0).sum()
    assert clustering.PCA_VARIANCE * variance <= np.var(few, axis=0).sum() * 1.0001 <= variance * 1.001
    assert principal_components(frames[:, :10])(frames[:30, :10]).shape == (30, 10)
    same = np.ones((50, 40), np.float32)  # no variance
    assert np.isfinite(principal_components(same)(same)).all()


def test_more_clusters_than_different_frames():
    frames = np.repeat(np.eye(3, dtype=np.float32), 10, axis=0)
    found = fit_kmeans(corpus(frames, 2), 8, seed=0, passes=2)
    assert np.isfinite(found.centroids).all() and found.meta.inertia == pytest.approx(0, abs=1e-6)


# ---- reproducibility and memory --------------------------------------------------------------------------------------


def test_more_clusters_than_different_frames_are_pointed_out(caplog):
    """Silent recordings, or a model that has collapsed."""
    equal = corpus(np.full((200, 4), 0.1, np.float32))
    assert fit_kmeans(equal, 8, seed=0).meta.inertia >= 0
    assert caplog.messages == [
        "k-means: only 1 of 200 frames differ, fewer than 8 clusters; check that the recordings are not silent and "
        "that the model has not collapsed, or fit fewer clusters"
    ]
    caplog.clear()
    fit_kmeans(equal, 1, seed=0)
    fit_kmeans(corpus(speechlike(200)), 8, seed=0)
    assert not caplog.records


def test_the_seed_matters_and_the_order_does_not():
    features = corpus(speechlike(9000))
    first = fit_kmeans(features, 40, seed=3, passes=1)
    turned = Frames(dict(reversed([*features.items()])))
    np.testing.assert_array_equal(first.centroids, fit_kmeans(turned, 40, seed=3, passes=1).centroids)
    assert not np.array_equal(first.centroids, fit_kmeans(features, 40, seed=4, passes=1).centroids)


def test_streaming_equals_in_memory(monkeypatch):
    monkeypatch.setattr(frames_module, "SAMPLE_AT_LEAST", 2000)
    features = corpus(speechlike(30_000), 60)
    features.reads = 0
    whole = fit_kmeans(features, 10, seed=0, passes=3)
    assert features.reads == 60
    part = fit_kmeans(features, 10, seed=0, passes=3, max_bytes=14_000 * 128)
    assert features.reads == 60 * 5
    np.testing.assert_array_equal(whole.centroids, part.centroids)
    assert whole.meta == part.meta and whole.meta.measured == whole.meta.frames == 30_000


def test_the_sample_is_random_and_does_not_depend_on_the_memory():
    frames = np.arange(50_000, dtype=np.float32)[:, None]
    small, large = Reservoir(3000, 1, seed=0), Reservoir(60_000, 1, seed=0)
    for i, part in enumerate(np.array_split(frames, 37)):
        small.add(f"u{i}", part)
        large.add(f"u{i}", part)
    np.testing.assert_array_equal(large.frames, frames)
    assert small.seen == 50_000 and 2400 <= small.kept <= 3000
    np.testing.assert_array_equal(small.lowest(2000), large.lowest(2000))
    assert len(np.unique(small.lowest(2000))) == 2000
    assert np.histogram(small.lowest(2000), bins=10, range=(0, 50_000))[0] == pytest.approx(200, abs=60)


def test_memory_stays_within_its_bound():
    class Endless(Frames):
        """100,000 frames that are generated on access."""

        utterances = [f"u{i:04d}" for i in range(1000)]

        def __init__(self):
            self.width = 64

        def __len__(self):
            return 1000

        def __getitem__(self, utt):
            return np.random.default_rng(int(utt[1:])).normal(size=(100, 64)).astype(np.float32)

    fit_kmeans(corpus(speechlike(500)), 3, seed=0)  # imports
    bound = 8 << 20  # all the frames are 26 MB
    tracemalloc.start()
    found = fit_kmeans(Endless(), 8, seed=0, passes=1, max_bytes=bound)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.meta.frames == found.meta.measured == 100_000
    assert peak < bound + 4 * clustering.CHUNK * 64 * 4  # a chunk, a copy of it, and the memory of a step


def test_size_of_the_sample(monkeypatch):
    for least, expected in ((50, 256 * 3), (1000, 1000), (10_000, 3000)):
        monkeypatch.setattr(frames_module, "SAMPLE_AT_LEAST", least)
        found = fit_kmeans(corpus(speechlike(3000)), 3, seed=0)
        assert (found.meta.measured, found.meta.frames) == (expected, 3000)


def test_chunks_are_full_whatever_the_utterances(monkeypatch):
    monkeypatch.setattr(frames_module, "CHUNK", 8)
    frames = speechlike(61)
    features = Frames({"a": frames[:3], "b": frames[3:30], "c": frames[30:30], "d": frames[30:]})
    parts = [part.copy() for part in stacked(features, features.utterances)]
    assert [len(part) for part in parts] == [8] * 7 + [5]
    np.testing.assert_array_equal(np.concatenate(parts), frames)


def test_float16_is_computed_in_float32():
    frames = speechlike(3000).astype(np.float16)
    half, single = corpus(frames), corpus(frames.astype(np.float32))
    assert frames_of(half, "u000").dtype == np.float32
    np.testing.assert_array_equal(fit_kmeans(half, 5, seed=0).centroids, fit_kmeans(single, 5, seed=0).centroids)


# ---- standardized utterances -----------------------------------------------------------------------------------------


def blobs(utterances: int = 12, n: int = 300, seed: int = 0) -> tuple[Frames, dict]:
    """Four well-separated clusters, with another offset and scale in each utterance; and the cluster of every frame."""
    rng = np.random.default_rng(seed)
    arrays, which = {}, {}
    for i in range(utterances):
        utt = f"u{i:03d}"
        which[utt] = rng.permutation(np.arange(n) % 4)
        frames = np.eye(4)[which[utt]] * 20 + rng.normal(size=(n, 4))
        arrays[utt] = (frames * rng.uniform(0.5, 2, 4) + rng.normal(0, 50, 4)).astype(np.float32)
    return Frames(arrays), which


def by_hand(frames: np.ndarray) -> np.ndarray:
    """Mean 0 and variance 1 over the frames, computed in float64."""
    frames = frames.astype(np.float64)
    return ((frames - frames.mean(0)) / np.sqrt(((frames - frames.mean(0)) ** 2).mean(0) + 1e-5)).astype(np.float32)


def test_standardized_clusters_are_those_of_features_standardized_by_hand():
    features, which = blobs()
    found = fit_kmeans(features, 4, seed=0, passes=2, normalize=True)
    plain = fit_kmeans(Frames({utt: by_hand(features[utt]) for utt in features}), 4, seed=0, passes=2)
    assert found.meta.normalize and not plain.meta.normalize
    np.testing.assert_allclose(found.centroids, plain.centroids, atol=1e-4)
    for utt in features:
        np.testing.assert_array_equal(found.units(features[utt]), plain.units(by_hand(features[utt])))
    assert (
        len({pair for utt in features for pair in zip(found.units(features[utt]), which[utt])}) == 4
    )  # one unit per cluster, whatever the voice


def test_standardized_labels_are_those_computed_by_hand(spoken):
    tsv, features = spoken
    found = fit_kmeans(features, 5, seed=0, normalize=True)
    found.save(tsv.parent / "km.npz")
    write_labels(KMeans.load(tsv.parent / "km.npz"), features, tsv, tsv.with_suffix(".km"))
    for name, line in zip("badc", tsv.with_suffix(".km").read_text().splitlines(), strict=True):
        np.testing.assert_array_equal(
            np.array(line.split(), dtype=int), assign(by_hand(features[name]), found.centroids)
        )


def test_an_utterance_of_equal_frames_gives_no_nan():
    features = corpus(speechlike(400), 4)
    features["u001"] = np.full((30, 24), 0.1, np.float32)
    features["u002"] = np.full((1, 24), 1e4, np.float32)
    found = fit_kmeans(features, 5, seed=0, passes=1, normalize=True)
    assert np.isfinite(found.centroids).all() and np.isfinite(found.meta.inertia)
    assert np.abs(kmeans.standardize(features["u001"])).max() < 0.01 and not kmeans.standardize(features["u002"]).any()


def test_an_older_file_loads(tmp_path):
    """A file without the fields for standardization and old labels."""
    found = fit_kmeans(corpus(speechlike(100)), 3, seed=0)
    meta = {
        name: value
        for name, value in vars(found.meta).items()
        if name not in ("normalize", "labels_changed", "labels_nmi")
    }
    np.savez(
        tmp_path / "old.npz", centroids=found.centroids, meta=np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
    )
    again = KMeans.load(tmp_path / "old.npz")
    assert again.meta == found.meta and not again.meta.normalize
    np.testing.assert_array_equal(again.units(speechlike(50)), assign(speechlike(50), found.centroids))


# ---- from old labels -------------------------------------------------------------------------------------------------


def all_units(found: KMeans, features: Frames) -> np.ndarray:
    return np.concatenate([found.units(features[utt]) for utt in features])


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("passes", [0, 2])
def test_clusters_keep_the_numbers_of_the_old_labels(normalize, passes, monkeypatch):
    """Counted over all frames, of which the sample is a part; a tenth of the old labels is wrong."""
    metrics = pytest.importorskip("sklearn.metrics")
    monkeypatch.setattr(frames_module, "SAMPLE_AT_LEAST", 500)
    monkeypatch.setattr(frames_module, "SAMPLE", 10)
    features, which = blobs()
    if not normalize:
        features = Frames({utt: by_hand(features[utt]) for utt in features})
    rng = np.random.default_rng(5)
    number = rng.permutation(4)
    old = {utt: np.where(rng.random(300) < 0.1, rng.integers(4, size=300), number[which[utt]]) for utt in features}
    found = fit_kmeans(features, 4, seed=0, passes=passes, normalize=normalize, old_labels=old)
    new, before = all_units(found, features), np.concatenate([old[utt] for utt in features])
    np.testing.assert_array_equal(new, number[np.concatenate([which[utt] for utt in features])])
    assert found.meta.labels_changed == pytest.approx(np.mean(new != before)) and 0.05 < found.meta.labels_changed < 0.1
    assert found.meta.labels_nmi == pytest.approx(metrics.normalized_mutual_info_score(before, new))
    assert (found.meta.init, found.meta.measured) == ("labels", 500 if passes == 0 else 3600)


def test_kmeans_begins_with_the_means_under_the_old_labels(monkeypatch):
    """The means are over all frames, not over the sample; a label without frames begins with a frame of the sample."""
    began = []
    monkeypatch.setattr(
        kmeans, "cluster", lambda sample, k, seed, init, restarts, start: began.append((sample, start)) or (start, 1.0)
    )
    monkeypatch.setattr(frames_module, "SAMPLE_AT_LEAST", 100)
    monkeypatch.setattr(frames_module, "SAMPLE", 10)
    features = corpus(speechlike(2000))
    old = {utt: np.random.default_rng(i).choice([0, 1, 3, 4], 100) for i, utt in enumerate(features)}
    found = fit_kmeans(features, 6, seed=0, old_labels=old)
    ((sample, start),) = began
    frames, labels = speechlike(2000), np.concatenate([*old.values()])
    for label in (0, 1, 3, 4):
        np.testing.assert_allclose(start[label], frames[labels == label].mean(0, dtype=np.float64), rtol=1e-5)
    assert (
        len(sample) == 100
        and all((sample == start[label]).all(1).any() for label in (2, 5))
        and not np.array_equal(start[2], start[5])
    )
    assert sorted(map(tuple, found.centroids)) == sorted(map(tuple, start))


def test_old_labels_need_not_fit_in_memory_with_all_frames(monkeypatch):
    monkeypatch.setattr(frames_module, "SAMPLE_AT_LEAST", 2000)
    features = corpus(speechlike(30_000), 60)
    old = {utt: np.random.default_rng(i).integers(10, size=500) for i, utt in enumerate(features)}
    whole, part = (
        fit_kmeans(features, 10, seed=0, old_labels=old, max_bytes=most) for most in (kmeans.MAX_BYTES, 14_000 * 128)
    )
    np.testing.assert_array_equal(whole.centroids, part.centroids)
    assert whole.meta == part.meta and 0 < whole.meta.labels_changed < 0.9


@pytest.mark.parametrize("more", [-2, -1, 1, 2])
def test_old_labels_may_be_a_little_shorter_or_longer(more):
    features, which = blobs(3)
    features = Frames({utt: by_hand(features[utt]) for utt in features})
    changed = {**which, "u001": np.append(which["u001"], [0, 0])[: 300 + more]}
    exact, found = (fit_kmeans(features, 4, seed=0, old_labels=labels) for labels in (which, changed))
    np.testing.assert_allclose(found.centroids, exact.centroids, atol=1e-4)
    assert exact.meta.labels_changed == found.meta.labels_changed == 0 and exact.meta.labels_nmi == pytest.approx(1)


@pytest.mark.parametrize(
    "labels, message",
    [
        (
            np.zeros(297, int),
            "u001 has 297 labels and 300 frames; give labels of the same utterances at the rate of the features",
        ),
        (np.zeros(600, int), "u001 has 600 labels and 300 frames"),
        (np.full(300, 4), "u001 has labels from 4 to 4, outside 0 to 3 for 4 clusters"),
        (None, "no labels for u001; give labels of the utterances to cluster"),
    ],
)
def test_old_labels_that_do_not_fit(labels, message):
    features, which = blobs(3)
    given = {utt: old for utt, old in {**which, "u001": labels}.items() if old is not None}
    with pytest.raises(UserError, match=f"--from-labels: {message}"):
        fit_kmeans(features, 4, seed=0, old_labels=given)


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_names_the_utterance(value):
    features = corpus(speechlike(100), 4)
    features["u002"][3, 1] = value
    with pytest.raises(UserError, match="u002: its features contain NaN or infinity"):
        fit_kmeans(features, 2, seed=0)


def test_width_that_changes():
    features = corpus(speechlike(100), 4)
    features["u001"] = np.zeros((5, 3), np.float32)
    with pytest.raises(UserError, match=r"u001: features of shape \(5, 3\), but the width of the others is 24"):
        fit_kmeans(features, 2, seed=0)


@pytest.mark.parametrize(
    "k, given, message",
    [
        (101, {}, "100 frames are too few for 101 clusters; give more audio or a smaller k"),
        (0, {}, "k = 0; give at least 1"),
        (2, {"restarts": 0}, "restarts = 0"),
        (2, {"passes": -1}, "passes = -1"),
        (2, {"init": "kmeans"}, "unknown init 'kmeans'; choose one of k-means"),
        (50, {"max_bytes": 2000}, "0 MiB of memory hold 3 frames of width 24, too few for 50 clusters; allow more"),
    ],
)
def test_invalid_values(k, given, message):
    with pytest.raises(UserError, match=message):
        fit_kmeans(corpus(speechlike(100)), k, seed=0, **given)


def test_no_utterances():
    features = corpus(speechlike(10))
    features.clear()
    with pytest.raises(UserError, match="no utterances"):
        fit_kmeans(features, 2, seed=0)


def test_as_many_clusters_as_frames():
    frames = speechlike(30)
    assert fit_kmeans(corpus(frames), 30, seed=0, passes=1).meta.inertia == pytest.approx(0, abs=1e-3)


# ---- the file --------------------------------------------------------------------------------------------------------


@pytest.fixture
def fitted() -> KMeans:
    return fit_kmeans(
        corpus(speechlike(900)), 6, seed=2, rate=50.0, source={"kind": "model", "layer": 3, "checkpoint": "a.pt"}
    )


def test_file_round_trip(fitted, tmp_path):
    fitted.save(tmp_path / "new" / "km.npz")
    again = KMeans.load(tmp_path / "new" / "km.npz")
    np.testing.assert_array_equal(again.centroids, fitted.centroids)
    assert again.meta == fitted.meta and again.meta.features["layer"] == 3
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["km.npz"]
    assert (again.meta.k, again.meta.width, again.meta.rate, again.meta.seed, again.meta.frames) == (
        6,
        24,
        50.0,
        2,
        900,
    )


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"text"])
def test_damaged_files(tmp_path, content):
    (tmp_path / "km.npz").write_bytes(content)
    with pytest.raises(UserError, match="km.npz: not a k-means file, or damaged"):
        KMeans.load(tmp_path / "km.npz")
    with pytest.raises(UserError, match="absent.npz: no such file; create it with `dinosr kmeans fit`"):
        KMeans.load(tmp_path / "absent.npz")


def test_truncated_files_and_other_files(fitted, tmp_path):
    fitted.save(tmp_path / "km.npz")
    whole = (tmp_path / "km.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    np.save(tmp_path / "array.npz", np.zeros(3))  # is written to array.npz.npy
    (tmp_path / "array.npz.npy").rename(tmp_path / "array.npz") if (tmp_path / "array.npz.npy").exists() else None
    for name in ("cut", "other", "array"):
        with pytest.raises(UserError, match=f"{name}.npz: not a k-means file"):
            KMeans.load(tmp_path / f"{name}.npz")
    replace(fitted, centroids=fitted.centroids[:5]).save(tmp_path / "five.npz")
    with pytest.raises(UserError, match=r"five.npz: damaged: its centroids are not \(6, 24\)"):
        KMeans.load(tmp_path / "five.npz")


@pytest.mark.parametrize(
    "field, value",
    [("k", "6"), ("k", 10**12), ("width", 0), ("rate", "x"), ("inertia", float("nan")), ("features", 1), ("other", 1)],
)
def test_impossible_metadata_is_refused(fitted, field, value, tmp_path):
    meta = json.dumps({**asdict(fitted.meta), field: value}).encode()
    np.savez(tmp_path / "km.npz", centroids=fitted.centroids, meta=np.frombuffer(meta, dtype=np.uint8))
    with pytest.raises(UserError, match="km.npz: (not a k-means file|damaged)"):
        KMeans.load(tmp_path / "km.npz")


def test_other_features_than_it_was_fitted_on(fitted):
    fitted.require_same(24, 50.0, {"kind": "model", "layer": 3, "checkpoint": "moved/a.pt"})
    fitted.require_same(24)
    for given, message in [
        ((25,), "width 25, but the k-means was fitted on width 24"),
        ((24, 100.0), "rate 100.0, but"),
        ((24, 50.0, {"layer": 4}), "layer 4, but the k-means was fitted on layer 3"),
    ]:
        with pytest.raises(UserError, match=message):
            fitted.require_same(*given)


# ---- label files -----------------------------------------------------------------------------------------------------


@pytest.fixture
def spoken(tmp_path):
    """A manifest of four files, not in the order of the features, and their features."""
    samples = {"b": 6400, "a": 3200, "d": 12800, "c": 9600}
    frames = speechlike(100)
    for name, length in samples.items():
        soundfile.write(
            tmp_path / f"{name}.wav", np.random.default_rng(0).normal(0, 0.1, length).astype(np.float32), 16_000
        )
    (tmp_path / "part.tsv").write_text(
        "\n".join([str(tmp_path), *(f"{name}.wav\t{length}" for name, length in samples.items())]) + "\n"
    )
    return tmp_path / "part.tsv", Frames(dict(zip("abcd", np.split(frames, [10, 30, 60]))))


def test_labels_match_the_manifest(fitted, spoken):
    tsv, features = spoken
    assert write_labels(fitted, features, tsv, tsv.with_suffix(".km")) == 100
    rows = [np.array(line.split(), dtype=int) for line in tsv.with_suffix(".km").read_text().splitlines()]
    for name, units in zip("badc", rows, strict=True):
        np.testing.assert_array_equal(units, fitted.units(features[name]))
    assert (tsv.parent / "dict.km.txt").read_text().splitlines() == [f"{unit} 1" for unit in range(6)]
    validate_labels(tsv, "km", 4)
    assert check_manifest(tsv).problems == []
    assert not list(tsv.parent.glob(".*"))


def test_missing_utterances_are_counted(fitted, spoken):
    tsv, features = spoken
    del features["a"], features["d"]
    with pytest.raises(UserError, match="part.tsv: 2 of 4 utterances have no features: a, d; create them"):
        write_labels(fitted, features, tsv, tsv.with_suffix(".km"))
    assert not tsv.with_suffix(".km").exists()


def test_no_partial_file(fitted, spoken):
    tsv, features = spoken
    features["c"][0, 0] = np.nan
    with pytest.raises(UserError, match="c: its features contain NaN"):
        write_labels(fitted, features, tsv, tsv.with_suffix(".km"))
    features["c"] = features["c"][:0]
    with pytest.raises(UserError, match="c: has no frames; remove it from"):
        write_labels(fitted, features, tsv, tsv.with_suffix(".km"))
    assert {path.suffix for path in tsv.parent.iterdir()} == {".wav", ".tsv"}


def test_labels_of_a_manifest_that_is_empty_or_ambiguous(fitted, spoken):
    tsv, features = spoken
    tsv.write_text(f"{tsv.parent}\nx/a.wav\t1600\ny/a.wav\t1600\n")
    with pytest.raises(UserError, match="same utterance id as x/a.wav"):
        write_labels(fitted, features, tsv, tsv.with_suffix(".km"))
    tsv.write_text(f"{tsv.parent}\n")
    with pytest.raises(UserError, match="empty manifest"):
        write_labels(fitted, features, tsv, tsv.with_suffix(".km"))


def test_labels_of_features_of_another_width(fitted, spoken):
    tsv, _ = spoken
    with pytest.raises(UserError, match="features of width 3, but the k-means was fitted on width 24"):
        write_labels(fitted, Frames({"a": np.zeros((4, 3), np.float32)}), tsv, tsv.with_suffix(".km"))


def test_cluster_of_one_is_the_mean():
    frames = speechlike(700)
    centroids, inertia = cluster(frames, 1, seed=0)
    np.testing.assert_allclose(centroids[0], frames.mean(axis=0, dtype=np.float64), rtol=1e-5)
    assert inertia == pytest.approx(np.var(frames.astype(np.float64), axis=0).sum(), rel=1e-4)


def test_sums_of_no_frames_are_zero():
    sums = Sums.zeros(3, 2)
    sums.add(np.zeros((0, 2), np.float32), np.zeros(0, np.int64))
    assert sums.counts.tolist() == [0, 0, 0] and not sums.means().any()


# ---- next to other labels --------------------------------------------------------------------------------------------


def test_parts_of_a_corpus_share_a_dictionary(fitted, spoken):
    """train.km and valid.km of one k-means; an existing order, with which models may have been trained, is kept."""
    tsv, features = spoken
    write_labels(fitted, features, tsv, tsv.with_name("valid.km"))
    turned = "".join(f"{unit} 7\n" for unit in reversed(range(6)))
    (tsv.parent / "dict.km.txt").write_text(turned)
    assert write_labels(fitted, features, tsv, tsv.with_name("train.km")) == 100
    assert (tsv.parent / "dict.km.txt").read_text() == turned


def test_labels_of_another_number_of_clusters(fitted, spoken):
    tsv, features = spoken
    (tsv.parent / "dict.km.txt").write_text("".join(f"{unit} 1\n" for unit in range(5)))
    with pytest.raises(
        UserError,
        match="dict.km.txt: contains 5 other labels, but these are 6; give another folder",
    ):
        write_labels(fitted, features, tsv, tsv.with_suffix(".km"))
    assert not tsv.with_suffix(".km").exists()


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("speech"), lengths=(16000, 9000, 12345, 16000)) / "train.tsv"


def dinosr(*words) -> int:
    return cli.main(["kmeans", *map(str, words)])


def test_directly_from_a_checkpoint(speech, tmp_path, capsys):
    """The labels are the same as from a feature folder."""
    extract(GOLDEN, speech, tmp_path / "folder", layer=1, weights="teacher")
    assert dinosr("fit", tmp_path / "folder", "--clusters", 8, "--out", tmp_path / "folder.npz") == 0
    assert (
        dinosr(
            "fit",
            GOLDEN,
            "--manifest",
            speech,
            "--layer",
            1,
            "--weights",
            "teacher",
            "--clusters",
            8,
            "--out",
            tmp_path / "live.npz",
        )
        == 0
    )
    stored, live = KMeans.load(tmp_path / "folder.npz"), KMeans.load(tmp_path / "live.npz")
    np.testing.assert_allclose(live.centroids, stored.centroids, atol=1e-3)
    assert (live.meta.features, live.meta.rate, live.meta.frames) == (
        stored.meta.features,
        stored.meta.rate,
        stored.meta.frames,
    )
    assert dinosr("apply", tmp_path / "live.npz", tmp_path / "folder", speech, "--out", tmp_path / "folder.km") == 0
    assert dinosr("apply", tmp_path / "live.npz", GOLDEN, speech, "--out", tmp_path / "live.km") == 0
    assert (tmp_path / "live.km").read_text() == (tmp_path / "folder.km").read_text()
    assert re.search(r"live.npz: 8 clusters, mean squared distance \S+ over all 163 frames\n", capsys.readouterr().out)


def test_directly_from_audio(speech, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(frames_module, "SAMPLE_AT_LEAST", 50)
    monkeypatch.setattr(frames_module, "SAMPLE", 10)
    assert dinosr("fit", "--mfcc", "--manifest", speech, "--clusters", 8, "--out", tmp_path / "mfcc.npz") == 0
    assert "over 80 frames, a random sample of 163" in capsys.readouterr().out
    assert dinosr("apply", tmp_path / "mfcc.npz", speech, "--out", tmp_path / "mfcc.km") == 0
    info = read_info(tmp_path / "mfcc.km")
    assert (info.rate, info.first_centre, info.size) == (50.0, 0.0125, KMeans.load(tmp_path / "mfcc.npz").meta.k)
    assert sum(len(line.split()) for line in (tmp_path / "mfcc.km").read_text().splitlines()) == 163


def test_next_round_from_the_command_line(speech, tmp_path, capsys):
    """The same features give nearly the same labels; another layer, standardized, changes more. The printed values are
    those of the files.
    """
    (tmp_path / "old").mkdir()
    tsv = tmp_path / "old" / speech.name
    tsv.write_text(speech.read_text())
    of_layer = lambda layer: ("fit", GOLDEN, "--manifest", speech, "--layer", layer, "--clusters", 8)
    assert (
        dinosr(*of_layer(1), "--out", tmp_path / "old.npz")
        == dinosr("apply", tmp_path / "old.npz", GOLDEN, speech, "--out", tsv.with_suffix(".km"))
        == 0
    )
    again = ("--from-labels", tsv.with_suffix(".km"), "--out", tmp_path / "new.npz")
    assert dinosr(*of_layer(1), *again) == 0
    same = KMeans.load(tmp_path / "new.npz").meta
    assert same.labels_changed < 0.2 and same.labels_nmi > 0.8
    capsys.readouterr()
    assert (
        dinosr(*of_layer(0), "--normalize", *again)
        == dinosr("apply", tmp_path / "new.npz", GOLDEN, speech, "--out", tsv.with_name("new.km"))
        == 0
    )
    other = KMeans.load(tmp_path / "new.npz").meta
    assert other.normalize and other.labels_changed > same.labels_changed
    old, new = (
        np.array(tsv.with_name(name).read_text().split(), dtype=int) for name in (tsv.with_suffix(".km").name, "new.km")
    )
    assert other.labels_changed == pytest.approx(np.mean(old != new))
    summary = (
        f"labels of {tsv.with_suffix('.km')}: {100 * other.labels_changed:.1f} % changed, NMI {other.labels_nmi:.3f}"
    )
    assert summary in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    "broken, words, message",
    [
        (
            lambda folder: (folder / "dict.km.txt").write_text("0 1\n1 1\n2 1\n"),
            [],
            "dict.km.txt: contains 3 labels, but --clusters is 4; give --clusters 3",
        ),
        (
            lambda folder: (folder / "dict.km.txt").unlink(),
            [],
            "dict.km.txt: no such file; `dinosr kmeans apply` writes it",
        ),
        (lambda folder: (folder / "train.tsv").unlink(), [], "train.tsv: no such file"),
        (lambda folder: (folder / "train.km").unlink(), [], "train.km: no such file"),
        (lambda folder: (folder / "train.km").write_text("0 1\n"), [], "train.km: 1 lines, but"),
        (lambda folder: (folder / "train.km").write_text("0 1\n" * 4), [], "has 2 labels and"),
        (lambda folder: None, ["--restarts", "3"], "--restarts 3: not used with --from-labels; omit one of the two"),
    ],
)
def test_old_labels_that_cannot_be_used(speech, tmp_path, capsys, broken, words, message):
    folder = tmp_path / "labels"
    folder.mkdir()
    (folder / "train.tsv").write_text(speech.read_text())
    (folder / "train.km").write_text("0 1\n" * 4)
    (folder / "dict.km.txt").write_text("".join(f"{label} 1\n" for label in range(4)))
    broken(folder)
    fit = (
        "fit",
        "--mfcc",
        "--manifest",
        speech,
        "--clusters",
        4,
        "--from-labels",
        folder / "train.km",
        "--out",
        tmp_path / "km.npz",
    )
    assert dinosr(*fit, *words) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error and not (tmp_path / "km.npz").exists()


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "give either a folder of features or a checkpoint, or one of --mfcc and --fbank"),
        (["CHECKPOINT", "--mfcc", "--manifest", "TSV"], "or one of --mfcc and --fbank"),
        (["CHECKPOINT"], "not a folder of features; for a checkpoint give the .tsv file with --manifest"),
        (["CHECKPOINT", "--layer", "1"], "give the .tsv file with --manifest"),
        (["absent.pt", "--manifest", "TSV"], "absent.pt: no such checkpoint"),
        (["FOLDER", "--manifest", "TSV"], "is a folder of features; omit --manifest, --layer and --weights"),
        (["FOLDER", "--layer", "0"], "is a folder of features; omit"),
        (["--mfcc"], "--mfcc: no speech; give the .tsv file with --manifest"),
        (
            ["--fbank", "--manifest", "TSV", "--weights", "teacher"],
            "--weights: not used with --fbank; omit the option",
        ),
        (
            ["CHECKPOINT", "--manifest", "TSV", "--layer", "all"],
            "--layer all: without feature folders one layer at a time",
        ),
        (["--mfcc", "--manifest", "TSV", "--clusters", "164"], "163 frames are too few for 164 clusters"),
    ],
)
def test_incompatible_options(speech, tmp_path, capsys, words, message):
    named = {"CHECKPOINT": GOLDEN, "TSV": speech, "FOLDER": tmp_path}
    assert dinosr("fit", "--clusters", 4, *[named.get(word, word) for word in words], "--out", tmp_path / "km.npz") == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_labels_of_other_features_than_it_was_fitted_on(speech, tmp_path, capsys):
    kmeans_of = lambda source: KMeans(
        np.zeros((2, 39), np.float32), KMeansMetadata(2, 39, None, 0, "random", 1, 0, 1.0, 9, 9, source)
    )
    kmeans_of({"kind": "mfcc"}).save(tmp_path / "mfcc.npz")
    kmeans_of({"kind": "model", "checkpoint": "a.pt", "fingerprint": "x", "weights": "student", "layer": 9}).save(
        tmp_path / "layer.npz"
    )
    kmeans_of({}).save(tmp_path / "unnamed.npz")
    for words, message in [
        (["mfcc.npz", GOLDEN], "not a folder of features, and mfcc is needed, which takes no checkpoint; leave it out"),
        (
            ["layer.npz"],
            "CHECKPOINT: not given; give a.pt, whose layer 9 is needed, or a folder of that layer's features",
        ),
        (["layer.npz", GOLDEN], "--layer 9: the model has layers 0 to"),
        (["unnamed.npz"], "the k-means file does not say what its features are; give a folder of them"),
    ]:
        assert dinosr("apply", tmp_path / words[0], *words[1:], speech, "--out", tmp_path / "out" / "train.km") == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ---- on a GPU --------------------------------------------------------------------------------------------------------


def test_a_gpu_is_used_where_faiss_finds_one(monkeypatch):
    """Simulated on the CPU: same results, one scratch memory for all chunks, arrays in the layout that faiss
    requires.
    """
    made, searched = [], []

    def knn_gpu(resources, query, base, count):
        assert resources is made[0] and count == 1
        assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in (query, base))
        searched.append(len(query))
        return faiss.knn(query, base, count)

    expected = fit_kmeans(corpus(speechlike(3000)), 12, seed=0, passes=1)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: made.append(object()) or made[-1], raising=False)
    monkeypatch.setattr(faiss, "knn_gpu", knn_gpu)
    clustering.gpu_resources.cache_clear()
    found = fit_kmeans(corpus(speechlike(3000)), 12, seed=0, passes=1)
    clustering.gpu_resources.cache_clear()
    np.testing.assert_array_equal(found.centroids, expected.centroids)
    assert len(made) == 1 and len(searched) > 5
