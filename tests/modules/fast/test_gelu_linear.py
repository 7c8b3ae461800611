"""GELU and linear layer against the plain reference."""

import pytest
import torch

from dinosr_plugin.modules.fast.gelu_linear import gelu_linear, gelu_linear_reference


@pytest.mark.parametrize("dtype, error", [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_equals_the_reference(dtype, error):
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in ((3, 5, 8), (6, 8), (6,))]
    expected, output = gelu_linear_reference(*inputs), gelu_linear(*inputs)
    grad = torch.randn(expected.shape, generator=generator).to(dtype)
    assert output.dtype == dtype
    torch.testing.assert_close(output, expected, rtol=error, atol=error)
    for fast, plain in zip(torch.autograd.grad(output, inputs, grad), torch.autograd.grad(expected, inputs, grad)):
        torch.testing.assert_close(fast, plain, rtol=error, atol=error)


def test_gradients_are_those_of_the_output():
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in ((2, 3, 4), (5, 4), (5,))]
    assert torch.autograd.gradcheck(gelu_linear, [x.requires_grad_() for x in inputs])


def test_under_autocast_it_uses_the_precision_of_its_input():
    x, weight, bias = torch.randn(4, 8), torch.randn(6, 8, requires_grad=True), torch.randn(6, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = gelu_linear(x.bfloat16().requires_grad_(), weight, bias)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert weight.grad.dtype == bias.grad.dtype == torch.float32


def test_saves_its_input_only():
    saved = set()
    x, weight, bias = (torch.randn(shape, requires_grad=True) for shape in ((4, 80), (6, 80), (6,)))

    def pack(tensor):
        saved.add(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        gelu_linear(x, weight, bias)
    assert saved == {x.data_ptr(), weight.data_ptr()}
