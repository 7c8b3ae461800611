import pytest
import torch
import torch.nn.functional as F

from dinosr_plugin.modules.fast.gelu_linear import gelu_linear


@pytest.mark.parametrize("dtype, error", [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_is_gelu_and_linear(dtype, error):
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in ((3, 5, 8), (6, 8), (6,))]
    expected = F.linear(F.gelu(inputs[0]), *inputs[1:])
    found = gelu_linear(*inputs)
    grad = torch.randn(expected.shape, generator=generator).to(dtype)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=error, atol=error)
    for mine, theirs in zip(torch.autograd.grad(found, inputs, grad), torch.autograd.grad(expected, inputs, grad)):
        torch.testing.assert_close(mine, theirs, rtol=error, atol=error)


def test_under_autocast_it_works_in_the_precision_of_its_input():
    x, weight, bias = torch.randn(4, 8), torch.randn(6, 8, requires_grad=True), torch.randn(6, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = gelu_linear(x.bfloat16().requires_grad_(), weight, bias)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert weight.grad.dtype == bias.grad.dtype == torch.float32


def test_keeps_its_input_only():
    kept = set()
    x, weight, bias = (
        torch.randn(4, 80, requires_grad=True),
        torch.randn(6, 80, requires_grad=True),
        torch.zeros(6, requires_grad=True),
    )
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.add(tensor.data_ptr()) or tensor, lambda tensor: tensor
    ):
        gelu_linear(x, weight, bias)
    assert kept == {x.data_ptr(), weight.data_ptr()}
