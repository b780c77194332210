"""Gaussian fits of reverse kernels, and the terms of the bound that they enter."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.dpm_lab import (
    gaussian_fits,
    kernels,
    objective,
)
from experiments.dpm_lab.densities import (
    mixture,
    on_grid,
)
from experiments.dpm_lab.divergences import kl
from tests.experiments.dpm_grids import COARSE, GRID, gaussian_conditional, normal, omega_of
from vdm.diffusion.noise import posterior

LAB = "experiments.dpm_lab"


def test_where_a_log_density_is_concave():
    z, bumps = GRID.points, on_grid("two_bumps", GRID)
    found = gaussian_fits._concave(GRID, bumps, z, 0.5)
    # Between the bumps, [-1.5, -0.1] and [0.4, 1.4], a window of length one sees both of them.
    assert found[np.isclose(z, -0.8)]
    assert found[np.isclose(z, 0.9)]
    assert not found[np.isclose(z, 0.15)]
    assert np.all(gaussian_fits._concave(GRID, on_grid("triangular", GRID), z, 3.0))
    assert np.all(gaussian_fits._concave(GRID, normal(), z, 3.0))
    assert not np.any(gaussian_fits._concave(GRID, on_grid("mixture", GRID), z, 8.0))
    # Two points with nothing between them have no second difference.
    points = np.where(np.isclose(np.abs(z), 1.0), 0.0, -np.inf)
    found = gaussian_fits._concave(GRID, points, z, 1.5)
    assert not found[np.isclose(z, 0.0)]
    assert found[np.isclose(z, 1.0)]


def test_fits_of_a_gaussian_lose_nothing():
    log_q = normal(0.0, 0.5)
    p = gaussian_fits.through_fits(GRID, log_q, [0.9, 0.8, 0.7])
    np.testing.assert_allclose(p, np.exp(log_q), atol=1e-10)
    found = gaussian_fits.shape(GRID, log_q, 0.9)
    _, v = gaussian_conditional(0.25, 0.9)
    for key in ("variance_ratio", "variance_ratio_worst", "variance_ratio_smooth"):
        np.testing.assert_allclose(found[key], v * 0.9 / 0.1, rtol=1e-9)
    for key in ("nongaussian", "nongaussian_worst", "bend", "loss_kl"):
        assert abs(found[key]) < 1e-12, key


def test_shape_of_a_conditional_and_what_its_fit_costs():
    log_q, alpha = on_grid("triangular", GRID), 0.9
    found = gaussian_fits.shape(GRID, log_q, alpha)
    kernel = kernels.reverse(GRID, log_q, alpha)
    fit = np.exp(gaussian_fits.log_fitted(GRID, kernel))
    q_t = np.exp(kernels.diffuse(GRID, log_q, alpha))
    each = kl(GRID, kernel.T, fit.T)
    seen = q_t > 1e-6
    np.testing.assert_allclose(found["nongaussian"], GRID.integrate((q_t * each)[seen]), rtol=1e-3)
    assert found["nongaussian_worst"] < np.max(each[seen])
    np.testing.assert_allclose(found["loss_kl"], kl(GRID, np.exp(log_q), fit @ q_t * 0.05))
    assert found["loss_kl"] < found["nongaussian"]  # data processing
    small = gaussian_fits.through_fits(GRID, log_q, [0.9**0.25] * 4)
    assert kl(GRID, np.exp(log_q), small) < found["loss_kl"]


@pytest.mark.erratum(
    "S4 35",
    "standard deviation of the Gaussian of least KL(q||p) over that of least KL(p||q), q bimodal",
    3.80,
)
def test_the_two_orders_of_kl_seek_the_mean_and_a_mode(erratum_number):
    q = np.exp(GRID.normalise(mixture([0.6, 0.4], [-1.5, 1.5], [0.4, 0.4])(GRID.points)))
    mean, std = gaussian_fits.best_gaussian(GRID, q, "q||p")
    np.testing.assert_allclose(mean, -0.3, rtol=1e-9)
    np.testing.assert_allclose(std, math.sqrt(0.16 + 2.25 - 0.09), rtol=1e-9)
    mode, narrow = gaussian_fits.best_gaussian(GRID, q, "p||q")
    # If it covered exactly one mode, it would be N(-1.5, 0.4^2) with KL = -log 0.6.
    np.testing.assert_allclose([mode, narrow], [-1.5, 0.4], atol=2e-3)
    p = np.exp(normal(mode, narrow))
    np.testing.assert_allclose(kl(GRID, p, q), -math.log(0.6), atol=1e-3)
    np.testing.assert_allclose(std / narrow, erratum_number, rtol=2e-3)
    one = np.exp(normal(0.4, 0.7))
    for order in ("q||p", "p||q"):  # both orders find q where it is itself Gaussian
        np.testing.assert_allclose(gaussian_fits.best_gaussian(GRID, one, order), [0.4, 0.7],
                                   atol=1e-7)  # fmt: skip
    with pytest.raises(ValueError, match="known are"):
        gaussian_fits.best_gaussian(GRID, q, "js")


@pytest.mark.equation("S4 110", f"{LAB}.objective:posterior")
def test_posterior_is_the_library_s():
    a, b, v = objective.posterior([0.9, 0.8])
    x, eps = 0.6, -1.1
    z_2 = math.sqrt(0.72) * x + math.sqrt(0.28) * eps
    with jax.enable_x64(True):
        omega_s, omega_t = omega_of(jnp.float64(0.9)), omega_of(jnp.float64(0.72))
        arrays = (jnp.full((1, 1), value, jnp.float64) for value in (z_2, eps))
        mean, variance = posterior(*arrays, omega_s, omega_t)
    np.testing.assert_allclose(np.ravel(mean)[0], a * z_2 + b * x, rtol=1e-9)
    np.testing.assert_allclose(np.ravel(variance)[0], v, rtol=1e-9)


@pytest.mark.equation("S4 116", f"{LAB}.objective:middle_term")
@pytest.mark.equation("S4 117", f"{LAB}.objective:middle_term")
@pytest.mark.equation("S4 119", f"{LAB}.objective:reversed_middle_term")
def test_middle_terms_by_brute_force_over_x():
    alphas, log_q = [0.8, 0.7], on_grid("mixture", COARSE)
    _, q_1, q_2 = kernels.chain(COARSE, log_q, alphas)
    log_p = gaussian_fits.log_fitted(COARSE, kernels.reverse(COARSE, q_1, alphas[1]))
    to_x = kernels.reverse_chain(COARSE, log_q, alphas)
    z, (a, b, v) = COARSE.points, objective.posterior(alphas)
    middle, reverse = 0.0, np.zeros(z.size)
    for index in range(z.size):  # over z_2
        mean = a * z[index] + b * z  # by x
        log_post = gaussian_fits.log_gaussian_columns(COARSE, mean, np.full(z.size, v))
        difference = log_post - log_p[:, [index]]
        weights = to_x[:, index] * COARSE.spacing
        forward = COARSE.integrate(np.exp(log_post) * difference, axis=0)
        backward = COARSE.integrate(np.exp(log_p[:, [index]]) * -difference, axis=0)
        middle += COARSE.spacing * np.exp(q_2[index]) * (forward @ weights)
        reverse[index] = backward @ weights
    np.testing.assert_allclose(
        objective.middle_term(COARSE, log_q, alphas, log_p), middle, rtol=1e-6
    )
    got = objective.reversed_middle_term(COARSE, log_q, alphas, log_p)
    seen = np.abs(z) < 3
    np.testing.assert_allclose(got[seen], reverse[seen], rtol=1e-6)


@pytest.mark.equation("S4 120", f"{LAB}.objective:reversed_middle_term")
@pytest.mark.equation("S4 36", f"{LAB}.objective:reversed_middle_term")
def test_reversed_middle_term_bounds_the_divergence_from_the_kernel():
    alphas, log_q = [0.9, 0.9], on_grid("mixture", GRID)
    q_1 = kernels.diffuse(GRID, log_q, alphas[0])
    kernel = kernels.reverse(GRID, q_1, alphas[1])
    log_p = gaussian_fits.log_fitted(GRID, kernel)
    upper = objective.reversed_middle_term(GRID, log_q, alphas, log_p)
    seen = np.abs(GRID.points) < 3
    assert np.all(upper[seen] > kl(GRID, np.exp(log_p).T, kernel.T)[seen])


@pytest.mark.equation("S4 117", f"{LAB}.objective:middle_term")
def test_middle_term_is_a_mutual_information_and_the_distance_from_the_kernel():
    alphas, log_q = [0.9, 0.9], normal(0.0, 0.5)
    _, q_1, q_2 = kernels.chain(GRID, log_q, alphas)
    best = kernels.log_reverse(GRID, q_1, alphas[1])
    least = objective.middle_term(GRID, log_q, alphas, best)
    # I(x; z_1 | z_2) of Gaussians: Var(z_1 | z_2) over Var(z_1 | z_2, x).
    _, spread = gaussian_conditional(0.9 * 0.25 + 0.1, 0.9)
    want = 0.5 * math.log(spread / objective.posterior(alphas)[2])
    np.testing.assert_allclose(least, want, rtol=1e-8)
    log_p = gaussian_fits.log_gaussian_columns(GRID, 0.8 * GRID.points, np.full(281, 0.2))
    each = kl(GRID, np.exp(best).T, np.exp(log_p).T)
    got = objective.middle_term(GRID, log_q, alphas, log_p) - least
    np.testing.assert_allclose(got, GRID.integrate(np.exp(q_2) * each), rtol=1e-6)


@pytest.mark.erratum(
    "S4 118",
    "variance at which (117) is least over that of (119): x ~ N(0, 0.25), alpha = 0.9, 0.9",
    1.573,
)
@pytest.mark.erratum(
    "S4 119",
    "variance at which (117) is least over that of (119): x ~ N(0, 0.25), alpha = 0.9, 0.9",
    1.573,
)
def test_the_two_middle_terms_have_different_minima(erratum_number):
    alphas, log_q = [0.9, 0.9], normal(0.0, 0.5)
    k, spread = gaussian_conditional(0.9 * 0.25 + 0.1, 0.9)
    narrow = objective.posterior(alphas)[2]

    def terms(variance):
        columns = k * GRID.points, np.full(GRID.points.size, variance)
        log_p = gaussian_fits.log_gaussian_columns(GRID, *columns)
        middle = objective.middle_term(GRID, log_q, alphas, log_p)
        return middle, objective.reversed_middle_term(GRID, log_q, alphas, log_p)[140]

    for which, at in ((0, spread), (1, narrow)):
        least = terms(at)[which]
        assert least < terms(0.99 * at)[which]
        assert least < terms(1.01 * at)[which]
    np.testing.assert_allclose(spread / narrow, erratum_number, rtol=1e-3)


@pytest.mark.equation("S4 121", f"{LAB}.objective:first_term")
def test_first_term_is_a_divergence_and_a_constant():
    log_q, alpha = on_grid("mixture", GRID), 0.9
    best = kernels.log_reverse(GRID, log_q, alpha)
    log_p = gaussian_fits.log_fitted(GRID, np.exp(best))
    constant = objective.first_term(GRID, log_q, alpha, best)
    got = objective.first_term(GRID, log_q, alpha, log_p) - constant
    divergence = gaussian_fits.shape(GRID, log_q, alpha)["nongaussian"]  # from the entropies
    np.testing.assert_allclose(got, -divergence, rtol=1e-8)
    assert got < -0.1
