"""Dropout against its plain reference, and its random numbers."""

import pytest
import torch

from dinosr_plugin.modules.fast.dropout import dropout, dropout_reference, random_keep


@pytest.mark.parametrize("dtype, error", [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 0.01)])
@pytest.mark.parametrize("probability", [0.1, 0.75])
def test_equals_the_reference(probability, dtype, error):
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(31, 7, dtype=torch.float64, generator=generator).to(dtype) for _ in range(2))
    x.requires_grad_()
    torch.manual_seed(1)
    output = dropout(x, probability, training=True)
    torch.manual_seed(1)
    expected = dropout_reference(x, probability)
    assert output.dtype == dtype and 0 < (output == 0).sum() < output.numel()
    torch.testing.assert_close(output, expected, rtol=error, atol=0)
    (fast,), (plain,) = torch.autograd.grad(output, x, grad), torch.autograd.grad(expected, x, grad)
    torch.testing.assert_close(fast, plain, rtol=error, atol=0)


def test_values_are_dropped_with_the_given_probability():
    keep = random_keep(torch.Size((100, 99, 101)), 0.1)
    assert keep.dtype == torch.bool and keep.shape == (100, 99, 101)
    n = keep.numel()
    assert abs((~keep).sum().item() / n - 0.1) < 4 * (0.1 * 0.9 / n) ** 0.5 + 2**-17
    neighbours = (~keep.flatten()[1:] & ~keep.flatten()[:-1]).double().mean().item()
    assert abs(neighbours - 0.01) < 4 * (0.01 / n) ** 0.5
    for lane in range(4):  # each of the four parts of a 64-bit number
        assert abs((~keep.flatten()[lane::4]).double().mean().item() - 0.1) < 4 * (0.09 * 4 / n) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.1, 0.75])
def test_kept_values_and_their_gradients_are_scaled(probability, dtype):
    x = torch.ones(300, 200, dtype=dtype, requires_grad=True)
    y = dropout(x, probability, training=True)
    assert y.dtype == dtype and abs(y.float().mean().item() - 1) < 0.03
    gain = torch.ones((), dtype=dtype) / (1 - probability)
    assert ((y == 0) | ((y - gain).abs() < 0.01 * gain)).all()
    y.backward(torch.full_like(y, 3))
    torch.testing.assert_close(x.grad, 3 * y.detach(), rtol=0.01, atol=0)


def test_it_depends_on_torchs_seed():
    x = torch.ones(50, 50)
    torch.manual_seed(1)
    first = dropout(x, 0.5, training=True)
    torch.manual_seed(1)
    assert torch.equal(dropout(x, 0.5, training=True), first)
    assert not torch.equal(dropout(x, 0.5, training=True), first)


def test_probabilities_0_and_1():
    x = torch.randn(5, 7)
    assert torch.equal(dropout(x, 0.5, training=False), x) and torch.equal(dropout(x, 0.0, training=True), x)
    assert (dropout(x, 1.0, training=True) == 0).all()
    assert dropout(x, 1 - 1e-7, training=True).isfinite().all()


def test_saves_a_byte_for_each_value():
    saved = []

    def pack(tensor):
        saved.append(tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        dropout(torch.ones(100, 100, requires_grad=True), 0.1, training=True)
    assert saved == [100 * 100]
