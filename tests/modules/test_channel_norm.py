"""Each frame is normalised over its channels with the unbiased variance, as in CPC_audio."""

import pytest
import torch
from torch.testing import assert_close

from dinosr_plugin.modules.channel_norm import ChannelNorm, channel_norm_reference


@pytest.mark.parametrize("channels", [7, 64, 256])
def test_frames_have_mean_0_and_variance_1(channels):
    torch.manual_seed(0)
    x = 5 * torch.randn(3, channels, 11) + 2
    y = ChannelNorm(channels)(x)
    assert_close(y.mean(1), torch.zeros(3, 11), rtol=0, atol=1e-5)
    assert_close(y.var(1, unbiased=True), torch.ones(3, 11), rtol=0, atol=1e-4)


def test_equals_the_reference():
    """Values and gradients, also of quiet frames and of one that is zero, where epsilon matters."""
    torch.manual_seed(0)
    norm = ChannelNorm(6)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    x = (torch.randn(2, 6, 5) * torch.tensor([1e-3, 1e-2, 1, 10, 0])).requires_grad_()
    inputs, grad = (x, norm.weight, norm.bias), torch.randn(2, 6, 5)
    output, expected = norm(x), channel_norm_reference(*inputs)
    assert_close(output, expected, rtol=1e-5, atol=1e-6)
    for fast, plain in zip(torch.autograd.grad(output, inputs, grad), torch.autograd.grad(expected, inputs, grad)):
        assert_close(fast, plain, rtol=1e-4, atol=1e-4)
