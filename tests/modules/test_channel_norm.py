"""Each frame normalised over its channels, with the unbiased variance, as CPC_audio does it."""

import pytest
import torch
from torch.testing import assert_close

from dinosr_plugin.modules.channel_norm import ChannelNorm


@pytest.mark.parametrize("channels", [7, 64, 256])
def test_frames_have_mean_0_and_variance_1(channels):
    torch.manual_seed(0)
    x = 5 * torch.randn(3, channels, 11) + 2
    y = ChannelNorm(channels)(x)
    assert_close(y.mean(1), torch.zeros(3, 11), rtol=0, atol=1e-5)
    assert_close(y.var(1, unbiased=True), torch.ones(3, 11), rtol=0, atol=1e-4)


def test_is_the_definition():
    torch.manual_seed(0)
    norm = ChannelNorm(6)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 6, 5) * torch.tensor([1e-3, 1e-2, 1, 10, 0])  # the last frame is zero
    expected = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=True, keepdim=True) + 1e-5).sqrt() * norm.weight[
        :, None
    ] + norm.bias[:, None]
    assert_close(norm(x), expected, rtol=1e-5, atol=1e-6)
