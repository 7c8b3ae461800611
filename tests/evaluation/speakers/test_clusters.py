"""Agglomerative clustering of embeddings."""

import numpy as np
import pytest

from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.speakers import clusters
from dinosr_plugin.evaluation.speakers.clusters import (
    Clustered,
    agglomerate,
    cluster_embeddings,
    compare_with_folders,
    in_order,
    write_clusters,
)
from support.speakers import write_embeddings


def plain(vectors: np.ndarray, count: int = 1, threshold: float = -2.0) -> np.ndarray:
    """Merge the two clusters with the highest mean cosine, again and again."""
    groups = [[i] for i in range(len(vectors))]
    cosines = vectors @ vectors.T
    while len(groups) > count:
        pairs = [(cosines[np.ix_(a, b)].mean(), i, j) for j, b in enumerate(groups) for i, a in enumerate(groups[:j])]
        best, i, j = max(pairs)
        if best < threshold:
            break
        groups[i] += groups.pop(j)
    labels = np.empty(len(vectors), dtype=int)
    for number, group in enumerate(groups):
        labels[group] = number
    return in_order(labels)


def unit_vectors(n: int, width: int = 3, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, width))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("count", [1, 2, 5, 29, 30])
def test_a_number_of_clusters_equals_plain_merging(count):
    x = unit_vectors(30)
    labels = in_order(agglomerate(x, count, None))
    assert labels.tolist() == plain(x, count).tolist() and len(set(labels)) == count


@pytest.mark.parametrize("threshold", [-1.0, 0.2, 0.8, 0.95, 1.0])
def test_a_threshold_equals_plain_merging(threshold):
    x = unit_vectors(30)
    assert in_order(agglomerate(x, None, threshold)).tolist() == plain(x, threshold=threshold).tolist()


def test_equal_recordings_do_not_change_the_number_of_clusters():
    x = np.repeat(unit_vectors(3), 4, axis=0)
    for count in range(1, 13):
        assert len(set(agglomerate(x, count, None))) == count
    assert in_order(agglomerate(x, 3, None)).tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_clusters_of_a_folder_and_their_file(tmp_path):
    rng = np.random.default_rng(0)
    voices = 3 * np.eye(4)
    vectors = {f"s{n % 4}/{n}.wav": voices[n % 4] + 0.2 * rng.normal(size=4) for n in range(12)}
    folder = write_embeddings(tmp_path / "embeddings", vectors)
    clustered = cluster_embeddings(folder, count=4)
    assert clustered.clusters.tolist() == [0, 1, 2, 3] * 3
    assert clustered.clusters.tolist() == cluster_embeddings(folder, threshold=0.5).clusters.tolist()
    figures = compare_with_folders(clustered, folder)
    assert (figures["nmi"], figures["accuracy"], figures["purity"], figures["files"]) == (1, 1, 1, 12)
    write_clusters(tmp_path / "clusters.tsv", clustered)
    lines = (tmp_path / "clusters.tsv").read_text().splitlines()
    assert lines[:2] == ["s0/0.wav\t0", "s1/1.wav\t1"] and len(lines) == 12


def test_what_cannot_be_clustered_or_compared(tmp_path, monkeypatch):
    folder = write_embeddings(tmp_path / "three", {f"{n}/{n}.wav": [1, n] for n in range(3)})
    with pytest.raises(UserError, match="^--clusters 4: .*three contains only 3 recordings; give a smaller"):
        cluster_embeddings(folder, count=4)
    with pytest.raises(UserError, match="one: 1 recordings; clustering takes 2 to 20000; give a manifest"):
        cluster_embeddings(write_embeddings(tmp_path / "one", {"a": [1, 2]}), count=1)
    monkeypatch.setattr(clusters, "MAX_FILES", 2)
    with pytest.raises(UserError, match="three: 3 recordings; clustering takes 2 to 2;"):
        cluster_embeddings(folder, count=2)
    with pytest.raises(UserError, match=r"^x: 1 file\(s\) are in no folder \(b.wav\).*omit --speakers"):
        compare_with_folders(Clustered(["a/a.wav", "b.wav"], np.array([0, 1])), "x")
    with pytest.raises(UserError, match="^x: all files are of speaker a; omit --speakers"):
        compare_with_folders(Clustered(["a/a.wav", "a/b.wav"], np.array([0, 1])), "x")
