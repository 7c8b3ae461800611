"""No forward pass waits for the GPU.

Reading a value of a tensor on a GPU waits until all earlier work is done. On the meta device tensors have no values, so
that reading one raises.
"""

from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from fairseq import utils
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from omegaconf import OmegaConf

from dinosr_plugin.criterions.dinosr import DinoSRCriterion
from dinosr_plugin.models.cpc import CPC, CPCConfig
from dinosr_plugin.models.cpc_deepcluster import CPCDeepCluster, CPCDeepClusterConfig
from dinosr_plugin.models.dino_speaker import DinoSpeaker, DinoSpeakerConfig
from dinosr_plugin.models.dinosr import DinoSR
from dinosr_plugin.models.encoder import TrunkConfig
from dinosr_plugin.models.hubert import Hubert, HubertConfig
from dinosr_plugin.models.predictive import APC, MPC, APCConfig, MPCConfig
from dinosr_plugin.models.ssrl_speaker import SsrlSpeaker, SsrlSpeakerConfig
from dinosr_plugin.runs import ending
from dinosr_plugin.tasks.pretraining import DinoSRPretrainingConfig, DinoSRPretrainingTask
from dinosr_plugin.tasks.speakers import DinoSRSpeakerConfig, DinoSRSpeakerTask
from support.training import write_corpus

DINOSR = [
    {},
    {"unmasked_weight": 0.5, "attention_dropout": 0.1, "dropout": 0.1},
    {"front_end": "fbank"},
    {"revive_after": 1},
    {"codebook_update": "per_forward"},
]
CPC_SIZES = {"encoder_channels": 16, "encoder_norm": "channel", "context_dim": 16, "steps": 4, "n_negatives": 8}


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch):
    """There is none for the meta device."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


@pytest.fixture(autouse=True)
def handlers():
    """Those of signals, which the beginning of an epoch sets, are taken back."""
    yield
    ending.at_end.close()


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Two utterances of half a second, the second a little longer, with labels."""
    write_corpus(tmp_path, lengths=[8000, 8600])
    (tmp_path / "train.km").write_text(" ".join(["0", "1"] * 12) + "\n" + " ".join(["2"] * 26) + "\n")
    (tmp_path / "dict.km.txt").write_text("0 1\n1 1\n2 1\n")
    return tmp_path


def train(model, data: Path, task_class=DinoSRPretrainingTask, config=DinoSRPretrainingConfig, **options) -> None:
    """Two updates of two micro-batches by the task, as by fairseq's trainer, but without the norm of the gradients."""
    task = task_class.setup_task(OmegaConf.structured(config(tpu=False, data=str(data), seed=1, **options)))
    task.load_dataset("train", data_selector=None)  # as the trainer does
    dataset = task.dataset("train")
    sample = utils.apply_to_sample(
        lambda tensor: tensor.to("meta"), dataset.collater([dataset[0], dataset[1]])
    )  # fairseq's move_to_cuda
    source = sample["net_input"]["source"]
    assert sample["id"].is_meta and all(view.is_meta for view in (source if isinstance(source, list) else [source]))
    model.to("meta").train()
    task.begin_epoch(1, model)
    optimizer = FairseqAdam(OmegaConf.structured(FairseqAdamConfig(lr=[0.1], tpu=False)), model.parameters())
    for number in range(2):
        task.begin_update(model)
        optimizer.zero_grad()
        for _ in range(2):
            _, sample_size, _ = task.train_step(sample, model, DinoSRCriterion(task), optimizer, number)
        optimizer.multiply_grads(1 / sample_size)
        task.optimizer_step(optimizer, model, number)


def test_a_value_is_asked_for_in_vain():
    with pytest.raises(RuntimeError):
        bool(torch.empty(1, device="meta").any())
    with pytest.raises(RuntimeError):
        torch.arange(2, device="meta").tolist()
    with pytest.raises(RuntimeError):
        source = torch.empty(2, device="meta")
        source[source > 0]


@pytest.mark.parametrize("changes", DINOSR)
def test_dinosr_asks_for_no_value(tiny_config, corpus, changes):
    train(DinoSR(tiny_config(**changes)), corpus)


@pytest.mark.parametrize("changes", [{}, {"pred_nomask_weight": 0.5}])
def test_hubert_asks_for_no_value(tiny_config, corpus, changes):
    trunk = {field.name: getattr(tiny_config(), field.name) for field in fields(TrunkConfig)}
    train(Hubert(HubertConfig(**trunk, num_classes=[3], **changes)), corpus, labels="km")


@pytest.mark.parametrize("changes", [{}, {"front_end": "log_mel", "context": "cnn"}])
def test_cpc_asks_for_no_value(corpus, changes):
    train(CPC(CPCConfig(**CPC_SIZES, **changes)), corpus, window_samples=4000)


@pytest.mark.parametrize("encoder", ["rnn", "transformer"])
def test_apc_and_mpc_ask_for_no_value(corpus, encoder):
    """On short crops, because a GRU on the meta device is a loop over frames."""
    sizes = {"encoder": encoder, "layers": 2, "width": 8, "heads": 2, "feed_forward": 16}
    for model in (APC(APCConfig(**sizes, direction="both")), MPC(MPCConfig(**sizes))):
        train(model, corpus, max_sample_size=2000)


def test_deep_clustering_asks_for_no_value(corpus):
    train(
        CPCDeepCluster(CPCDeepClusterConfig(**CPC_SIZES, num_classes=[3], start_from=None)),
        corpus,
        window_samples=4000,
        labels="km",
    )


SPEAKER = {"channels": [8, 8, 16], "kernels": [5, 3, 1], "dilations": [1, 2, 1], "res2net_scale": 4, "se_width": 4}
SPEAKER |= {"attention_width": 4, "embedding_dim": 8}
SPEAKER_TASK = {"task_class": DinoSRSpeakerTask, "config": DinoSRSpeakerConfig, "enable_padding": True}


def test_dino_asks_for_no_value(corpus):
    config = DinoSpeakerConfig(**SPEAKER, head_hidden=[8, 8], head_bottleneck=4, head_outputs=8)
    views = "crop0.4+peak/crop0.4+peak/crop0.2+peak"
    train(DinoSpeaker(config), corpus, **SPEAKER_TASK, views=views)


def test_ssrl_asks_for_no_value(corpus):
    """From an epoch on in which the teacher assigns clusters."""
    (corpus / "train.clusters").write_text("0\n1\n")
    (corpus / "dict.clusters.txt").write_text("0 1\n1 1\n")
    model = SsrlSpeaker(SsrlSpeakerConfig(**SPEAKER, n_clusters=2))
    train(model, corpus, **SPEAKER_TASK, views="crop0.3/crop0.4", labels="clusters", fixed_epochs=1)
    assert model.assignment is not None
