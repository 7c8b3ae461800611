"""The encoder is fairseq's, apart from LayerDrop's random numbers."""

import numpy as np
import pytest
import torch
from fairseq.models.wav2vec.wav2vec2 import TransformerEncoder, Wav2Vec2Config
from torch.testing import assert_close

from dinosr_plugin.models.encoder import Encoder


def fairseq_encoder(cfg) -> TransformerEncoder:
    names = [
        "encoder_layers",
        "encoder_embed_dim",
        "encoder_ffn_embed_dim",
        "encoder_attention_heads",
        "activation_fn",
        "layer_norm_first",
    ]
    names += [
        "dropout",
        "attention_dropout",
        "activation_dropout",
        "encoder_layerdrop",
        "conv_pos",
        "conv_pos_groups",
        "pos_conv_depth",
    ]
    return TransformerEncoder(
        Wav2Vec2Config(**{name: getattr(cfg, name) for name in names}, required_seq_len_multiple=1)
    ).eval()


@pytest.mark.parametrize("pos_conv_depth", [1, 2, 5])
@pytest.mark.parametrize("layer_norm_first", [False, True])
@pytest.mark.parametrize("last", [None, 0, 1])
@torch.no_grad()
def test_is_fairseqs_encoder(tiny_config, pos_conv_depth, layer_norm_first, last):
    """Same parameter names in the same order (so that released checkpoints load), same figures, same layer results."""
    cfg = tiny_config(pos_conv_depth=pos_conv_depth, layer_norm_first=layer_norm_first)
    ours, theirs = Encoder(cfg).eval(), fairseq_encoder(cfg)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 40, 32)
    expected, expected_layers = theirs(x, layer=last)
    actual, actual_layers = ours(x, layer=last)
    assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert len(actual_layers) == len(expected_layers) == (3 if last is None else last + 1)
    for (output, _, ffn), (expected_output, _, expected_ffn) in zip(actual_layers, expected_layers):
        assert_close(output, expected_output, rtol=1e-5, atol=1e-5)
        assert_close(ffn, expected_ffn, rtol=1e-5, atol=1e-5)


def test_layerdrop_draws_from_torch_and_not_from_numpy(tiny_config):
    encoder = Encoder(tiny_config(encoder_layers=6, encoder_layerdrop=0.5)).train()
    x = torch.randn(1, 10, 32)

    def run(torch_seed, numpy_seed):
        torch.manual_seed(torch_seed)
        np.random.seed(numpy_seed)
        return [ffn is not None for _, _, ffn in encoder(x)[1]]

    ran = [run(seed, 0) for seed in range(30)]
    assert ran == [run(seed, 99) for seed in range(30)]
    assert len({tuple(layers) for layers in ran}) > 10
    assert 60 < sum(map(sum, ran)) < 120  # of 180 layers, half expected
    encoder.eval()
    assert all(run(0, 0))


def test_a_dropped_layer_passes_its_input_on(tiny_config):
    encoder = Encoder(tiny_config(encoder_layerdrop=1.0)).train()
    x = torch.randn(1, 10, 32)
    output, layer_results = encoder(x, layer=1)
    assert len(layer_results) == 2, "the last layer to run is one that was dropped"
    assert all(torch.equal(result.transpose(0, 1), output) and ffn is None for result, _, ffn in layer_results)
