"""Instance normalisation (DinoSR's targets): over the valid frames, for each utterance and channel, eps 1e-5."""

import torch
import torch.nn.functional as F
from torch.testing import assert_close

from dinosr_plugin.modules.instance_norm import instance_norm


def test_equals_torchs_without_padding():
    x = 3 + 5 * torch.randn(2, 4, 30, 8)  # (K, B, F, D)
    expected = torch.stack([F.instance_norm(layer.transpose(1, 2)).transpose(1, 2) for layer in x])
    assert_close(instance_norm(x, None), expected)
    assert_close(instance_norm(x, torch.zeros(4, 30, dtype=torch.bool)), expected)


def test_padded_frames_are_ignored():
    x = torch.randn(2, 3, 20, 8)
    sizes = [20, 13, 1]
    padding = torch.arange(20) >= torch.tensor(sizes).unsqueeze(1)
    loud = x.masked_fill(padding.unsqueeze(-1), 1e3)
    normed = instance_norm(loud, padding)
    for row, n in enumerate(sizes):
        assert_close(normed[:, row, :n], instance_norm(x[:, row : row + 1, :n], None)[:, 0])


def test_half_precision_becomes_float32():
    x = torch.randn(1, 2, 50, 4).half()
    assert_close(instance_norm(x, None), instance_norm(x.float(), None), rtol=0, atol=0)


def test_constant_channels_and_fully_padded_rows_are_finite():
    padding = torch.tensor([[False] * 5, [True] * 5])
    assert instance_norm(torch.ones(2, 5, 3), padding).isfinite().all()
