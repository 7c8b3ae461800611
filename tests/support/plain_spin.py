"""Spin in plain torch and float64, one utterance at a time, for comparison (arXiv 2305.11072, section 2).

It shares nothing with ``dinosr_plugin.models.spin`` but the names of the parameters, those of fairseq's HuBERT.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

STRIDES = (5, 2, 2, 2, 2, 2, 2)
Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class Recipe:
    """The settings of Spin and of its encoder, with the values of the paper where it has them."""

    heads: int
    n_layers: int
    pos_conv_groups: int
    pre_norm: bool = False
    epsilon: float = 0.02
    temperature: float = 0.1
    iterations: int = 3
    hard_target: bool = False
    prob_ratio: float = 1.0


# ---- the encoder -----------------------------------------------------------------------------------------------------


def linear(p: Parameters, name: str, x: Tensor) -> Tensor:
    return x @ p[f"{name}.weight"].t() + p[f"{name}.bias"]


def norm(p: Parameters, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"])


def front_end(p: Parameters, wave: Tensor) -> Tensor:
    """(T,) -> (F, C)."""
    x = wave.view(1, 1, -1)
    for i, stride in enumerate(STRIDES):
        name = f"feature_extractor.conv_layers.{i}"
        x = F.conv1d(x, p[f"{name}.0.weight"], stride=stride)  # (1, C, F)
        if f"{name}.2.1.weight" in p:
            x = norm(p, f"{name}.2.1", x.transpose(1, 2)).transpose(1, 2)
        elif f"{name}.2.weight" in p:
            x = F.group_norm(x, x.size(1), p[f"{name}.2.weight"], p[f"{name}.2.bias"])
        x = F.gelu(x)
    return x[0].t()


def positions(p: Parameters, x: Tensor, groups: int) -> Tensor:
    """(F, D) -> (F, D)."""
    direction, length = p["encoder.pos_conv.0.weight_v"], p["encoder.pos_conv.0.weight_g"]
    weight = length * direction / direction.pow(2).sum((0, 1), keepdim=True).sqrt()
    y = F.conv1d(x.t()[None], weight, p["encoder.pos_conv.0.bias"], padding=weight.size(2) // 2, groups=groups)
    return F.gelu(y[0].t()[: len(x)])


def attention(p: Parameters, name: str, x: Tensor, heads: int) -> Tensor:
    """(F, D) -> (F, D)."""
    q, k, v = (linear(p, f"{name}.{part}_proj", x).view(len(x), heads, -1).transpose(0, 1) for part in "qkv")
    weights = (q @ k.transpose(1, 2) / math.sqrt(q.size(-1))).softmax(-1)  # (H, F, F)
    return linear(p, f"{name}.out_proj", (weights @ v).transpose(0, 1).reshape(len(x), -1))


def encode(p: Parameters, wave: Tensor, recipe: Recipe) -> Tensor:
    """(T,) -> (F, D), the output of the last layer."""
    x = linear(p, "post_extract_proj", norm(p, "layer_norm", front_end(p, wave)))
    x = x + positions(p, x, recipe.pos_conv_groups)
    if not recipe.pre_norm:
        x = norm(p, "encoder.layer_norm", x)
    for i in range(recipe.n_layers):
        name = f"encoder.layers.{i}"

        def attend(x, name=name):
            return attention(p, f"{name}.self_attn", x, recipe.heads)

        def feed_forward(x, name=name):
            return linear(p, f"{name}.fc2", F.gelu(linear(p, f"{name}.fc1", x)))

        first, second = f"{name}.self_attn_layer_norm", f"{name}.final_layer_norm"
        if recipe.pre_norm:
            x = x + attend(norm(p, first, x))
            x = x + feed_forward(norm(p, second, x))
        else:
            x = norm(p, first, x + attend(x))
            x = norm(p, second, x + feed_forward(x))
    return norm(p, "encoder.layer_norm", x) if recipe.pre_norm else x


# ---- the loss --------------------------------------------------------------------------------------------------------


def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """(N, K) -> (N, K): a matrix of total 1, whose rows and columns are brought to the same totals in turn."""
    N, K = scores.shape
    m = (scores / epsilon).exp().t()  # (K, N)
    m = m / m.sum()
    for _ in range(iterations):
        m = m / (m.sum(1, keepdim=True) * K)
        m = m / (m.sum(0, keepdim=True) * N)
    return (m * N).t()


def spin_loss(p: Parameters, views: Sequence[Sequence[Tensor]], recipe: Recipe) -> Tensor:
    """The mean over frames of the swapped prediction; ``views``: two lists of waveforms (T,) without padding."""
    first, second = (
        F.normalize(linear(p, "projection", torch.cat([encode(p, wave, recipe) for wave in waves])), dim=-1)
        @ p["codebook.weight"].t()
        for waves in views
    )

    def target(own: Tensor, other: Tensor) -> Tensor:
        mixed = recipe.prob_ratio * own.detach() + (1 - recipe.prob_ratio) * other.detach()
        q = sinkhorn(mixed, recipe.epsilon, recipe.iterations)
        return F.one_hot(q.argmax(1), q.size(1)).to(q) if recipe.hard_target else q

    def cross_entropy(target: Tensor, scores: Tensor) -> Tensor:
        return -(target * (scores / recipe.temperature).softmax(1).log()).sum(1).mean()

    return (cross_entropy(target(first, second), second) + cross_entropy(target(second, first), first)) / 2


# ---- training --------------------------------------------------------------------------------------------------------


class PlainAdam:
    """Adam (Kingma and Ba, algorithm 1), after which the rows of the codebook have norm 1.

    ``fairseqs_epsilon``: as fairseq has it, that of the end of their section 2.
    """

    def __init__(self, parameters: Parameters, epsilon: float, fairseqs_epsilon: bool = False):
        self.parameters, self.betas, self.epsilon, self.steps = parameters, (0.9, 0.999), epsilon, 0
        self.fairseqs_epsilon = fairseqs_epsilon
        self.moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in parameters.items()}

    def step(self, gradients: Parameters, rate: float) -> None:
        self.steps += 1
        b1, b2 = self.betas
        for name, g in gradients.items():
            m, v = self.moments[name]
            m.mul_(b1).add_((1 - b1) * g)
            v.mul_(b2).add_((1 - b2) * g * g)
            mean, variance = m / (1 - b1**self.steps), v / (1 - b2**self.steps)
            epsilon = self.epsilon / math.sqrt(1 - b2**self.steps) if self.fairseqs_epsilon else self.epsilon
            self.parameters[name].data -= rate * mean / (variance.sqrt() + epsilon)
        rows = self.parameters["codebook.weight"].data
        rows /= rows.pow(2).sum(1, keepdim=True).sqrt()


def gradients(loss: Tensor, parameters: Parameters) -> Parameters:
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values()))))
