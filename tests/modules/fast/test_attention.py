"""Attention with dropout against its plain reference and torch's own."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from dinosr_plugin.modules.fast.attention import attention, attention_reference


@pytest.fixture
def inputs():
    """Queries, keys and values (B, H, F, d) of two utterances, and their padding; the second is shorter."""
    generator = torch.Generator().manual_seed(0)
    padding = torch.arange(11) >= torch.tensor([11, 7]).unsqueeze(1)
    heads = [torch.randn(2, 3, 11, 4, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(3)]
    return heads, padding


def seeded(function, *arguments):
    torch.manual_seed(1)
    return function(*arguments)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dtype, error", [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_equals_the_reference(inputs, padded, dtype, error):
    heads, padding = inputs
    heads = [x.detach().to(dtype).requires_grad_() for x in heads]
    arguments = (*heads, padding if padded else None, 0.25)
    expected, output = seeded(attention_reference, *arguments), seeded(attention, *arguments)
    assert output.dtype == dtype
    torch.testing.assert_close(output, expected, rtol=error, atol=error)
    grad = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).to(dtype)
    for fast, plain in zip(torch.autograd.grad(output, heads, grad), torch.autograd.grad(expected, heads, grad)):
        torch.testing.assert_close(fast, plain, rtol=error, atol=error)


def test_gradients_are_those_of_the_output(inputs):
    heads, padding = ([x[:, :2, :5].detach().requires_grad_() for x in inputs[0]], inputs[1][:, 4:9])
    assert padding.any()
    assert torch.autograd.gradcheck(lambda *x: seeded(attention, *x, padding, 0.25), heads)


def test_without_dropout_it_is_torchs(inputs):
    (query, key, value), padding = inputs
    torch.testing.assert_close(attention(query, key, value, None, 0.0), scaled_dot_product_attention(query, key, value))
    alone = attention(*(x[1:, :, :7] for x in inputs[0]), None, 0.0)
    torch.testing.assert_close(attention(query, key, value, padding, 0.0)[1:, :, :7], alone)


def test_the_reference_without_dropout_is_torchs(inputs):
    (query, key, value), padding = inputs
    expected = scaled_dot_product_attention(query, key, value, ~padding[:, None, None])
    torch.testing.assert_close(attention_reference(query, key, value, padding, 0.0), expected)


def test_dropout_depends_on_torchs_seed_and_keeps_the_mean(inputs):
    query, key, value = (x.detach().repeat(200, 1, 1, 1) for x in inputs[0])
    torch.manual_seed(3)
    first = attention(query, key, value, None, 0.25)
    torch.manual_seed(3)
    assert torch.equal(attention(query, key, value, None, 0.25), first)
    assert not torch.equal(attention(query, key, value, None, 0.25), first)
    exact = attention(query, key, value, None, 0.0)
    assert (first.view(200, 2, 3, 11, 4).mean(0) - exact[:2]).abs().max() < 0.15


def test_saves_bytes_instead_of_weights():
    """For the backward pass: queries, keys, values, and one byte for each weight."""
    query, key, value = (torch.randn(2, 3, 50, 8, requires_grad=True) for _ in range(3))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        attention(query, key, value, None, 0.1)
    sizes = sorted((tensor.dtype == torch.bool, tensor.numel()) for tensor in saved)
    assert sizes == [(False, query.numel())] * 3 + [(True, 2 * 3 * 50 * 50)]


def test_an_utterance_without_valid_frames_has_finite_gradients():
    """All its keys are padding, and its own outputs are not used: its gradients are 0."""
    query, key, value = (torch.randn(2, 1, 4, 3, requires_grad=True) for _ in range(3))
    padding = torch.tensor([[False] * 4, [True] * 4])
    attention(query, key, value, padding, 0.1)[0].sum().backward()
    assert all(torch.isfinite(x.grad).all() and (x.grad[1] == 0).all() for x in (query, key, value))


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_a_causal_frame_attends_to_no_later_frame(inputs, dropout):
    (query, key, value), padding = inputs
    before = seeded(attention, query, key, value, padding, dropout, True)
    later_key, later_value = (torch.cat([x[:, :, :6], x[:, :, 6:] + 1], dim=2) for x in (key, value))
    after = seeded(attention, query, later_key, later_value, padding, dropout, True)
    assert torch.equal(after[:, :, :6], before[:, :, :6]) and not torch.equal(after[:, :, 6], before[:, :, 6])
    torch.testing.assert_close(attention(query, key, value, None, 0.0, True)[:, :, 0], value[:, :, 0])
