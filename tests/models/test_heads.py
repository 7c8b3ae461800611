"""Heads, for every objective on the trunk: what fine-tuning removes, and when another model takes them over."""

import copy
import dataclasses
import logging

import pytest
import torch
from torch import nn

from dinosr_plugin.models.dinosr import DinoSR, DinoSRConfig
from dinosr_plugin.models.encoder import TrunkConfig
from dinosr_plugin.models.hubert import Hubert, HubertConfig
from dinosr_plugin.models.r_spin import RSpin, RSpinConfig
from dinosr_plugin.models.spin import Spin, SpinConfig
from dinosr_plugin.models.trunk import Trunk

SPIN = {"projection_dim": 12, "codebook_size": 8}
MODELS = {
    "dinosr": (DinoSR, DinoSRConfig, {"average_top_k_layers": 2, "codebook_size": 16}),
    "hubert": (Hubert, HubertConfig, {"num_classes": [12, 9], "final_dim": 8}),
    "spin": (Spin, SpinConfig, SPIN),
    "r_spin": (RSpin, RSpinConfig, {**SPIN, "num_classes": [7], "trained_layers": [0, 1, 2]}),
}
OTHER_VALUES = {
    "dinosr": {
        "average_top_k_layers": 1,
        "codebook_size": 8,
        "target": "layer",
        "instance_norm_target_layer": False,
        "head_layers": "matching",
    },
    "hubert": {"num_classes": [12], "final_dim": 4, "untie_final_proj": False},
    "spin": {"projection_dim": 6, "codebook_size": 4},
    "r_spin": {"projection_dim": 6, "codebook_size": 4, "num_classes": [5]},
}


@pytest.fixture
def build(tiny_config):
    """build(kind, seed, field=value, ...) -> a model with the trunk of ``tiny_config``."""

    def build(kind: str, seed: int = 0, **changes) -> Trunk:
        model, config, sizes = MODELS[kind]
        trunk = {field.name: getattr(tiny_config(), field.name) for field in dataclasses.fields(TrunkConfig)}
        torch.manual_seed(seed)
        return model(config(**{**trunk, **sizes, **changes}))

    return build


def parts(model: Trunk, names: tuple[str, ...]) -> list[torch.Tensor]:
    """Copies of the parameters and buffers of these attributes."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [tensor.detach().clone() for name, tensor in tensors if name.split(".")[0] in names]


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) > 0 and all(map(torch.equal, a, b))


@pytest.mark.parametrize("kind", MODELS)
def test_what_fine_tuning_keeps_is_the_trunk(build, kind):
    """... which can be trained, and takes what a pre-training checkpoint has of it."""
    pretrained, model = build(kind), build(kind, seed=1)
    model.remove_pretraining_modules(last_layer=1)
    trunk = Trunk(model.cfg)
    trunk.remove_pretraining_modules(last_layer=1)
    assert list(model.state_dict()) == list(trunk.state_dict()) and model.n_layers == 2
    assert all(p.requires_grad for p in model.parameters())
    state = {name: value for name, value in pretrained.state_dict().items() if ".layers.2." not in name}
    model.load_state_dict(copy.copy(state))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", MODELS)
def test_only_what_was_removed_is_dropped_from_a_checkpoint(build, kind):
    """Inside of another model too, and not what has a similar name."""
    outer = nn.ModuleDict({"inner": build(kind)})
    state = outer.state_dict()
    outer["inner"].remove_pretraining_modules()
    name = outer["inner"].pretraining_heads[0].names[0]
    others = {f"{name}.weight", f"inner.{name}_2.weight"}
    result = outer.load_state_dict(state | dict.fromkeys(others, torch.zeros(1)), strict=False)
    assert not result.missing_keys and set(result.unexpected_keys) == others


@pytest.mark.parametrize("kind", MODELS)
def test_heads_are_taken_over_from_a_model_with_the_same_settings(build, kind, caplog):
    source, model = build(kind, seed=1), build(kind)
    model.start_from(source, "x.pt")
    for heads in model.pretraining_heads:
        assert equal(parts(model, heads.names), parts(source, heads.names))
    assert not caplog.records


@pytest.mark.parametrize("kind, field", [(kind, field) for kind, values in OTHER_VALUES.items() for field in values])
def test_heads_start_untrained_if_a_setting_differs(build, kind, field, caplog):
    """Those that depend on it do; the others are taken over."""
    source, model = build(kind, seed=1), build(kind, **{field: OTHER_VALUES[kind][field]})
    before = {heads: parts(model, heads.names) for heads in model.pretraining_heads}
    with caplog.at_level(logging.WARNING):
        model.start_from(source, "x.pt")
    messages = [record.getMessage() for record in caplog.records]
    for heads, tensors in before.items():
        depends = field in heads.fields
        assert equal(parts(model, heads.names), tensors if depends else parts(source, heads.names))
        warning = f"x.pt: was trained with model.{field}={getattr(source.cfg, field)}, so that {heads.untrained}"
        assert (warning in messages) == depends
    assert len(messages) == 1


@pytest.mark.parametrize("kind", MODELS)
def test_every_setting_of_the_heads_is_among_those_that_a_resumed_run_must_share(build, kind):
    model = build(kind)
    fields = {field for heads in model.pretraining_heads for field in heads.fields}
    assert fields == OTHER_VALUES[kind].keys() and fields <= model.structure().keys()
