"""Similarity from moments: published values, plain formulas on all frames, and invariances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.measures.similarity import linear
from support.similarity import demo_data, pair_of, sheet_data

SHEET = {  # computed independently from all frames, with the data of ``sheet_data``
    "cka": 0.5675863,
    "cka_unbiased": 0.5651322,
    "hsic_unbiased": 27.1294247,
    "mean_cca": 0.9652523,
    "svcca": 0.9652523,
    "svcca_wu": 0.7392131,
    "svcca_anatome": 0.85456,
    "yanai": 0.9321563,
    "pwcca": 0.9649849,
    "pwcca_google": 0.97341,
    "maxcorr": 0.6164949,
    "linreg": 0.7721806,
    "procrustes": 0.7133203,
}
TURNED = {"maxcorr": 0.6590459, "linreg": 0.9740146}
DEMO = {"cka": 0.55761, "cka_unbiased": 0.51346}
BETWEEN_0_AND_1 = sorted(set(SHEET) - {"hsic_unbiased", "pwcca_google"})
ORDER_MATTERS = ("maxcorr", "linreg", "pwcca")


def digits(value: float) -> float:
    """Half a unit of the last digit that is written."""
    return 0.5 * 10 ** -len(str(value).split(".")[1]) + 1e-12


@pytest.mark.parametrize(("name", "value"), SHEET.items())
def test_values_that_were_computed_independently(name, value):
    assert getattr(linear, name)(pair_of(*sheet_data())) == pytest.approx(value, abs=digits(value))


@pytest.mark.parametrize(("name", "value"), TURNED.items())
def test_values_in_the_other_order(name, value):
    assert getattr(linear, name)(pair_of(*sheet_data()).turned) == pytest.approx(value, abs=digits(value))


@pytest.mark.parametrize(("name", "value"), DEMO.items())
def test_values_of_the_demonstration_of_representation_similarity(name, value):
    assert getattr(linear, name)(pair_of(*demo_data())) == pytest.approx(value, abs=digits(value))


def test_the_canonical_correlations():
    rho = [0.994070, 0.973720, 0.956088, 0.937131]
    np.testing.assert_allclose(pair_of(*sheet_data()).canonical[1], rho, atol=5e-7)


# ---- against plain formulas on all frames ----------------------------------------------------------------------------


def plain(name: str, x: np.ndarray, y: np.ndarray) -> float:
    """The measure from its definition, with (n, n) matrices or the frames themselves."""
    n = len(x)
    a, b = x - x.mean(0), y - y.mean(0)
    left_a, left_b = (np.linalg.svd(one, full_matrices=False)[0] for one in (a, b))
    left, rho, _ = np.linalg.svd(left_a.T @ left_b, full_matrices=False)
    if name == "cka":
        kernels = a @ a.T, b @ b.T
        return np.vdot(*kernels) / np.linalg.norm(kernels[0]) / np.linalg.norm(kernels[1])
    if name == "cka_unbiased":
        kernels = [one @ one.T * (1 - np.eye(n)) for one in (a, b)]

        def hsic(k, m):
            ones = k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * k.sum(0) @ m.sum(0)
            return np.vdot(k, m) + ones

        return hsic(*kernels) / np.sqrt(hsic(kernels[0], kernels[0]) * hsic(kernels[1], kernels[1]))
    if name == "mean_cca":
        return rho.mean()
    if name == "yanai":
        return np.square(rho).mean()
    if name == "pwcca":
        weights = np.abs((left_a @ left).T @ a).sum(1)
        return weights @ rho / weights.sum()
    if name == "procrustes":
        return np.linalg.norm(a.T @ b, "nuc") / np.linalg.norm(a) / np.linalg.norm(b)
    if name == "maxcorr":
        correlations = np.corrcoef(x.T, y.T)[: x.shape[1], x.shape[1] :]
        return np.abs(correlations).max(1).mean()
    assert name == "linreg"
    return (np.linalg.norm(left_b.T @ a, axis=0) / np.linalg.norm(a, axis=0)).mean()


PLAIN = ("cka", "cka_unbiased", "mean_cca", "yanai", "pwcca", "procrustes", "maxcorr", "linreg")


@pytest.mark.parametrize("name", PLAIN)
def test_moments_give_what_all_frames_give(name):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 12)) * np.logspace(0, -2, 12) + 100  # means that are large for the deviations
    y = np.tanh(x[:, :7] - 100) + 0.3 * rng.normal(size=(400, 7))
    for pair, frames in ((pair_of(x, y, 64), (x, y)), (pair_of(x, y, 64).turned, (y, x))):
        assert getattr(linear, name)(pair) == pytest.approx(plain(name, *frames), abs=1e-9)


@pytest.mark.parametrize("name", PLAIN)
def test_constant_dimensions_change_nothing(name):
    x, y = sheet_data()
    constant = np.full((len(x), 2), 7.1)
    with_constants = pair_of(np.hstack([constant, x, constant]), np.hstack([y, constant]))
    assert with_constants.x.dead == 4 and with_constants.y.dead == 2
    assert getattr(linear, name)(with_constants) == pytest.approx(getattr(linear, name)(pair_of(x, y)), abs=1e-10)


def test_copies_of_dimensions_do_not_change_cca():
    x, y = sheet_data()
    copied = pair_of(np.hstack([x, x[:, :3] + x[:, 3:]]), y)
    assert linear.mean_cca(copied) == pytest.approx(SHEET["mean_cca"], abs=1e-6)
    assert linear.linreg(copied.turned) == pytest.approx(TURNED["linreg"], abs=1e-6)
    with pytest.raises(UserError, match="linearly dependent; use pwcca"):
        linear.pwcca_google(pair_of(np.hstack([x, x[:, :1]]), np.hstack([y, y])))


# ---- invariances -----------------------------------------------------------------------------------------------------

SEEDS = st.integers(0, 2**32 - 1)


def related(seed: int) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(120, 5)) * rng.uniform(0.5, 2, 5) + rng.normal(size=5)
    return rng, x, x[:, :4] @ rng.normal(size=(4, 4)) + rng.normal(size=(120, 4))


def all_measures(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    return {name: getattr(linear, name)(pair_of(x, y)) for name in BETWEEN_0_AND_1}


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_every_measure_is_1_for_equal_representations_and_at_most_1(seed):
    _, x, y = related(seed)
    for name, value in all_measures(x, x).items():
        assert value == pytest.approx(1, abs=1e-7), name
    for name, value in all_measures(x, y).items():
        assert -0.05 < value <= 1 + 1e-9, name


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_the_order_does_not_matter_for_symmetric_measures(seed):
    _, x, y = related(seed)
    forth, back = all_measures(x, y), all_measures(y, x)
    for name in set(BETWEEN_0_AND_1) - set(ORDER_MATTERS):
        assert forth[name] == pytest.approx(back[name], abs=1e-9), name
    for name in ORDER_MATTERS:
        assert forth[name] != pytest.approx(back[name], abs=1e-6), name


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(1e-3, 1e3), st.floats(-50, 50))
def test_scale_and_offset_change_nothing(seed, scale, offset):
    _, x, y = related(seed)
    before, after = all_measures(x, y), all_measures(scale * x + offset, y)
    for name in set(BETWEEN_0_AND_1) - {"svcca_anatome"}:  # which does not subtract the mean
        assert after[name] == pytest.approx(before[name], abs=1e-6), name


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_a_rotation_changes_only_measures_of_neurons_and_of_standardised_dimensions(seed):
    rng, x, y = related(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    before, after = all_measures(x, y), all_measures(x @ rotation, y)
    for name in ("cka", "cka_unbiased", "procrustes", "mean_cca", "yanai", "svcca", "svcca_anatome"):
        assert after[name] == pytest.approx(before[name], abs=1e-8), name
    assert after["maxcorr"] != pytest.approx(before["maxcorr"], abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_an_invertible_map_changes_cka_but_not_cca(seed):
    rng, x, y = related(seed)
    matrix = rng.normal(size=(5, 5)) + 3 * np.diag([1, 1, 1, 1, 10])
    before, after = all_measures(x, y), all_measures(x @ matrix, y)
    for name in ("mean_cca", "yanai"):
        assert after[name] == pytest.approx(before[name], abs=1e-6), name
    assert linear.linreg(pair_of(x @ matrix, y).turned) == pytest.approx(linear.linreg(pair_of(x, y).turned), abs=1e-6)
    for name in ("cka", "cka_unbiased", "procrustes"):
        assert after[name] != pytest.approx(before[name], abs=1e-4), name


def test_only_the_unbiased_cka_of_unrelated_representations_is_0():
    biased, unbiased = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        pair = pair_of(rng.normal(size=(100, 50)), rng.normal(size=(100, 50)))
        biased.append(linear.cka(pair))
        unbiased.append(linear.cka_unbiased(pair))
    assert min(biased) > 0.25 and abs(np.mean(unbiased)) < 0.01


def test_frames_in_another_order_are_unrelated():
    x, _ = sheet_data()
    shuffled = np.random.default_rng(3).permutation(x)
    assert abs(linear.cka_unbiased(pair_of(x, shuffled))) < 0.02


def test_the_unbiased_hsic_requires_four_frames():
    with pytest.raises(ValueError, match="4 frames"):
        linear.hsic_unbiased(pair_of(*(one[:3] for one in sheet_data())))
