import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from dinosr_plugin.modules.fast import attention as module
from dinosr_plugin.modules.fast.attention import attention


@pytest.fixture
def heads():
    """Queries, keys and values of two utterances, the second shorter; (B, H, F, d)."""
    generator = torch.Generator().manual_seed(0)
    padding = torch.arange(11) >= torch.tensor([11, 7]).unsqueeze(1)
    return [
        torch.randn(2, 3, 11, 4, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(3)
    ], padding


@pytest.mark.parametrize("padded", [False, True])
def test_what_is_dropped_is_all_that_dropout_changes(heads, padded, monkeypatch):
    """Output and gradients are those of the formula with the same weights dropped."""
    (query, key, value), padding = heads
    padding = padding if padded else None
    keep = torch.rand(2, 3, 11, 11, generator=torch.Generator().manual_seed(1)) > 0.25
    monkeypatch.setattr(module, "random_keep", lambda shape, dropout: keep)
    scores = query @ key.transpose(2, 3) / 2
    scores = scores if padding is None else scores.masked_fill(padding[:, None, None], float("-inf"))
    expected = (scores.softmax(-1) * keep / 0.75) @ value
    found = attention(query, key, value, padding, 0.25)
    torch.testing.assert_close(found, expected)
    grad = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for mine, theirs in zip(torch.autograd.grad(found, heads[0], grad), torch.autograd.grad(expected, heads[0], grad)):
        torch.testing.assert_close(mine, theirs)


def test_without_dropout_it_is_torchs(heads):
    (query, key, value), padding = heads
    torch.testing.assert_close(attention(query, key, value, None, 0.0), scaled_dot_product_attention(query, key, value))
    alone = attention(*(x[1:, :, :7] for x in heads[0]), None, 0.0)
    torch.testing.assert_close(attention(query, key, value, padding, 0.0)[1:, :, :7], alone)


def test_dropout_is_of_torchs_seed_and_keeps_the_mean(heads):
    query, key, value = (x.detach().repeat(200, 1, 1, 1) for x in heads[0])
    torch.manual_seed(3)
    first = attention(query, key, value, None, 0.25)
    torch.manual_seed(3)
    assert torch.equal(attention(query, key, value, None, 0.25), first)
    assert not torch.equal(attention(query, key, value, None, 0.25), first)
    exact = attention(query, key, value, None, 0.0)
    assert (first.view(200, 2, 3, 11, 4).mean(0) - exact[:2]).abs().max() < 0.15


def test_keeps_bytes_and_not_weights():
    """For the backward pass: queries, keys, values, and a byte for each weight."""
    query, key, value = (torch.randn(2, 3, 50, 8, requires_grad=True) for _ in range(3))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        attention(query, key, value, None, 0.1)
    assert sorted((tensor.dtype == torch.bool, tensor.numel()) for tensor in kept) == [(False, query.numel())] * 3 + [
        (True, 2 * 3 * 50 * 50)
    ]


def test_an_utterance_without_a_frame_spoils_no_gradient():
    """All of its keys are padding; nothing is learned from it."""
    query, key, value = (torch.randn(2, 1, 4, 3, requires_grad=True) for _ in range(3))
    padding = torch.tensor([[False] * 4, [True] * 4])
    attention(query, key, value, padding, 0.1)[0].sum().backward()
    assert all(torch.isfinite(x.grad).all() and (x.grad[1] == 0).all() for x in (query, key, value))
