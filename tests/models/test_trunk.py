"""The trunk: features do not depend on padding, masks and gradients are those of the settings."""

import pytest
import torch
from torch.testing import assert_close

from dinosr_plugin.errors import UserError
from dinosr_plugin.models.trunk import Trunk

SIZES = (9000, 5210, 12345)


def trunk(tiny_config, seed: int = 0, **changes) -> Trunk:
    torch.manual_seed(seed)
    return Trunk(tiny_config(**changes))


@pytest.mark.parametrize("front_end", ["conv", "fbank"])
@pytest.mark.parametrize("pos_conv_depth", [1, 2, 5])
@pytest.mark.parametrize("layer_norm_first", [False, True])
@torch.no_grad()
def test_features_depend_on_no_padding_and_no_batch_mate(
    tiny_config, batch, front_end, pos_conv_depth, layer_norm_first
):
    model = trunk(
        tiny_config, front_end=front_end, pos_conv_depth=pos_conv_depth, layer_norm_first=layer_norm_first
    ).eval()
    for (
        parameter
    ) in model.encoder.pos_conv.parameters():  # at their initial size the positional convolutions would hide a leak
        parameter.mul_(3)
    source, padding_mask = batch(*SIZES)
    together = model.extract_features(source, padding_mask)
    for row, size in enumerate(SIZES):
        alone = model.extract_features(source[row : row + 1, :size])
        n = alone["x"].size(1)
        assert n == 1 + (size - 400) // 320
        assert torch.equal((~together["padding_mask"]).sum(1)[row], torch.tensor(n))
        assert_close(together["x"][row, :n], alone["x"][0], rtol=0, atol=1e-4)
        for (batched, _, batched_ffn), (single, _, single_ffn) in zip(
            together["layer_results"], alone["layer_results"]
        ):
            assert_close(batched[:n, row], single[:, 0], rtol=0, atol=1e-4)
            assert_close(batched_ffn[:n, row], single_ffn[:, 0], rtol=0, atol=1e-4)
    order = torch.tensor([2, 0, 1])
    swapped = model.extract_features(source[order], padding_mask[order])
    keep = ~together["padding_mask"][order]
    assert_close(swapped["x"][keep], together["x"][order][keep], rtol=0, atol=1e-4)


@torch.no_grad()
def test_no_padding_is_reported_as_none(tiny_config, batch):
    model = trunk(tiny_config).eval()
    source, padding_mask = batch(6000, 6000)
    with_mask, without = model.extract_features(source, padding_mask), model.extract_features(source)
    assert with_mask["padding_mask"] is None and without["padding_mask"] is None
    assert_close(with_mask["x"], without["x"], rtol=0, atol=0)


@pytest.mark.parametrize("front_end", ["conv", "fbank"])
@torch.no_grad()
def test_frame_counts(tiny_config, front_end):
    model = trunk(tiny_config, front_end=front_end).eval()
    samples = torch.tensor([0, 1, 399, 400, 719, 720, 16000])
    assert model.frame_counts(samples).tolist() == [0, 0, 0, 1, 1, 2, 49]
    for size in (400, 719, 720, 3333, 16000):
        assert model.extract_features(torch.randn(1, size))["x"].size(1) == model.frame_counts(torch.tensor(size))


@torch.no_grad()
def test_extract_features_stops_at_a_layer(tiny_config):
    model = trunk(tiny_config).eval()
    source = torch.randn(1, 6000)
    whole = model.extract_features(source)
    for layer in range(3):
        part = model.extract_features(source, layer=layer)
        assert len(part["layer_results"]) == layer + 1
        assert_close(part["x"], whole["layer_results"][layer][0].transpose(0, 1))


@pytest.mark.parametrize(
    "changes, names",
    [
        ({"encoder_attention_heads": 5}, ["encoder_embed_dim", "encoder_attention_heads"]),
        ({"conv_pos_groups": 5}, ["encoder_embed_dim", "conv_pos_groups"]),
        ({"mask_prob": 1.5}, ["mask_prob"]),
        ({"mask_prob": -0.1}, ["mask_prob"]),
        ({"mask_length": 0}, ["mask_length"]),
        ({"mask_channel_prob": 0.5, "mask_channel_length": 64}, ["mask_channel_length", "32", "mask_channel_prob"]),
        ({"mask_channel_prob": 0.5, "mask_channel_length": 0}, ["mask_channel_length"]),
        ({"conv_feature_layers": "512"}, ["model.conv_feature_layers"]),
        ({"conv_feature_layers": "__import__('os')"}, ["model.conv_feature_layers"]),
    ],
)
def test_settings_that_cannot_work_are_named(tiny_config, changes, names):
    with pytest.raises(UserError) as error:
        Trunk(tiny_config(**changes))
    message = str(error.value)
    assert "\n" not in message and all(name in message for name in names)


def test_unused_settings_are_not_checked(tiny_config):
    Trunk(tiny_config(mask_channel_length=64))  # mask_channel_prob=0
    Trunk(tiny_config(front_end="fbank", conv_feature_layers="nonsense"))


def test_apply_mask(tiny_config):
    """Masked frames become the learned vector, masked channels zero for all frames, and nothing else changes."""
    model = trunk(tiny_config)
    x = 1 + torch.rand(3, 20, 32)
    mask = torch.rand(3, 20) < 0.5
    masked = model.apply_mask(x, mask)
    assert torch.equal(masked[mask], model.mask_emb.expand(int(mask.sum()), -1)) and torch.equal(
        masked[~mask], x[~mask]
    )
    model = trunk(tiny_config, mask_channel_prob=0.5)
    masked = model.apply_mask(x, None)
    zero = masked == 0
    assert torch.equal(zero, zero[:, :1].expand_as(zero)) and 0.2 < zero.float().mean() < 0.6
    assert torch.equal(masked[~zero], x[~zero])


def test_the_gradient_that_reaches_the_front_end(tiny_config):
    """feature_grad_mult scales it; 0 stops it."""
    source = torch.randn(1, 4000)
    gradients = {}
    for factor in (1.0, 0.1, 0.0):
        model = trunk(tiny_config, feature_grad_mult=factor).eval()
        model.extract_features(source)["x"].pow(2).sum().backward()
        gradients[factor] = model.feature_extractor.conv_layers[0][0].weight.grad
    assert_close(gradients[0.1], 0.1 * gradients[1.0])
    assert gradients[0.0] is None


def test_checkpoint_activations_change_no_figure(tiny_config):
    source = torch.randn(2, 4000)
    results = []
    for checkpointing in (False, True):
        model = trunk(tiny_config, checkpoint_activations=checkpointing, dropout=0.1).train()
        torch.manual_seed(1)
        x = model.extract_features(source)["x"]
        x.pow(2).sum().backward()
        results.append([x] + [p.grad for p in model.encoder.layers.parameters()])
    for plain, recomputed in zip(*results):
        assert_close(plain, recomputed)
