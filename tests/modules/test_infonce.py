"""InfoNCE for all steps at once equals a plain loop; and how negatives are drawn."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from dinosr_plugin.modules.infonce import draw_negatives, infonce_logits, infonce_logits_reference


def generators(*seeds: int) -> list:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("B, T, K, D, N", [(2, 9, 3, 5, 7), (1, 4, 3, 2, 1), (3, 6, 1, 8, 4)])
def test_equals_the_reference(B, T, K, D, N):
    torch.manual_seed(0)
    inputs = [(3 * torch.randn(K, B, T - K, D)).requires_grad_(), (3 * torch.randn(B, T, D)).requires_grad_()]
    negatives = draw_negatives(T, T - K, N, generators(*range(B)))
    results = []
    for function in (infonce_logits, infonce_logits_reference):
        logits = function(*inputs, negatives)
        loss = F.cross_entropy(logits.flatten(0, 2), torch.zeros(K * B * (T - K), dtype=torch.long))
        results.append((logits, loss, *torch.autograd.grad(loss, inputs)))
    assert results[0][0].shape == (K, B, T - K, 1 + N)
    for fast, plain in zip(*results):
        assert_close(fast, plain, rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=50)
@given(B=st.integers(1, 4), T=st.integers(2, 40), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_no_negative_is_at_the_time_of_its_anchor(B, T, seed, data):
    W = data.draw(st.integers(1, T))
    drawn = draw_negatives(T, W, 16, generators(*range(seed, seed + B)))
    assert drawn.shape == (B, W, 16) and drawn.min() >= 0 and drawn.max() < B * T
    assert not (drawn % T == torch.arange(W).view(1, W, 1)).any()


def test_negatives_are_uniform_over_all_other_frames_of_all_rows():
    B, T, N = 3, 5, 60_000
    drawn = draw_negatives(T, 2, N, generators(1, 2, 3))
    for b in range(B):
        for t in range(2):
            frequency = torch.bincount(drawn[b, t], minlength=B * T).view(B, T) / N
            expected = torch.full((B, T), 1 / (B * (T - 1)))
            expected[:, t] = 0
            assert_close(frequency, expected, rtol=0, atol=5 / math.sqrt(N) * 0.28)  # five standard deviations


def test_negatives_of_a_row_depend_on_its_generator_only():
    one, other = (draw_negatives(20, 8, 10, generators(*seeds)) for seeds in ((5, 6, 7), (7, 1, 5)))
    assert torch.equal(one[0], other[2]) and torch.equal(one[2], other[0]) and not torch.equal(one[1], other[1])


def test_a_perfect_prediction_has_no_loss():
    torch.manual_seed(0)
    frames = torch.randn(2, 12, 6)
    predictions = 1000 * torch.stack([frames[:, k : k + 8] for k in range(1, 5)])
    negatives = draw_negatives(12, 8, 20, generators(1, 2))
    true = torch.arange(2).view(2, 1) * 12 + torch.arange(8) + torch.arange(1, 5).view(4, 1, 1)  # (K, B, W)
    drawn_true = negatives == true.unsqueeze(-1)  # a negative may be the true frame
    logits = infonce_logits(F.normalize(predictions, dim=-1) * 1e4, F.normalize(frames, dim=-1), negatives)
    logits[..., 1:].masked_fill_(drawn_true, float("-inf"))
    assert_close(logits.logsumexp(-1) - logits[..., 0], torch.zeros(4, 2, 8))
