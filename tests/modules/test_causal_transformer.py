"""The causal Transformer layer: it ignores the future and equals the plain formula."""

import torch
import torch.nn.functional as F
from torch.testing import assert_close

from dinosr_plugin.modules.causal_transformer import CausalTransformerLayer


def layer(seed: int = 0, dropout: float = 0.0) -> CausalTransformerLayer:
    torch.manual_seed(seed)
    return CausalTransformerLayer(width=16, heads=4, feed_forward=32, dropout=dropout, positions=10)


def test_ignores_the_future():
    model, x = layer(), torch.randn(2, 10, 16)
    changed = x.clone()
    changed[:, 6:] = torch.randn(2, 4, 16)
    assert_close(model(x)[:, :6], model(changed)[:, :6])
    assert (model(x)[:, 6:] - model(changed)[:, 6:]).abs().amax(-1).min() > 1e-3


def test_equals_the_formula():
    """Query by query, in double precision."""
    model, x = layer().double(), torch.randn(1, 7, 16, dtype=torch.double)
    heads = lambda y: y.view(7, 4, 4)
    query, key, value = (heads(project(x[0])) for project in (model.query, model.key, model.value))
    attended = torch.zeros(7, 4, 4, dtype=torch.double)
    for t in range(7):
        for head in range(4):
            scores = torch.stack([query[t, head] @ (key[s, head] + model.distances[t - s]) for s in range(t + 1)]) / 2.0
            attended[t, head] = scores.softmax(0) @ value[: t + 1, head]
    y = model.attention_norm(x[0] + model.out(attended.view(7, 16)))
    assert_close(model(x)[0], model.feed_forward_norm(y + model.contract(F.relu(model.expand(y)))))


def test_as_many_parameters_as_in_cpc_audio():
    """CPC_audio: width 256, 8 heads, feed-forward 2048, 116 positions; Q, K, V and O without bias."""
    count = sum(p.numel() for p in CausalTransformerLayer(256, 8, 2048, 0.1, 116).parameters())
    assert count == 4 * 256**2 + 116 * 32 + 2 * 256 * 2048 + 2048 + 256 + 4 * 256


def test_dropout_in_training_only():
    model, x = layer(dropout=0.5), torch.randn(2, 10, 16)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))
