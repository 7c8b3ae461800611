"""How likely each pseudo-label is to be right, from the teacher's losses (SSRL, Cai et al. 2025).

Noisy-label modelling: losses of right labels are small, those of wrong labels large. A mixture of two Gaussians is
fitted to the logarithms of the losses; the weight of an utterance is the posterior probability of the component with
the smaller mean.
"""

import importlib.util
import logging

import numpy as np

from ..errors import UserError

logger = logging.getLogger(__name__)

OUTLIERS = 0.1  # per cent of the losses at each end that are left out of the fit
MIN_LOG_LOSS = -20.0  # losses below e^-20 are left out as well
EPSILON = 1e-12  # added to a loss, so that it has a logarithm


def require_scikit_learn() -> None:
    """Raise UserError if scikit-learn is not installed; called when training starts, because the first fit is later."""
    if importlib.util.find_spec("sklearn") is None:
        raise UserError("weights of pseudo-labels require the package scikit-learn: pip install scikit-learn")


def clean_weights(losses: np.ndarray, seed: int = 0) -> np.ndarray:
    """Losses (n,) -> probabilities (n,) float32 that the labels are right.

    Logarithms outside of the bounds, the 0.1 percentile (but at least -20) and the 99.9 percentile, are left out of the
    fit and then moved to the bound. Where nothing can be estimated, the weight is 1 and a line is logged: for losses
    that are NaN, infinite or negative, and for all losses if fewer than two different ones are left.

    Args:
        losses: cross entropies in nats, any float type.
        seed: of the initial k-means. The fit runs in one thread, so that it is the same each time.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        x = np.log(losses.astype(np.float64) + EPSILON)
    finite = np.isfinite(x)
    if not finite.all():
        logger.warning(f"{(~finite).sum()} of {len(x)} losses of pseudo-labels are not finite; their weights are 1")
    weights = np.ones(len(x), dtype=np.float32)
    weights[finite] = posteriors(x[finite], seed)
    return weights


def posteriors(x: np.ndarray, seed: int) -> np.ndarray:
    """Log losses (n,), all finite -> posteriors (n,) of the component with the smaller mean; 1 if there is no fit."""
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    low, high = np.percentile(x, [OUTLIERS, 100 - OUTLIERS]) if len(x) else (0.0, 0.0)
    low = max(low, MIN_LOG_LOSS)
    inside = x[(x >= low) & (x <= high)]
    if not len(inside) or inside.min() == inside.max():
        logger.warning(f"{len(x)} losses of pseudo-labels do not differ enough for a mixture; all weights are 1")
        return np.ones(len(x))
    mixture = GaussianMixture(2, max_iter=500, tol=1e-5, random_state=seed)
    with threadpool_limits(1):
        mixture.fit(inside[:, None])  # (n, 1)
        return mixture.predict_proba(x.clip(low, high)[:, None])[:, mixture.means_[:, 0].argmin()]
