"""Best-path decoding compared with a collapse written by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinosr_plugin.decoding import BestPathDecoder

BLANK = 0


def collapse(path, scores):
    """The definition: a token for each frame that differs from the frame before it and is not blank."""
    tokens, token_scores, alignment, previous = [], [], [], None
    for frame, (symbol, score) in enumerate(zip(path, scores)):
        if symbol != previous and symbol != BLANK:
            alignment.append((frame, len(tokens)))
            tokens.append(symbol)
            token_scores.append(score)
        previous = symbol
    return tokens, token_scores, alignment


def emissions_of(path, symbols=5):
    """(1, F, V) log-probabilities whose argmax is ``path``."""
    logits = torch.randn(1, len(path), symbols)
    logits[0, torch.arange(len(path)), torch.tensor(path, dtype=torch.long)] += 10
    return logits.log_softmax(dim=-1)


def decode(path):
    return BestPathDecoder(BLANK).decode(emissions_of(path), torch.tensor([len(path)]))[0][0]["tokens"].tolist()


@pytest.mark.parametrize(
    "path, tokens",
    [
        ([1, 1, 1], [1]),
        ([1, 0, 1], [1, 1]),
        ([0, 0, 0], []),
        ([1, 2, 2, 1], [1, 2, 1]),
        ([0, 3, 3, 0, 0, 3, 4, 0], [3, 3, 4]),
        ([], []),
    ],
)
def test_known_paths(path, tokens):
    assert decode(path) == tokens


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=5),
    padding=st.integers(0, 4),
    seed=st.integers(0, 2**16),
)
def test_batches_agree_with_the_definition(lengths, padding, seed):
    torch.manual_seed(seed)
    # 3 symbols, so that repeats and blanks are frequent
    emissions = torch.randn(len(lengths), max(lengths) + padding, 3).log_softmax(dim=-1)
    results = BestPathDecoder(BLANK).decode(emissions, torch.tensor(lengths))
    assert len(results) == len(lengths)
    for row, length, hypotheses in zip(emissions, lengths, results):
        (hypothesis,) = hypotheses
        scores, path = row[:length].max(dim=-1)
        tokens, token_scores, alignment = collapse(path.tolist(), scores.tolist())
        assert hypothesis["tokens"].tolist() == tokens
        assert hypothesis["alignment"] == alignment
        assert hypothesis["positional_scores"].tolist() == pytest.approx(token_scores)
        assert hypothesis["score"] == pytest.approx(sum(scores.tolist()), abs=1e-5)


def test_a_batch_may_have_no_frames():
    results = BestPathDecoder(BLANK).decode(torch.zeros(2, 0, 4), torch.zeros(2, dtype=torch.long))
    assert [hypotheses[0]["tokens"].numel() for hypotheses in results] == [0, 0]
    assert [hypotheses[0]["score"] for hypotheses in results] == [0.0, 0.0]


def test_forbidden_symbols_are_not_chosen():
    emissions = torch.tensor([[[-3.0, -float("inf"), -1.0], [-0.5, -float("inf"), -2.0]]])
    (hypothesis,) = BestPathDecoder(BLANK).decode(emissions, torch.tensor([2]))[0]
    assert hypothesis["tokens"].tolist() == [2]
    assert hypothesis["score"] == pytest.approx(-1.5)
