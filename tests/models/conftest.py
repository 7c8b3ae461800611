"""A model small enough for tests."""

import pytest
import torch

from dinosr_plugin.models.dinosr import DinoSR, DinoSRConfig

TINY = dict(
    conv_feature_layers="[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
    encoder_layers=3,
    encoder_embed_dim=32,
    encoder_ffn_embed_dim=48,
    encoder_attention_heads=4,
    dropout=0.0,
    attention_dropout=0.0,
    conv_pos=10,
    conv_pos_groups=4,
    pos_conv_depth=2,
    average_top_k_layers=2,
    codebook_size=16,
    mask_channel_length=8,
)


@pytest.fixture
def tiny_config():
    """tiny_config(field=value, ...) -> DinoSRConfig."""
    return lambda **changes: DinoSRConfig(**{**TINY, **changes})


@pytest.fixture
def tiny(tiny_config):
    """tiny(field=value, ...) -> DinoSR with random weights, the same for the same seed, in training mode."""

    def build(seed: int = 0, **changes) -> DinoSR:
        torch.manual_seed(seed)
        return DinoSR(tiny_config(**changes)).train()

    return build


@pytest.fixture
def batch():
    """batch(*sizes, seed) -> (source (B, T) padded with zeros, padding_mask (B, T))."""

    def build(*sizes: int, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        waves = [torch.randn(size, generator=generator) for size in sizes]
        source = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
        return source, torch.arange(source.size(1)) >= torch.tensor(sizes).unsqueeze(1)

    return build
