"""SpidR's objective, updates of it against the plain model of ``support.spidr_layout``."""

import math

import pytest
import torch
from torch.testing import assert_close

from dinosr_plugin.errors import UserError
from dinosr_plugin.interop.spidr import from_spidr
from dinosr_plugin.models.dinosr import DinoSR, DinoSRConfig
from support.spidr_layout import PlainSpidR, options, random_state, save

TIMESCALE, FROZEN = 1.0, 12  # the teacher stops after 10 updates, the front end is frozen from update 12 on
UPDATES = 14
SPIDR = dict(ema_schedule="exponential", ema_timescale=TIMESCALE, freeze_teacher_step=FROZEN)
N_FRAMES = 24


@pytest.fixture
def pair(tmp_path):
    """pair(qkv_bias) -> ours and the plain model, with the same weights."""

    def build(qkv_bias: bool) -> tuple[DinoSR, PlainSpidR]:
        state = random_state(qkv_bias=qkv_bias)
        path = save(tmp_path, state, options())
        converted = from_spidr(torch.load(path, weights_only=True), path)
        fields = {name: value for name, value in converted["cfg"].model.items() if name != "_name"}
        model = DinoSR(DinoSRConfig(**fields, **SPIDR, mask_prob=0.8, dropout=0.0, attention_dropout=0.0))
        model.load_state_dict(converted["model"])
        return model.train(), PlainSpidR(state)

    return build


def converted(plain: PlainSpidR, tmp_path) -> dict:
    """The weights of the plain model under our names."""
    path = save(tmp_path, {name: tensor.detach() for name, tensor in plain.tensors.items()}, options())
    return from_spidr(torch.load(path, weights_only=True), path)["model"]


def decay_of(update: int) -> float:
    distance = 1e-3 * math.exp(-update / TIMESCALE)
    return 1.0 if distance <= 1e-7 else 1 - distance


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_updates_equal_those_of_the_plain_model(pair, tmp_path, qkv_bias):
    """Loss, codes, codebooks, teacher and weights, until after the teacher has stopped and the front end is frozen.

    Weight decay would move what has no gradient: the LayerNorm that no head reads, biases that SpidR does not have.
    """
    model, plain = pair(qkv_bias)
    adam = lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.95), eps=1e-6, weight_decay=0.1)
    optimizers = adam(p for p in model.parameters() if p.requires_grad), adam(plain.tensors[n] for n in plain.trained)
    generator = torch.Generator().manual_seed(3)
    for number in range(1, UPDATES + 1):
        source = torch.randn(2, 8000, generator=generator)
        mask = torch.zeros(2, N_FRAMES, dtype=torch.bool)
        mask[:, 3:9] = mask[0, 14:20] = mask[1, 12:18] = True
        output = model(source, mask_indices=mask)
        loss, codes = plain.loss(source, mask)
        assert_close(output.losses["dinosr"] / output.sample_size, loss, rtol=1e-5, atol=1e-5)
        assert torch.equal(output.codes, codes)
        for optimizer, value in zip(optimizers, (output.losses["dinosr"] / output.sample_size, loss)):
            optimizer.zero_grad()
            value.backward()
        if number >= FROZEN:  # out of the optimiser
            for name in plain.trained:
                if name.startswith("feature_"):
                    plain.tensors[name].grad = None
        for optimizer in optimizers:
            optimizer.step()
        assert output.scalars["ema_decay"] == (1.0 if number >= FROZEN else pytest.approx(decay_of(number), abs=1e-12))
        model.end_update(number)
        plain.move_teacher(decay_of(number))
    expected, state = converted(plain, tmp_path), model.state_dict()
    assert state.keys() == expected.keys() and state["_ema"].keys() == expected["_ema"].keys()
    for name in expected.keys() - {"_ema"}:
        assert_close(state[name], expected[name], rtol=1e-5, atol=3e-5, msg=name)
    for name, value in expected["_ema"].items():
        assert_close(state["_ema"][name], value, rtol=1e-5, atol=1e-5, msg=name)


def test_what_no_head_reads_is_not_trained(tiny):
    """With weight decay it would shrink, and with it the output of the last layer."""
    for changes, expected in (
        ({}, "encoder.layers.2.final_layer_norm"),
        ({"layer_norm_first": True}, "encoder.layer_norm"),
    ):
        model = tiny(head_layers="matching_ffn", **changes)
        untrained = {name for name, p in model.named_parameters() if not p.requires_grad}
        assert untrained == {f"{expected}.weight", f"{expected}.bias"}
        output = model(torch.randn(2, 6000))
        output.losses["dinosr"].backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_without_biases_of_queries_keys_and_values(tiny):
    """They are zero from the start, and no optimiser moves them; fine-tuning trains them."""
    model = tiny(qkv_bias=False)
    untrained = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    assert untrained.keys() == {
        f"encoder.layers.{n}.self_attn.{letter}_proj.bias" for n in range(3) for letter in "qkv"
    }
    assert not any(p.any() for p in untrained.values())
    assert all(p.requires_grad for p in tiny().parameters())
    model.remove_pretraining_modules()
    assert all(p.requires_grad for p in model.parameters())


def test_matching_heads_read_feed_forward_outputs(tiny):
    model = tiny(head_layers="matching_ffn").eval()
    x = torch.randn(2, 10, 32)
    with torch.no_grad():
        last, results = model.encoder(x)
        logits = model.logits(model.head_inputs(last, results))
        for k, (_, _, feed_forward) in enumerate(results[1:]):
            assert_close(logits[k], model.heads[k](feed_forward.transpose(0, 1)))


def test_a_skipped_layer_has_nothing_to_predict_from(tiny):
    with pytest.raises(UserError, match="model.head_layers=matching_ffn: .*model.encoder_layerdrop=0.05"):
        tiny(head_layers="matching_ffn", encoder_layerdrop=0.05)
