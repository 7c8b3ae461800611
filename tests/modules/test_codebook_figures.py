"""Sums over frames and the figures computed from them, compared with torch's distributions."""

import pytest
import torch

from dinosr_plugin.modules.codebook_figures import FIGURES, codebook_sums

K, N, V = 2, 40, 6
LOGITS = torch.randn(K, N, V, generator=torch.Generator().manual_seed(3))
CODES = torch.arange(K * N).reshape(K, N) % 5  # code 5 never occurs
LOG_PROBS = LOGITS.log_softmax(-1)


def figures(log_probs, codes) -> dict:
    return {name: figure(codebook_sums(log_probs, codes)) for name, figure in FIGURES.items()}


def test_against_torchs_distributions():
    result = figures(LOG_PROBS, CODES)
    used = torch.stack([row.bincount(minlength=V) for row in CODES]) / N
    expected = {
        "loss": torch.stack([torch.nn.functional.cross_entropy(logits, codes) for logits, codes in zip(LOGITS, CODES)]),
        "accuracy": (LOGITS.argmax(-1) == CODES).float().mean(1),
        "target_ppl": torch.distributions.Categorical(used).perplexity(),
        "pred_ppl": torch.distributions.Categorical(LOGITS.softmax(-1).mean(1)).perplexity(),
        "target_entropy": torch.distributions.Categorical(used).entropy(),
        "active_codes": torch.tensor([5.0, 5.0]),
        "pred_variance": LOGITS.softmax(-1).var(1, correction=0).sum(-1),
    }
    assert result.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(result[name].float(), expected[name], msg=name)


def test_sums_add_up():
    """Over micro-batches, ranks and validation batches: the figures do not depend on how the frames are split."""
    parts = [codebook_sums(LOG_PROBS[:, start:end], CODES[:, start:end]) for start, end in ((0, 7), (7, 8), (8, N))]
    total = {name: sum(part[name] for part in parts) for name in parts[0]}
    for name, value in codebook_sums(LOG_PROBS, CODES).items():
        torch.testing.assert_close(total[name], value, msg=name)


def test_a_collapse_is_visible():
    """One code for every frame: perplexity 1. The same prediction for every frame, certain or not: variance 0."""
    result = figures(torch.full((K, N, V), 1 / V).log(), torch.zeros(K, N, dtype=torch.long))
    assert result["target_ppl"].tolist() == [1, 1] and result["active_codes"].tolist() == [1, 1]
    assert result["pred_ppl"].tolist() == pytest.approx([V, V])
    assert result["pred_variance"].tolist() == pytest.approx([0, 0], abs=1e-6)


def test_no_frames():
    result = figures(LOG_PROBS[:, :0], CODES[:, :0])
    assert all(value.isfinite().all() for value in result.values()) and result["active_codes"].tolist() == [0, 0]
