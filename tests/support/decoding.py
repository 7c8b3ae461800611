"""For tests of the CTC searches: a small dictionary, emissions, and exact results to compare with.

With three letters and a few frames all alignments can be enumerated, which gives the exact probability of each text.
"""

import importlib.util
import itertools
import math
from collections import defaultdict

import pytest
import torch
from fairseq.data import Dictionary

needs_flashlight = pytest.mark.skipif(
    importlib.util.find_spec("flashlight") is None, reason="pip install flashlight-text"
)
BLANK = 0
WIDE = {"beam": 5000, "nbest": 5000, "beam_threshold": 1000.0}


def dictionary_of(symbols):
    dictionary = Dictionary()  # <s> <pad> </s> <unk>
    for symbol in symbols:
        dictionary.add_symbol(symbol)
    return dictionary


LETTERS = dictionary_of("|AB")  # indices 4, 5, 6
OF_LETTERS = [BLANK, 4, 5, 6]


def random_emissions(frames, seed, sharpness=1.0, utterances=1):
    """(B, F, V) log-probabilities of the blank and the letters; special symbols are excluded, as in the generator."""
    logits = sharpness * torch.randn(utterances, frames, len(LETTERS), generator=torch.Generator().manual_seed(seed))
    logits[:, :, 1:4] = -math.inf
    return logits.log_softmax(dim=-1)


def emissions_of(path, certainty=0.9):
    """(1, F, V) log-probabilities: ``certainty`` for ``path``, the rest shared by the other letters and the blank."""
    probabilities = torch.zeros(1, len(path), len(LETTERS))
    probabilities[:, :, OF_LETTERS] = (1 - certainty) / (len(OF_LETTERS) - 1)
    probabilities[0, torch.arange(len(path)), torch.tensor(path)] = certainty
    return probabilities.log()


def collapse(path):
    return tuple(symbol for symbol, _ in itertools.groupby(path) if symbol != BLANK)


def every_text(emissions):
    """(F, V) -> {text: log of the summed probability of all its alignments}."""
    sums = defaultdict(float)
    probabilities = emissions.double().exp()
    for path in itertools.product(OF_LETTERS, repeat=len(emissions)):
        sums[collapse(path)] += math.prod(probabilities[frame, symbol].item() for frame, symbol in enumerate(path))
    return {text: math.log(total) for text, total in sums.items() if total > 0}


def decode_one(decoder, emissions):
    (hypotheses,) = decoder.decode(emissions, torch.tensor([emissions.size(1)]))
    return hypotheses


def text_of(hypothesis):
    return LETTERS.string(hypothesis["tokens"]).replace(" ", "")


def check_shape_of(hypothesis, emissions):
    """Checks every field of a hypothesis against ``decoding/base.py``."""
    tokens = hypothesis["tokens"].tolist()
    frames = [frame for frame, _ in hypothesis["alignment"]]
    assert hypothesis["tokens"].dtype == torch.int64 and BLANK not in tokens
    assert [position for _, position in hypothesis["alignment"]] == list(range(len(tokens)))
    assert frames == sorted(set(frames)) and all(0 <= frame < emissions.size(1) for frame in frames)
    expected = [emissions[0, frame, token].item() for frame, token in zip(frames, tokens)]
    assert hypothesis["positional_scores"].tolist() == pytest.approx(expected)


def assert_same_hypothesis(one, other):
    assert one["tokens"].tolist() == other["tokens"].tolist() and one["alignment"] == other["alignment"]
    assert one["score"] == pytest.approx(other["score"], abs=1e-5)
    assert one["positional_scores"].tolist() == pytest.approx(other["positional_scores"].tolist())
