"""Embeddings of speaker models: those of the teacher, from a checkpoint, whatever the level and the batch."""

import numpy as np
import pytest
import torch

import dinosr_plugin
from dinosr_plugin.checkpoints.opening import open_embedder
from dinosr_plugin.cli import main
from dinosr_plugin.errors import UserError
from support.paths import GOLDEN
from support.recordings import write_recordings
from support.training import train, write_corpus


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speakers")
    data = write_corpus(folder / "data", lengths=[16000] * 8)
    settings = ["model.head_hidden=[16,16]", "model.head_bottleneck=8", "model.head_outputs=16"]
    settings += ["task.views=crop0.5+peak/crop0.5+peak", "optimization.max_update=2", "lr_scheduler.phase_updates=[2]"]
    trainer = train(data, folder / "run", *settings, "lr_scheduler.warmup_updates=0", config="dino_speaker_tiny")
    return folder / "run/checkpoint_last.pt", trainer.get_model().eval()


def test_embeddings_are_those_of_the_teacher_for_any_level(checkpoint):
    path, model = checkpoint
    wave = torch.from_numpy(np.random.default_rng(1).normal(0, 0.1, 8000).astype(np.float32))
    embedding = dinosr_plugin.load(path).embed(wave)
    expected = model.teacher.model.encoder((wave / wave.abs().max())[None])[0]
    torch.testing.assert_close(embedding, expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(dinosr_plugin.load(path).embed(0.01 * wave), embedding, rtol=1e-4, atol=1e-5)


def test_a_batch_of_several_lengths_changes_nothing(checkpoint):
    embedder = open_embedder(checkpoint[0])
    waves = [embedder.prepare(torch.randn(samples, generator=torch.manual_seed(samples))) for samples in (1600, 5000)]
    both = embedder.embed(waves)
    assert both.shape == (2, 8) and embedder.width == 8
    for wave, row in zip(waves, both):
        torch.testing.assert_close(embedder.embed([wave])[0], row, rtol=1e-5, atol=1e-6)


def test_frames_of_a_speaker_model_are_refused(checkpoint):
    with pytest.raises(UserError, match="contains DinoSpeaker, which cannot be read"):
        from dinosr_plugin.checkpoints.opening import open_reader

        open_reader(checkpoint[0])


def test_similarity_compares_embeddings_with_means_of_utterances(checkpoint, tmp_path, capsys):
    waves = [np.random.default_rng(i).normal(0, 0.1, 8000 + 500 * i).astype(np.float32) for i in range(6)]
    manifest = write_recordings(tmp_path, waves)
    arguments = ["similarity", str(checkpoint[0]), str(GOLDEN / "official_format_tiny.pt"), "--layers", "0"]
    arguments += ["--manifest", str(manifest), "--measure", "cka_unbiased"]
    assert main([*arguments, "--level", "utterances"]) == 0
    assert "cka_unbiased" in capsys.readouterr().out
    assert main(arguments) == 1
    assert "no frames; compare it with --level utterances" in capsys.readouterr().err
