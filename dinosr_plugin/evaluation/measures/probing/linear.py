"""Linear probes: softmax regression and ridge regression, on one layer or on a learned weighted sum of layers.

Inputs are standardised to mean 0 and variance 1 over the training examples, each dimension of each layer. The loss is
the mean cross-entropy of a class, or half the mean squared error of a number with mean 0 and variance 1, plus penalty /
2 times the sum of squared weights; biases are free. The weights of layers are a softmax, as in SUPERB (Yang et al.,
Interspeech 2021, section 3), and learned together with the probe; at the start all layers count the same.

Ridge regression on one layer is solved exactly; everything else by L-BFGS in float32, on a GPU if there is one. Nothing
is random.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ....errors import UserError

PENALTIES = (10.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4)  # strongest first, so that each fit starts from the one before
STEPS = 100  # of L-BFGS at most
TOLERANCE, TOLERANCE_OF_SUM = 1e-5, 1e-7
"""Change of the loss in a step at which it ends: with one layer, and with a weighted sum, whose weights move slowly."""
SMALLEST = 1e-6  # weight of a layer from which a further fit starts
CONSTANT = 1e-6  # a dimension that deviates less, relative to its size, is left out: its standardised value is 0


@dataclass(frozen=True)
class Scale:
    """``mean``, ``deviation``: (L, D) float32 of the training examples."""

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray) -> "Scale":
        """x (L, N, D) float32."""
        mean = x.mean(axis=1, dtype=np.float64)
        deviation = np.sqrt(np.stack([of_layer.var(axis=0, dtype=np.float64) for of_layer in x]))
        constant = deviation <= CONSTANT * (1 + np.abs(mean))
        return cls(mean.astype(np.float32), np.where(constant, np.inf, deviation).astype(np.float32))

    def apply(self, x: np.ndarray) -> None:
        """Standardise x (L, N, D) in place."""
        x -= self.mean[:, None]
        x /= self.deviation[:, None]


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe of standardised inputs.

    Attributes:
        mix: (L,) weights of the layers, which sum to 1.
        weight: (D, C) float32; C is 1 for a number.
        bias: (C,) float32.
        penalty: with which it was fitted.
    """

    mix: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    penalty: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Standardised (L, n, D) float32 -> (n, C): scores of the classes, or the number in its own unit."""
        mixed = x[0] if len(x) == 1 else np.tensordot(self.mix, x, axes=1)  # (n, D)
        return mixed @ self.weight + self.bias


Fit = Callable[[np.ndarray, np.ndarray, float, LinearProbe | None], LinearProbe]
"""Standardised x (L, N, D), labels (n,) of the first n examples, which count; penalty; a start or None -> probe."""


def fit_classifier(
    x: np.ndarray, labels: np.ndarray, penalty: float, start: LinearProbe | None = None, classes: int = 2
) -> LinearProbe:
    """Softmax regression. x (L, N, D) standardised float32, labels (n,) int64 below ``classes``, n <= N."""
    targets = torch.from_numpy(labels).to(device())
    loss = lambda scores: F.cross_entropy(scores, targets)
    return minimise(x, len(labels), loss, penalty, start, classes)


def fit_regressor(x: np.ndarray, numbers: np.ndarray, penalty: float, start: LinearProbe | None = None) -> LinearProbe:
    """Ridge regression. x (L, N, D) standardised float32, numbers (n,) float64, n <= N."""
    centre, spread = float(numbers.mean()), float(numbers.std()) or 1.0
    y = ((numbers - centre) / spread).astype(np.float32)
    if len(x) == 1:
        inputs = x[0, : len(y)]
        means = inputs.mean(axis=0)  # not 0 in a part of the examples
        squares = inputs.T @ inputs / len(y) - np.outer(means, means)  # (D, D)
        weight = np.linalg.solve(squares + penalty * np.eye(len(squares)), inputs.T @ y / len(y))  # (D,)
        bias = np.array([centre - spread * (means @ weight)])
        return LinearProbe(np.ones(1), (spread * weight[:, None]).astype(np.float32), bias, penalty)
    targets = torch.from_numpy(y).to(device())
    loss = lambda scores: F.mse_loss(scores[:, 0], targets) / 2
    if start is not None:
        start = LinearProbe(start.mix, start.weight / spread, (start.bias - centre) / spread, start.penalty)
    probe = minimise(x, len(y), loss, penalty, start, 1)
    return LinearProbe(probe.mix, spread * probe.weight, spread * probe.bias + centre, penalty)


def minimise(
    x: np.ndarray, n: int, loss: Callable[[Tensor], Tensor], penalty: float, start: LinearProbe | None, width: int
) -> LinearProbe:
    """The probe with the lowest loss of the scores (n, ``width``) of the first n examples, plus penalty.

    x: (L, N, D) standardised float32. Not copied: a weighted sum of layers is computed for all N.
    """
    inputs = torch.from_numpy(x).to(device())
    L, N, D = inputs.shape
    if start is None:
        start = LinearProbe(np.full(L, 1 / L), np.zeros((D, width)), np.zeros(width), penalty)
    mix, weight, bias = (
        torch.as_tensor(values, dtype=torch.float32, device=inputs.device).clone().requires_grad_()
        for values in (np.log(np.maximum(start.mix, SMALLEST)), start.weight, start.bias)
    )

    def scores() -> Tensor:
        mixed = inputs[0, :n] if L == 1 else (mix.softmax(0) @ inputs.view(L, N * D)).view(N, D)[:n]
        return mixed @ weight + bias

    optimizer = torch.optim.LBFGS(
        [weight, bias] if L == 1 else [mix, weight, bias],
        max_iter=STEPS,
        tolerance_grad=0.0,
        tolerance_change=TOLERANCE if L == 1 else TOLERANCE_OF_SUM,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(scores()) + penalty / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    shares, weights, biases = (values.detach().cpu().numpy() for values in (mix.softmax(0), weight, bias))
    if not all(np.isfinite(values).all() for values in (shares, weights, biases)):
        raise UserError("the probe diverged; check the features for extreme values")
    return LinearProbe(shares, weights, biases, penalty)


def fit_with_best_penalty(
    x: np.ndarray, labels: np.ndarray, kept: int, fit: Fit, score: Callable[[np.ndarray, np.ndarray], float]
) -> LinearProbe:
    """Fit with the penalty that scores best on held-out examples; then fit on all examples.

    Penalties are tried from the strongest on, until the score is below the best one twice in turn; of equals the
    strongest is used. Each fit starts from the one before, but with equal weights of layers: a strong penalty would
    decide on one of them.

    Args:
        x: (L, N, D) standardised float32.
        labels: (N,).
        kept: number of examples, the first ones, that are fitted on; the others are held out.
        score: of predictions (n, C) and labels (n,); higher is better.
    """
    best, highest, probe, falls = None, -np.inf, None, 0
    for penalty in PENALTIES:
        probe = fit(x, labels[:kept], penalty, probe)
        reached = score(probe(x[:, kept:]), labels[kept:])
        if reached > highest:
            best, highest = probe, reached
        falls = falls + 1 if reached < highest else 0
        if falls == 2:
            break
        probe = replace(probe, mix=np.full(len(x), 1 / len(x)))
    assert best is not None
    return fit(x, labels, best.penalty, best)


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of the rows of scores (n, C) whose highest score is that of the label (n,)."""
    return float(np.mean(scores.argmax(axis=1) == labels))


def determination(predictions: np.ndarray, numbers: np.ndarray) -> float:
    """Coefficient of determination R² of predictions (n, 1) of numbers (n,)."""
    spread = np.square(numbers - numbers.mean()).sum()
    return float(1 - np.square(predictions[:, 0] - numbers).sum() / spread) if spread else 0.0


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
