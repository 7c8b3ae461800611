import pytest
import torch

from dinosr_plugin.modules.fast.dropout import dropout, random_keep


def test_a_value_is_dropped_with_its_probability():
    keep = random_keep(torch.Size((100, 99, 101)), 0.1)
    assert keep.dtype == torch.bool and keep.shape == (100, 99, 101)
    n = keep.numel()
    assert abs((~keep).sum().item() / n - 0.1) < 4 * (0.1 * 0.9 / n) ** 0.5 + 2**-17
    neighbours = (~keep.flatten()[1:] & ~keep.flatten()[:-1]).double().mean().item()
    assert abs(neighbours - 0.01) < 4 * (0.01 / n) ** 0.5
    for lane in range(4):  # each of a 64-bit number's four parts
        assert abs((~keep.flatten()[lane::4]).double().mean().item() - 0.1) < 4 * (0.09 * 4 / n) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.1, 0.75])
def test_what_is_kept_grows_and_so_does_its_gradient(probability, dtype):
    x = torch.ones(300, 200, dtype=dtype, requires_grad=True)
    y = dropout(x, probability, training=True)
    assert y.dtype == dtype and abs(y.float().mean().item() - 1) < 0.03
    grown = torch.ones((), dtype=dtype) / (1 - probability)
    assert ((y == 0) | ((y - grown).abs() < 0.01 * grown)).all()
    y.backward(torch.full_like(y, 3))
    torch.testing.assert_close(x.grad, 3 * y.detach(), rtol=0.01, atol=0)


def test_it_follows_torchs_seed():
    x = torch.ones(50, 50)
    torch.manual_seed(1)
    first = dropout(x, 0.5, training=True)
    torch.manual_seed(1)
    assert torch.equal(dropout(x, 0.5, training=True), first)
    assert not torch.equal(dropout(x, 0.5, training=True), first)


def test_nothing_and_everything():
    x = torch.randn(5, 7)
    assert torch.equal(dropout(x, 0.5, training=False), x) and torch.equal(dropout(x, 0.0, training=True), x)
    assert (dropout(x, 1.0, training=True) == 0).all()
    assert dropout(x, 1 - 1e-7, training=True).isfinite().all()


def test_a_byte_is_kept_for_each_value():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.untyped_storage().nbytes()) or tensor, lambda tensor: tensor
    ):
        dropout(torch.ones(100, 100, requires_grad=True), 0.1, training=True)
    assert kept == [100 * 100]
