"""Linear probes: equal to scikit-learn's, on one layer; on several, the weighted sum finds what is needed."""

import numpy as np
import pytest

from dinosr_plugin.evaluation.measures.probing.linear import (
    PENALTIES,
    Scale,
    determination,
    fit_classifier,
    fit_regressor,
    fit_with_best_penalty,
)

N, D, C = 400, 6, 3


def standardised(*layers: np.ndarray) -> np.ndarray:
    x = np.stack(layers).astype(np.float32)
    Scale.of(x).apply(x)
    return x


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(1, N, D) standardised inputs, classes and numbers."""
    rng = np.random.default_rng(0)
    plain = rng.normal(3, 2, (N, D))
    scores = plain @ rng.normal(size=(D, C)) + rng.normal(size=(N, C))
    return standardised(plain), scores.argmax(axis=1), plain @ rng.normal(size=D) + rng.normal(size=N) + 7


@pytest.mark.parametrize("penalty", [1.0, 0.01])
def test_softmax_regression_is_that_of_scikit_learn(data, penalty):
    sklearn = pytest.importorskip("sklearn.linear_model")
    x, labels, _ = data
    probe = fit_classifier(x, labels, penalty, classes=C)
    # scikit-learn: sum of losses + ||W||^2 / (2 C), and both parametrisations have the same probabilities
    other = sklearn.LogisticRegression(C=1 / (N * penalty), tol=1e-8, max_iter=1000).fit(x[0], labels)
    scores = probe(x)
    ours = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(ours, other.predict_proba(x[0]), atol=5e-3)


@pytest.mark.parametrize("penalty", [1.0, 0.01])
@pytest.mark.parametrize("n", [N, N // 2])  # all examples, and the first half
def test_ridge_regression_is_that_of_scikit_learn(data, penalty, n):
    sklearn = pytest.importorskip("sklearn.linear_model")
    x, _, numbers = data
    probe = fit_regressor(x, numbers[:n], penalty)
    # the penalty is that of numbers with variance 1, and scikit-learn's loss is a sum
    other = sklearn.Ridge(alpha=n * penalty).fit(x[0, :n], numbers[:n])
    np.testing.assert_allclose(probe(x)[:, 0], other.predict(x[0]), rtol=1e-3, atol=1e-2)


def test_ridge_of_a_weighted_sum_is_ridge_if_all_layers_are_equal(data):
    x, _, numbers = data
    one, three = fit_regressor(x, numbers, 0.1), fit_regressor(np.repeat(x, 3, axis=0), numbers, 0.1)
    np.testing.assert_allclose(three.mix, 1 / 3, atol=1e-5)
    np.testing.assert_allclose(three(np.repeat(x, 3, axis=0)), one(x), atol=0.02)


def test_the_weighted_sum_finds_the_layer_that_knows(data):
    x, labels, numbers = data
    rng = np.random.default_rng(1)
    layers = standardised(rng.normal(size=(N, D)), x[0], rng.normal(size=(N, D)))
    for probe in (fit_classifier(layers, labels, 1e-3, classes=C), fit_regressor(layers, numbers, 1e-3)):
        assert probe.mix.argmax() == 1 and probe.mix[1] > 0.9 and probe.mix.sum() == pytest.approx(1)


def test_the_weighted_sum_uses_two_layers_if_each_knows_a_part():
    """Layer 0 knows the first half of the sum in its first dimension, layer 1 the second half in another one."""
    rng = np.random.default_rng(2)
    parts = rng.normal(size=(N, 2))
    layers = np.zeros((2, N, 2))
    layers[0, :, 0], layers[1, :, 1] = parts.T
    x, numbers = standardised(*layers), parts.sum(axis=1)
    probe = fit_regressor(x, numbers, 1e-4)
    np.testing.assert_allclose(probe.mix, 0.5, atol=0.05)
    assert determination(probe(x), numbers) > 0.99
    assert max(determination(fit_regressor(x[i : i + 1], numbers, 1e-4)(x[i : i + 1]), numbers) for i in (0, 1)) < 0.6


def test_constant_dimensions_are_left_out():
    x = np.stack([np.column_stack([np.full(N, 1e4), np.arange(N), np.zeros(N)])]).astype(np.float32)
    Scale.of(x).apply(x)
    assert (x[0, :, [0, 2]] == 0).all() and x[0, :, 1].std() == pytest.approx(1, abs=1e-4)


def test_the_penalty_is_the_one_that_is_best_on_held_out_examples():
    """Few examples of many dimensions, of which some matter: neither the strongest nor the weakest penalty is best."""
    rng = np.random.default_rng(3)
    plain = rng.normal(size=(160, 60))
    numbers = plain[:, :10].sum(axis=1) + rng.normal(size=160)
    x, kept = standardised(plain), 80
    probe = fit_with_best_penalty(x, numbers, kept, fit_regressor, determination)
    reached = {
        one: determination(fit_regressor(x, numbers[:kept], one)(x[:, kept:]), numbers[kept:]) for one in PENALTIES
    }
    assert probe.penalty == max(reached, key=lambda penalty: reached[penalty]) not in (PENALTIES[0], PENALTIES[-1])
    np.testing.assert_array_equal(probe.weight, fit_regressor(x, numbers, probe.penalty).weight)  # of all examples


def test_a_fit_is_the_same_each_time(data):
    x, labels, _ = data
    one, other = (fit_classifier(np.repeat(x, 2, axis=0), labels, 1e-3, classes=C) for _ in range(2))
    assert (one.weight == other.weight).all() and (one.mix == other.mix).all()


def test_determination_is_one_minus_error_over_variance():
    numbers = np.array([1.0, 2.0, 3.0, 6.0])
    assert determination(np.full((4, 1), 3.0), numbers) == 0 and determination(numbers[:, None], numbers) == 1
    assert determination(np.zeros((4, 1)), numbers) == pytest.approx(1 - 50 / 14)
