"""Trunks of fairseq's models: equal features, and settings that are derived from the modules."""

import pytest
import torch
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.models.wav2vec import Wav2Vec2Config, Wav2Vec2Model

from dinosr_plugin.checkpoints.load import load_model
from dinosr_plugin.errors import UserError
from dinosr_plugin.interop.fairseq_models import to_trunk, trunk_state
from dinosr_plugin.models.trunk import Trunk
from support.fairseq_models import MODELS, SIZES, fairseq_checkpoint


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_features_equal_those_of_fairseq(tmp_path, kind):
    theirs = fairseq_checkpoint(tmp_path / "x.pt", kind)
    loaded, *_ = load_model(tmp_path / "x.pt")
    trunk = to_trunk(loaded, "x.pt")
    assert type(trunk) is Trunk and not trunk.training
    source = torch.randn(1, 9000)
    features = theirs.extract_features(source, None, mask=False)
    expected = features[0] if kind == "hubert" else features["x"]
    torch.testing.assert_close(trunk.extract_features(source)["x"], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_settings_equal_those_of_the_checkpoint(tmp_path, kind):
    fairseq_checkpoint(tmp_path / "x.pt", kind)
    loaded, cfg, _ = load_model(tmp_path / "x.pt")
    settings, state = trunk_state(loaded, "x.pt")
    defaults = MODEL_DATACLASS_REGISTRY[cfg.model._name]()
    for name in settings.keys() - {"conv_feature_layers", "conv_pos"}:  # equal values in another notation
        assert settings[name] == cfg.model.get(name, getattr(defaults, name, 1)), name  # HuBERT has no pos_conv_depth
    assert settings["conv_feature_layers"] == str([(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16, 2, 2)] * 2)
    assert settings["conv_pos"] == (15 if kind == "data2vec_audio" else 10)  # 5 kernels of at least 3
    assert {name.partition(".")[0] for name in state} == {
        "feature_extractor",
        "layer_norm",
        "post_extract_proj",
        "mask_emb",
        "encoder",
    }


def test_other_models_are_returned_unchanged():
    model = torch.nn.Linear(1, 1)
    assert to_trunk(model, "x.pt") is model


@pytest.mark.parametrize(
    "change, message",
    [
        ({"encoder_embed_dim": 16}, r"no projection of the front end's features \(post_extract_proj\)"),
        ({"layer_type": "conformer", "attn_type": "espnet", "pos_enc_type": "abs"}, "not plain Transformer layers"),
        ({"activation_fn": "linear"}, r"another activation function \(activation_fn\)"),
    ],
)
def test_unsupported_trunks(change, message):
    sizes = {name: value for name, value in SIZES.items() if name != "final_dim"}
    model = Wav2Vec2Model(Wav2Vec2Config(**{**sizes, **change}))
    with pytest.raises(
        UserError, match=f"^x.pt: contains Wav2Vec2Model with .*{message}.*; give a checkpoint"
    ) as error:
        trunk_state(model, "x.pt")
    assert "\n" not in str(error.value)
