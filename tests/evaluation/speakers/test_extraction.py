"""Embedding folders: what is in them, that batches and interruptions change nothing, and what is refused."""

import numpy as np
import pytest
import torch

from dinosr_plugin.data.acoustic import cepstra, mfcc
from dinosr_plugin.data.audio import read_wave
from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.sources import open_features
from dinosr_plugin.evaluation.speakers import extraction
from dinosr_plugin.evaluation.speakers.embeddings import Embeddings
from dinosr_plugin.evaluation.speakers.extraction import MfccStatistics, embed_manifest
from dinosr_plugin.evaluation.speakers.trials import make_trials, write_trials
from dinosr_plugin.units.kmeans import fit_kmeans
from dinosr_plugin.units.store import FeatureFolder
from support.paths import GOLDEN
from support.speakers import write_speech

CHECKPOINT = GOLDEN / "official_format_tiny.pt"
LENGTHS = {"anna": [16000, 9000, 12000], "ben": [8000, 20000], "cleo": [400]}


@pytest.fixture
def manifest(tmp_path):
    return write_speech(tmp_path, LENGTHS)


def rows(folder) -> dict[str, np.ndarray]:
    return {name: array[0] for name, array in FeatureFolder(folder)}


def test_mfcc_statistics(manifest, tmp_path):
    done = embed_manifest(None, manifest, tmp_path / "out")
    assert done.folders == [tmp_path / "out"] and "of sound in" in done.summary
    found = rows(tmp_path / "out")
    assert list(found) == [f"{speaker}/{n}.wav" for speaker, all_ in LENGTHS.items() for n in range(len(all_))]
    wave = read_wave(tmp_path / "audio/anna/1.wav", 9000)
    frames = cepstra(wave)
    assert frames.shape == (1 + (9000 - 400) // 160, 13)
    expected = np.concatenate([frames.mean(0), frames.std(0)])
    np.testing.assert_allclose(found["anna/1.wav"], expected / np.linalg.norm(expected), rtol=1e-4)
    # the static part of the usual MFCC, before pairs of frames are averaged
    pairs = (frames - frames.mean(0))[:54].reshape(27, 2, 13).mean(1)
    np.testing.assert_allclose(mfcc(wave)[:, :13], pairs, atol=1e-3)


@pytest.mark.parametrize("checkpoint", [None, CHECKPOINT])
def test_neither_batches_nor_other_recordings_change_an_embedding(checkpoint, manifest, tmp_path):
    for name, samples in (("large", 10**6), ("small", 1)):
        embed_manifest(checkpoint, manifest, tmp_path / name, batch_samples=samples, device="cpu")
    large, small = rows(tmp_path / "large"), rows(tmp_path / "small")
    assert large.keys() == small.keys() and len(large) == 6
    for name, embedding in large.items():
        np.testing.assert_allclose(embedding, small[name], atol=1e-4, rtol=1e-4)


def test_parts_are_embedded_as_if_they_were_files(manifest, tmp_path):
    drawn = make_trials(manifest, halves=True, seconds=0.1)
    write_trials(tmp_path / "trials.txt", drawn.trials)
    embed_manifest(CHECKPOINT, manifest, tmp_path / "out", tmp_path / "trials.txt", layer=1, device="cpu")
    found = rows(tmp_path / "out")
    assert found.keys() == {name for trial in drawn.trials for name in trial[1:]} and len(found) == 10
    (name, embedding) = list(found.items())[1]
    file, part = name.split("@")
    start, end = map(int, part.split("-"))
    wave = read_wave(tmp_path / "audio" / file, LENGTHS[file[:4]][int(file[5])])[start:end]
    embedder = extraction.open_embedder(CHECKPOINT, 1)
    expected = embedder.embed([embedder.prepare(torch.from_numpy(wave))])[0]
    np.testing.assert_allclose(embedding, expected / expected.norm(), atol=1e-5)


def test_a_run_that_was_interrupted_resumes(manifest, tmp_path, monkeypatch):
    embed_manifest(None, manifest, tmp_path / "whole")
    calls, run = [], MfccStatistics.run

    def fail_at_the_third(self, waves):
        calls.append(len(waves))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run(self, waves)

    monkeypatch.setattr(MfccStatistics, "run", fail_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        embed_manifest(None, manifest, tmp_path / "out", batch_samples=1)
    with pytest.raises(UserError, match="missing or unfinished"):
        Embeddings(tmp_path / "out")
    embed_manifest(None, manifest, tmp_path / "out", batch_samples=1)
    assert sum(calls) == 2 + 1 + 4
    for name, embedding in rows(tmp_path / "whole").items():
        assert (embedding == rows(tmp_path / "out")[name]).all()
    assert "were done before" in embed_manifest(None, manifest, tmp_path / "out").summary


def test_other_speech_or_another_model_is_not_mixed_in(manifest, tmp_path):
    embed_manifest(None, manifest, tmp_path / "out")
    with pytest.raises(UserError, match="out: contains features with .*; remove it, or give another folder"):
        embed_manifest(CHECKPOINT, manifest, tmp_path / "out", device="cpu")
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(UserError, match="out: contains features with speech"):  # the same names, other lengths
        embed_manifest(None, write_speech(other, {**LENGTHS, "cleo": [500]}), tmp_path / "out")


def test_kmeans_reads_embeddings_and_measures_of_frames_refuse_them(manifest, tmp_path):
    embed_manifest(None, manifest, tmp_path / "out")
    folder = FeatureFolder(tmp_path / "out")
    assert fit_kmeans(folder, 2, seed=0, rate=folder.rate, source=folder.source).centroids.shape == (2, 26)
    with pytest.raises(UserError, match="out: contains embeddings of recordings, not frames; give a folder from"):
        open_features(tmp_path / "out")


def test_what_cannot_be_embedded(manifest, tmp_path):
    def refused(message: str, **options) -> None:
        with pytest.raises(UserError, match=message):
            embed_manifest(options.pop("checkpoint", None), manifest, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()

    (tmp_path / "trials.txt").write_text("1 anna/0.wav anna/7.wav\n")
    unknown = r"trials.txt: 1 file\(s\) are not in the manifest \(anna/7.wav\); give the manifest"
    refused(unknown, trials=tmp_path / "trials.txt")
    (tmp_path / "trials.txt").write_text("1 anna/0.wav anna/1.wav@0-399\n")
    refused(r"1 recording\(s\) are shorter than 400 samples \(anna/1.wav@0-399\)", trials=tmp_path / "trials.txt")
    refused(r"2 recording\(s\) are longer than 0.015 minutes \(anna/0.wav, ben/1.wav\)", max_minutes=0.015)
    refused("trials.txt: not a PyTorch file", checkpoint=tmp_path / "trials.txt")
    (tmp_path / "audio/ben/0.wav").unlink()
    refused(r"speech.tsv: 1 of its 6 files are missing \(.*ben/0.wav\)")
