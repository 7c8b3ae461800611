"""HuBERT through the same fine-tuning as DinoSR: this plug-in's and fairseq's own checkpoints."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import dinosr_plugin  # noqa: F401  (registers the models)
from dinosr_plugin.checkpoints.opening import open_reader
from dinosr_plugin.checkpoints.readers import trunk_of
from dinosr_plugin.decoding.recogniser import load_recogniser
from dinosr_plugin.errors import UserError
from dinosr_plugin.interop.fairseq_models import adopt_fairseqs_hubert
from dinosr_plugin.models.hubert import Hubert
from dinosr_plugin.units.features import extract
from dinosr_plugin.units.store import FeatureFolder
from support.fairseq_models import fairseq_checkpoint  # noqa: E402
from support.training import fine_tune, train, write_corpus


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_corpus(tmp_path_factory.mktemp("data"), lengths=[16000, 12000, 17000, 9000])
    (folder / "train.ltr").write_text("A B |\n" * 4)
    (folder / "dict.ltr.txt").write_text("| 1\nA 1\nB 1\n")
    (folder / "train.km").write_text(
        "".join(" ".join(["1", "0"] * (n // 640)) + "\n" for n in (16000, 12000, 17000, 9000))
    )
    (folder / "dict.km.txt").write_text("0 1\n1 1\n")
    return folder


@pytest.fixture(scope="module")
def pretrained(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    train(
        data,
        folder,
        "model.final_dim=8",
        "optimization.max_update=3",
        "lr_scheduler.warmup_updates=1",
        config="hubert_tiny",
    )
    return folder / "checkpoint_last.pt"


def test_ours(data, tmp_path, pretrained):
    fine_tuned = fine_tune(data, tmp_path, pretrained, "model.freeze_finetune_updates=100")
    recogniser = load_recogniser(fine_tuned)
    trunk = trunk_of(recogniser.model)
    assert isinstance(trunk, Hubert) and trunk.final_proj is None and trunk.label_embs_concat is None
    start = torch.load(pretrained, weights_only=False)["model"]
    for name, value in trunk.state_dict().items():  # frozen: as pre-training left it
        assert torch.equal(value, start[name]), name


@pytest.mark.parametrize("stage", ["pretrained", "fine-tuned"])
def test_features(data, tmp_path, pretrained, stage):
    """Like any other checkpoint's, without the data folder of its training."""
    checkpoint = pretrained if stage == "pretrained" else fine_tune(data, tmp_path / "fine-tuned", pretrained)
    state = torch.load(checkpoint, weights_only=False)
    OmegaConf.update(state["cfg"], "task.data", "/nowhere") if OmegaConf.is_config(state["cfg"]) else state["cfg"][
        "task"
    ].update(data="/nowhere")
    torch.save(state, tmp_path / "moved.pt")
    extract(tmp_path / "moved.pt", data / "train.tsv", tmp_path / "features", layer=1)
    folder = FeatureFolder(tmp_path / "features")
    assert [len(frames) for _, frames in folder] == [
        (n - 400) // 320 + 1 for n in (16000, 12000, 17000, 9000)
    ] and folder.width == 16


def test_fairseqs_own(data, tmp_path):
    """... gives, as fine-tuning starts, the features that fairseq's HuBERT gives."""
    theirs = fairseq_checkpoint(tmp_path / "hubert.pt", "hubert")
    fine_tuned = fine_tune(
        data, tmp_path / "run", tmp_path / "hubert.pt", "task.normalize=false", "model.freeze_finetune_updates=100"
    )
    reader = open_reader(fine_tuned)
    assert isinstance(reader.model, Hubert) and not reader.normalize
    source = torch.randn(1, 12345)
    with torch.no_grad():
        torch.testing.assert_close(
            reader.model.extract_features(source)["x"], theirs.extract_features(source)[0], rtol=0, atol=1e-5
        )
    assert load_recogniser(fine_tuned).blank == 0


def test_dropout_and_masks_of_fine_tuning_reach_it(data, tmp_path):
    fairseq_checkpoint(tmp_path / "hubert.pt", "hubert")
    state = torch.load(tmp_path / "hubert.pt", weights_only=False)
    state["cfg"]["model"] |= {
        "mask_prob": 0.8,
        "dropout_input": 0.1,
        "encoder_layerdrop": 0.05,
    }  # the released ones list all fields
    torch.save(state, tmp_path / "hubert.pt")
    setting = ["task.normalize=false", "model.mask_prob=0.33", "model.dropout_input=0.07", "model.layerdrop=0.11"]
    trunk = trunk_of(load_recogniser(fine_tune(data, tmp_path / "run", tmp_path / "hubert.pt", *setting)).model)
    assert (trunk.cfg.mask_prob, trunk.cfg.dropout_input, trunk.cfg.encoder_layerdrop) == (0.33, 0.07, 0.11)


def test_a_hubert_that_does_not_fit(data, tmp_path):
    fairseq_checkpoint(tmp_path / "hubert.pt", "hubert")
    state = torch.load(tmp_path / "hubert.pt", weights_only=False)
    state["cfg"]["model"]["layer_type"] = "conformer"
    torch.save(state, tmp_path / "conformer.pt")
    with pytest.raises(UserError, match="a HuBERT with layer_type=conformer, which cannot be fine-tuned here"):
        fine_tune(data, tmp_path / "run", tmp_path / "conformer.pt", "task.normalize=false")


def test_other_checkpoints_stay_as_they_are():
    state = {"cfg": OmegaConf.create({"model": {"_name": "dinosr"}}), "model": {}}
    assert adopt_fairseqs_hubert(state) is state and state["cfg"].model._name == "dinosr"
    assert adopt_fairseqs_hubert({"cfg": None, "args": 1}) == {"cfg": None, "args": 1}
