"""Weights of pseudo-labels: the mixture of log losses, and losses without a mixture."""

import importlib.util

import numpy as np
import pytest

from dinosr_plugin.errors import UserError
from dinosr_plugin.tasks import clean_weights as module
from dinosr_plugin.tasks.clean_weights import clean_weights, require_scikit_learn

mixture = pytest.importorskip("sklearn.mixture")


@pytest.fixture
def losses() -> np.ndarray:
    """800 small ones, then 200 large ones."""
    rng = np.random.default_rng(0)
    return np.exp(np.concatenate([rng.normal(-6, 0.5, 800), rng.normal(1, 0.5, 200)]))


def test_small_and_large_losses_are_separated(losses):
    weights = clean_weights(losses)
    assert weights.dtype == np.float32 and weights.shape == (1000,)
    assert (weights[:800] > 0.99).mean() >= 0.95 and (weights[800:] < 0.01).mean() >= 0.95


def test_weights_equal_the_formula(losses):
    """Posteriors by Bayes' rule, with the moments of the two groups, which do not overlap."""
    x = np.log(losses + 1e-12)
    low, high = np.percentile(x, [0.1, 99.9])
    groups = [x[:800], x[800:]]
    groups = [group[(group >= low) & (group <= high)] for group in groups]
    x = x.clip(low, high)
    densities = [len(group) * np.exp(-((x - group.mean()) ** 2) / (2 * group.var())) / group.std() for group in groups]
    np.testing.assert_allclose(clean_weights(losses), densities[0] / sum(densities), atol=1e-4)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_order_of_components_does_not_matter(losses, monkeypatch, reverse):
    expected, fit = clean_weights(losses), mixture.GaussianMixture.fit

    def fit_in_order(self, x):
        fit(self, x)
        order = self.means_[:, 0].argsort()[:: -1 if reverse else 1]
        for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
            setattr(self, name, getattr(self, name)[order])
        return self

    monkeypatch.setattr(mixture.GaussianMixture, "fit", fit_in_order)
    np.testing.assert_allclose(clean_weights(losses), expected, rtol=1e-6)


def test_the_same_each_time_and_for_any_order_of_utterances(losses):
    assert np.array_equal(clean_weights(losses, 3), clean_weights(losses, 3))
    order = np.random.default_rng(1).permutation(len(losses))
    np.testing.assert_allclose(clean_weights(losses[order]), clean_weights(losses)[order], atol=1e-3)


def test_the_fit_leaves_out_what_is_outside_of_the_bounds(losses, monkeypatch):
    """The logarithm of a loss of 0 is below -20, and the largest is above the 99.9 percentile."""
    fitted, fit = [], mixture.GaussianMixture.fit
    monkeypatch.setattr(mixture.GaussianMixture, "fit", lambda self, x: (fitted.append(x), fit(self, x))[1])
    losses = np.concatenate([losses, np.zeros(20), [1e9]])
    weights = clean_weights(losses)
    x = np.log(losses[:1000])
    assert fitted[0].shape == (999, 1)  # two of the 1021 are above the percentile, one of them among the first 1000
    assert fitted[0].min() == pytest.approx(x.min()) and fitted[0].max() == pytest.approx(np.sort(x)[-2])
    assert weights[-1] < 0.01 and np.isfinite(weights).all()


@pytest.mark.parametrize("losses", [[], [0.5], [0.5, 2.0], [0.7] * 50, [0.0] * 50, [np.nan] * 9, [np.inf, -1.0, 0.5]])
def test_without_a_mixture_weights_are_one(losses, caplog):
    assert clean_weights(np.array(losses)).tolist() == [1.0] * len(losses)
    assert "weights are 1" in caplog.text


def test_losses_that_are_not_finite_do_not_affect_the_others(losses, caplog):
    bad = np.array([np.nan, np.inf, -np.inf, -1.0])
    weights = clean_weights(np.concatenate([losses, bad]))
    assert np.array_equal(weights[:1000], clean_weights(losses)) and (weights[1000:] == 1).all()
    assert caplog.messages == ["4 of 1004 losses of pseudo-labels are not finite; their weights are 1"]


def test_scikit_learn_is_missing(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None if name == "sklearn" else find(name))
    with pytest.raises(UserError, match="^weights of pseudo-labels require .* scikit-learn: pip install scikit-learn$"):
        require_scikit_learn()
