"""Views in trainings of one view: pre-training, refreshed labels, fine-tuning."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq.data import AddTargetDataset
from omegaconf import OmegaConf

from dinosr_plugin.data.dataset import SpeechDataset
from dinosr_plugin.data.fingerprint import fingerprint
from dinosr_plugin.data.perturbation.f0 import read_table
from dinosr_plugin.data.views import ViewDataset, without_views
from dinosr_plugin.errors import UserError
from dinosr_plugin.tasks.finetuning import DinoSRFinetuningConfig, DinoSRFinetuningTask
from dinosr_plugin.tasks.pretraining import DinoSRPretrainingConfig, DinoSRPretrainingTask
from support.recogniser import run_generate
from support.training import checkpoint, differences, train, write_corpus
from support.two_stages import train_stage, write_noise_with_words
from support.voices import RATE, write_voices

UPDATES = [
    "lr_scheduler.phase_ratio=null",
    "+lr_scheduler.warmup_steps=2",
    "+lr_scheduler.hold_steps=2",
    "+lr_scheduler.decay_steps=2",
]
RESAMPLE = ["+task.views=perturb", "+task.perturb_by=resample"]


# ---- pre-training ----------------------------------------------------------------------------------------------------


def test_dinosr_learns_from_perturbed_views_and_resumes_exactly(tmp_path):
    """In mid-epoch."""
    pytest.importorskip("parselmouth")
    data = write_voices(tmp_path, {"a": 110.0, "b": 210.0}, lengths=(RATE,) * 3)
    settings = ["+task.views=perturb", "task.enable_padding=true", *UPDATES]
    trainer = train(data, tmp_path / "whole", *settings, "optimization.max_update=6")
    assert isinstance(trainer.task.dataset("train"), ViewDataset)
    assert read_table(tmp_path / "whole/f0_ranges.tsv").keys() == {"a", "b"}
    for updates in (2, 6):
        train(data, tmp_path / "resumed", *settings, f"optimization.max_update={updates}")
    whole, resumed = (checkpoint(tmp_path / run) for run in ("whole", "resumed"))
    assert whole["updates"] == resumed["updates"] == 6 and not differences(whole, resumed)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"f0_ranges": "table"}, "task.f0_ranges=table: no view has another voice; set task.views=perturb, or remove"),
        ({"f0_ranges": "table", "views": "clean"}, "task.f0_ranges=table: no view has another voice"),
        ({"views": "perturb", "sample_rate": 8000}, "task.sample_rate=8000: views are made of audio at 16000 Hz"),
    ],
)
@pytest.mark.parametrize(
    "config, task",
    [(DinoSRPretrainingConfig, DinoSRPretrainingTask), (DinoSRFinetuningConfig, DinoSRFinetuningTask)],
)
def test_settings_that_cannot_work_are_refused(config, task, fields, message):
    with pytest.raises(UserError, match=message):
        task(OmegaConf.structured(config(data="none", tpu=False, **fields)))


CLASSES, LENGTHS = 4, [16000, 17000, 16500, 16000]


def test_refreshed_labels_are_those_of_the_waveforms_as_they_are(tmp_path, monkeypatch):
    """The features that are clustered come from the unperturbed utterances, normalised as the views are."""
    from dinosr_plugin.tasks import relabelling

    data = write_corpus(tmp_path, lengths=LENGTHS)
    rng = np.random.default_rng(0)
    rows = (rng.integers(CLASSES, size=n // 320) for n in LENGTHS)
    (data / "train.km").write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))
    (data / "dict.km.txt").write_text("".join(f"{label} 1\n" for label in range(CLASSES)))
    seen, layer_frames = [], relabelling.layer_frames

    def remember(model, dataset, rows, *arguments):
        seen.append(dataset)
        return layer_frames(model, dataset, rows, *arguments)

    monkeypatch.setattr(relabelling, "layer_frames", remember)
    settings = ["model.final_dim=8", "task.relabel_every=1", "task.relabel_layer=0", "task.normalize=true"]
    settings += ["model.require_same_masks=false", "lr_scheduler.warmup_updates=2", "optimization.max_update=4"]
    settings += ["+lr_scheduler.total_num_update=4", "task.enable_padding=true"]
    trainer = train(data, tmp_path / "run", *settings, *RESAMPLE, config="hubert_tiny")
    viewed = trainer.task.dataset("train")
    assert seen and trainer.task.relabelling.epoch >= 2
    plain = SpeechDataset(str(data / "train.tsv"), 16000, normalize=True)
    for dataset in seen:
        assert isinstance(dataset, SpeechDataset)
        assert all(torch.equal(dataset[row]["source"], plain[row]["source"]) for row in range(len(LENGTHS)))
        assert dataset.labels[0] is viewed.dataset.labels[0]


@pytest.mark.parametrize("normalize", [False, True])
def test_without_views_the_utterances_are_read_as_without_the_setting(tmp_path, normalize):
    data = write_corpus(tmp_path, lengths=LENGTHS)
    utterances = SpeechDataset(str(data / "train.tsv"), 16000, pad=True, max_sample_size=9000)
    viewed = ViewDataset(utterances, [[]], seed=1, normalize=normalize)
    plain = SpeechDataset(str(data / "train.tsv"), 16000, pad=True, max_sample_size=9000, normalize=normalize)
    [viewed[row] for row in range(4)]  # stores statistics
    found = without_views(viewed)
    for _ in range(2):  # the second time only the crop is read
        ours, theirs = (dataset.__getitems__([0, 1, 2, 3]) for dataset in (found, plain))
        assert all(torch.equal(one["source"], other["source"]) for one, other in zip(ours, theirs))
    assert without_views(plain) is plain
    assert torch.equal(utterances[0]["source"], SpeechDataset(str(data / "train.tsv"), 16000)[0]["source"])


# ---- fine-tuning -----------------------------------------------------------------------------------------------------


@pytest.fixture
def recogniser_data(tmp_path) -> Path:
    return write_noise_with_words(tmp_path / "data")


def finetuning_task(data: Path, **fields) -> DinoSRFinetuningTask:
    options = {"views": "perturb", "perturb_by": "resample", "save_dir": str(data / "run"), **fields}
    return DinoSRFinetuningTask.setup_task(
        OmegaConf.structured(DinoSRFinetuningConfig(data=str(data), tpu=False, seed=1, **options))
    )


def test_fine_tuning_perturbs_the_training_split_only(recogniser_data):
    (recogniser_data / "valid.tsv").write_text((recogniser_data / "train.tsv").read_text())
    (recogniser_data / "valid.ltr").write_text((recogniser_data / "train.ltr").read_text())
    task = finetuning_task(recogniser_data, normalize=True, min_sample_size=16400)  # two of six are left out
    task.load_dataset("valid")
    task.load_dataset("train", data_selector=None)
    trained, other = task.dataset("train"), task.dataset("valid")
    assert isinstance(trained, AddTargetDataset) and isinstance(trained.dataset, ViewDataset)
    assert isinstance(other.dataset, SpeechDataset) and len(trained) == len(other) == 5
    perturbed, plain = (dataset.collater([dataset[row] for row in (0, 3)]) for dataset in (trained, other))
    assert torch.equal(perturbed["target"], plain["target"]) and perturbed["id"].tolist() == [0, 3]
    ours, theirs = perturbed["net_input"], plain["net_input"]
    assert torch.equal(ours["padding_mask"], theirs["padding_mask"])
    assert ours["source"].shape == theirs["source"].shape and not torch.allclose(ours["source"], theirs["source"])
    first = ours["source"][0][~ours["padding_mask"][0]]
    assert abs(first.mean()) < 1e-5 and abs(first.var(correction=0) - 1) < 5e-3
    trained.set_epoch(2)
    again = trained.collater([trained[row] for row in (0, 3)])
    assert not torch.equal(again["net_input"]["source"], ours["source"])


def test_the_data_of_a_perturbed_fine_tuning_have_the_same_fingerprint(recogniser_data):
    tasks = [finetuning_task(recogniser_data), finetuning_task(recogniser_data, views=None)]
    for task in tasks:
        task.load_dataset("train", data_selector=None)
    one, other = (fingerprint(task.dataset("train")) for task in tasks)
    assert one == other and one["data"][0]["utterances"] == 6 and "transcripts" in one["data"][0]


def test_fine_tuning_learns_from_one_view(recogniser_data):
    with pytest.raises(UserError, match="task.views=clean/perturb: fine-tuning learns from one view"):
        finetuning_task(recogniser_data, views="clean/perturb")
    with pytest.raises(UserError, match="'echo' is not a transform"):
        finetuning_task(recogniser_data, views="echo")


def test_a_recogniser_is_trained_on_perturbed_speech_and_decodes(recogniser_data, tiny_checkpoints, caplog):
    caplog.set_level(logging.INFO)
    pretrained = f"model.w2v_path={tiny_checkpoints}/pretraining.pt"
    path = train_stage("finetuning", recogniser_data, [*RESAMPLE, pretrained, "optimization.max_update=6"])
    assert "voices are changed by task.perturb_by=resample" in caplog.text
    run_generate(recogniser_data, recogniser_data / "results", "--path", path)
    assert any((recogniser_data / "results").iterdir())
