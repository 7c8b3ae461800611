"""Clusters of recordings by the classifier of a checkpoint of SSRL."""

import shutil

import numpy as np
import pytest
import torch

from dinosr_plugin.checkpoints.classifier import open_classifier
from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.speakers import classification
from dinosr_plugin.evaluation.speakers.classification import classify_embeddings, nearest
from dinosr_plugin.evaluation.speakers.embeddings import Embeddings
from dinosr_plugin.evaluation.speakers.extraction import embed_manifest
from support.paths import GOLDEN
from support.speakers import write_embeddings
from support.ssrl import K, N, write_ssrl_run


@pytest.fixture(scope="module")
def ssrl_run(shared_folder):
    return shared_folder(write_ssrl_run)


@pytest.fixture(scope="module")
def embeddings(ssrl_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("speakers") / "embeddings"
    embed_manifest(ssrl_run / "run/checkpoint_last.pt", ssrl_run / "train.tsv", out)
    return out


def with_removed(ssrl_run, path, removed):
    """A copy of the last checkpoint with other removed clusters."""
    state = torch.load(ssrl_run / "run/checkpoint_last.pt", weights_only=False)
    state["task_state"]["pseudo_labels"]["removed"] = removed
    torch.save(state, path)
    return path


def plain_directions(ssrl_run) -> np.ndarray:
    """(K, W) float64 of norm 1, the teacher's, from the file."""
    weights = torch.load(ssrl_run / "run/checkpoint_last.pt", weights_only=False)["model"]["_ema"]["head.weight"]
    y = weights.double().numpy()
    return y / np.linalg.norm(y, axis=1)[:, None]


def test_the_classifier_is_that_of_the_teacher(ssrl_run):
    classifier = open_classifier(ssrl_run / "run/checkpoint_last.pt")
    np.testing.assert_allclose(classifier.directions, plain_directions(ssrl_run), rtol=1e-5)


def test_the_cluster_has_the_highest_cosine_among_those_in_use(ssrl_run, embeddings, tmp_path):
    cosines = Embeddings(embeddings).vectors.astype(np.float64) @ plain_directions(ssrl_run).T
    assert cosines.shape == (N, K)
    all_in_use = with_removed(ssrl_run, tmp_path / "all.pt", torch.zeros(K, dtype=torch.bool))
    first = classify_embeddings(embeddings, all_in_use)
    assert first.names == Embeddings(embeddings).names and first.clusters.tolist() == cosines.argmax(1).tolist()
    removed = torch.zeros(K, dtype=torch.bool)
    removed[int(first.clusters[0])] = True
    second = classify_embeddings(embeddings, with_removed(ssrl_run, tmp_path / "some.pt", removed))
    cosines[:, removed.numpy()] = -2
    assert second.clusters.tolist() == cosines.argmax(1).tolist() and second.clusters[0] != first.clusters[0]


def test_chunks_and_ties(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(23, 4)), rng.normal(size=(5, 4))
    y[3] = y[1]
    in_use = np.array([True, False, True, True, True])
    expected = np.where(in_use, x @ y.T, -np.inf).argmax(1)
    assert 3 in expected and nearest(x, y, in_use).tolist() == expected.tolist()
    in_use[1] = True
    assert 3 not in nearest(x, y, in_use) and 1 in nearest(x, y, in_use)
    monkeypatch.setattr(classification, "CHUNK", 11)  # two rows
    assert nearest(x, y, in_use).tolist() == (x @ y.T).argmax(1).tolist()


def test_embeddings_of_another_checkpoint_are_refused(ssrl_run, embeddings, tmp_path):
    other = ssrl_run / "run/checkpoint1.pt"
    with pytest.raises(UserError, match=r"embeddings: was not made with .*checkpoint1.pt; make embeddings with `dino"):
        classify_embeddings(embeddings, other)
    mfcc = write_embeddings(tmp_path / "mfcc", {"a/1.wav": [1, 2], "b/1.wav": [2, 1]})
    with pytest.raises(UserError, match="mfcc: was not made with .*checkpoint1.pt"):
        classify_embeddings(mfcc, other)


def test_embeddings_of_another_width_are_refused(ssrl_run, embeddings, tmp_path):
    """A folder whose ``meta.json`` was copied from another one."""
    folder = write_embeddings(tmp_path / "e", {f"s{n // 2}/{n}.wav": [1, n] for n in range(N)})
    shutil.copy(embeddings / "meta.json", folder)
    meta = folder / "meta.json"
    meta.write_text(meta.read_text().replace('"width": 8', '"width": 2'))
    with pytest.raises(UserError, match="e: was not made with .*checkpoint_last.pt"):
        classify_embeddings(folder, ssrl_run / "run/checkpoint_last.pt")


def test_a_model_without_classifier_is_refused(embeddings):
    checkpoint = GOLDEN / "official_format_tiny.pt"
    with pytest.raises(UserError, match="tiny.pt: contains DinoSR, which has no classifier of clusters; give a"):
        classify_embeddings(embeddings, checkpoint)


@pytest.mark.parametrize(
    "removed", [None, 3, torch.ones(K, dtype=torch.bool), torch.zeros(K + 1, dtype=torch.bool), torch.zeros(K)]
)
def test_a_checkpoint_that_does_not_say_which_clusters_are_in_use(removed, ssrl_run, embeddings, tmp_path):
    checkpoint = with_removed(ssrl_run, tmp_path / "x.pt", removed)
    with pytest.raises(UserError, match="x.pt: does not say which of its 3 clusters are in use; give a checkpoint"):
        classify_embeddings(embeddings, checkpoint)
    state = torch.load(checkpoint, weights_only=False)
    del state["task_state"]
    for task_state in ({"task_state": {"pseudo_labels": 5}}, {"task_state": {}}, {}):
        torch.save(state | task_state, checkpoint)
        with pytest.raises(UserError, match="x.pt: does not say which of its 3 clusters"):
            classify_embeddings(embeddings, checkpoint)
