"""S4 sections 3.3.2, the bound, to 3.3.4, what is trained: as printed but for the slips that
test_s4_errata_bound.py and test_s4_errata_reconstruction.py show, against the library's in omega.

Levels z_1 .. z_4 there are z_0 .. z_3 here; BAR[t - 1] is their alpha-bar_t.
"""

import functools
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.elbo_forms import four_steps
from tests.closed_forms import gauss_hermite, log_normal
from tests.equations.four_levels import (
    ALPHA,
    BAR,
    OMEGAS,
    X,
    level,
    next_mean,
    next_variance,
    x_hat_of,
)
from vdm.diffusion import elbo, noise
from vdm.diffusion.exact import GaussianData
from vdm.diffusion.likelihood import Gaussian
from vdm.diffusion.predictions import convert


def weights_of(t):
    """C_t of the mean (S4 90), K_t of x (93), and of eps, in the place of D_t (100)."""
    a, bar, before = ALPHA[t - 1], BAR[t - 1], BAR[t - 2]
    of_mean = (1 - bar) / (2 * (1 - before) * (1 - a))
    of_x = before * (1 - a) / (2 * (1 - before) * (1 - bar))
    return of_mean, of_x, (1 - a) / (2 * a * (1 - before))


def column(values):
    return jnp.asarray(values)[:, None]


@functools.cache
def four_step_terms():
    """The library's terms of the four-step example along paths, one number each, and weights."""
    terms, weights = four_steps.by_quadrature()
    denoising, consistency = (
        v.sum(axis=1)[:, 0] for v in (terms.levels.denoising, terms.levels.consistency)
    )
    ends = (terms.reconstruction, terms.prior_matching, terms.last_step_prior)
    reconstruction, prior_matching, last_step_prior = (v[:, 0] for v in ends)
    bounds = (
        reconstruction + prior_matching + denoising,
        (reconstruction + last_step_prior + consistency),
    )
    return reconstruction, *bounds, weights


@pytest.mark.equation("S4 89", "vdm.diffusion.consistency:path_terms")
def test_reconstruction_needs_the_first_latent_alone():
    reconstruction, _, _, weights = four_step_terms()
    nodes, node_weights = gauss_hermite(12)
    z_1 = np.sqrt(BAR[0]) * X + np.sqrt(1 - BAR[0]) * nodes
    want = -node_weights @ log_normal(X, x_hat_of(z_1, 1), 0.05)
    np.testing.assert_allclose(weights @ reconstruction, want, rtol=1e-10)


def bound_of(level_term):
    """L(theta) of S4 88, with E KL_t given by level_term(t, z_t)."""
    nodes, weights = gauss_hermite(12)
    z = np.sqrt(BAR)[:, None] * X + np.sqrt(1 - BAR)[:, None] * nodes
    bound = weights @ log_normal(X, x_hat_of(z[0], 1), 0.05)
    bound -= sum(weights @ level_term(t, z[t - 1]) for t in (2, 3, 4))
    return bound - 0.5 * (BAR[3] * X**2 - BAR[3] - np.log(1 - BAR[3]))


@pytest.mark.equation("S4 88", "vdm.diffusion.consistency:path_terms")
@pytest.mark.equation("S4 91", "vdm.diffusion.consistency:path_terms")
@pytest.mark.equation("S4 94", "vdm.diffusion.consistency:path_terms")
@pytest.mark.equation("S4 113", "vdm.diffusion.consistency:path_terms")
def test_bound_of_four_levels_in_three_ways():
    # by KLs, by distances of means and by distances of x; (91) and (94) with their const
    def by_kl(t, z):
        variance = next_variance(t)
        grid = np.linspace(-9, 9, 4001)[:, None]
        log_q, log_p = (log_normal(grid, next_mean(t, z, x), variance) for x in (X, x_hat_of(z, t)))
        return np.sum(np.exp(log_q) * (log_q - log_p), axis=0) * (18 / 4000)

    def by_mean(t, z):
        distance = next_mean(t, z, x_hat_of(z, t)) - next_mean(t, z, X)
        return weights_of(t)[0] * distance**2

    def by_x(t, z):
        return weights_of(t)[1] * (x_hat_of(z, t) - X) ** 2

    _, denoising_bound, _, weights = four_step_terms()
    got = -weights @ denoising_bound
    np.testing.assert_allclose(got, -1.3865617261, atol=1e-9)
    for level_term in (by_kl, by_mean, by_x):
        np.testing.assert_allclose(bound_of(level_term), got, rtol=1e-9)


@pytest.mark.equation("S4 90", "vdm.diffusion.elbo:denoising_matching")
@pytest.mark.equation("S4 92", "vdm.diffusion.predictions:convert")
@pytest.mark.equation("S4 93", "vdm.diffusion.elbo:denoising_matching")
@pytest.mark.parametrize("t", [2, 3, 4])
def test_kl_of_a_step_is_a_weighted_distance_of_means_of_x_or_of_eps(t):
    x, x_hat, z = np.array([[0.3, -0.9]]), np.array([[0.1, -0.2]]), np.array([[0.5, -1.4]])
    eps, eps_hat = (
        convert(jnp.asarray(v), "x", "eps", jnp.asarray(z), level(t)) for v in (x, x_hat)
    )
    mean = convert(jnp.asarray(x_hat), "x", "next_mean", jnp.asarray(z), level(t), level(t - 1))
    np.testing.assert_allclose(mean, next_mean(t, z, x_hat), rtol=1e-10)
    weight = jnp.expm1(level(t) - level(t - 1))[None]
    got = float(elbo.denoising_matching(eps, eps_hat, weight)[0][0])
    of_mean, of_x, of_eps = weights_of(t)
    for value in (of_mean * np.sum((np.asarray(mean) - next_mean(t, z, x)) ** 2),
                  of_x * np.sum((x_hat - x) ** 2),
                  of_eps * np.sum((np.asarray(eps_hat) - np.asarray(eps)) ** 2)):  # fmt: skip
        np.testing.assert_allclose(got, value, rtol=1e-9)


@pytest.mark.equation("S4 95", "vdm.diffusion.noise:diffuse")
@pytest.mark.equation("S4 96", "vdm.diffusion.noise:diffuse")
@pytest.mark.equation("S4 97", "vdm.diffusion.noise:diffuse")
def test_a_level_averages_over_noise_as_over_its_latent():
    grid = np.linspace(-6, 6, 2001)
    nodes, weights = gauss_hermite(12)
    for t in (2, 3, 4):
        z = np.asarray(noise.diffuse(jnp.full((12, 1), X), column(nodes), level(t)))[:, 0]
        over_noise = weights @ (weights_of(t)[1] * (x_hat_of(z, t) - X) ** 2)
        q = np.exp(log_normal(grid, np.sqrt(BAR[t - 1]) * X, 1 - BAR[t - 1]))
        integrand = q * weights_of(t)[1] * (x_hat_of(grid, t) - X) ** 2
        np.testing.assert_allclose(over_noise, np.sum(integrand) * 12 / 2000, rtol=1e-9)


@pytest.mark.equation("S4 87", "vdm.diffusion.consistency:path_terms")
@pytest.mark.equation("S4 70", "vdm.diffusion.consistency:path_terms")
def test_bound_by_the_forward_expansion_of_whole_paths():
    # Over the same 6^4 paths, all latents at once: log p(x, z) - log q(z|x).
    nodes, weights = gauss_hermite(6)
    grid = np.array(list(itertools.product(range(6), repeat=4)))
    z = [np.full(len(grid), X)]
    log_q, log_p = 0.0, 0.0
    for a, draw in zip(ALPHA, nodes[grid].T, strict=True):
        z.append(np.sqrt(a) * z[-1] + np.sqrt(1 - a) * draw)
        log_q = log_q + log_normal(z[-1], np.sqrt(a) * z[-2], 1 - a)
    for t in (2, 3, 4):
        mean = next_mean(t, z[t], x_hat_of(z[t], t))
        log_p = log_p + log_normal(z[t - 1], mean, next_variance(t))
    log_p = log_p + log_normal(X, x_hat_of(z[1], 1), 0.05) + log_normal(z[4], 0.0, 1.0)
    _, _, consistency_bound, path_weights = four_step_terms()
    got = -path_weights @ consistency_bound
    np.testing.assert_allclose(weights[grid].prod(axis=1) @ (log_p - log_q), got, rtol=1e-9)


@pytest.mark.equation("S4 98", "vdm.diffusion.noise:posterior")
@pytest.mark.equation("S4 99", "vdm.diffusion.noise:posterior")
@pytest.mark.equation("S4 100", "vdm.diffusion.elbo:denoising_matching")
@pytest.mark.parametrize("t", [2, 3, 4])
def test_a_level_averaged_over_its_noise_with_a_network_that_predicts_it(t):
    # (98) and (99) with the root of 1 - alpha-bar, and x in (99) from z and eps_hat; (100) with
    # the weight that follows.
    nodes, weights = gauss_hermite(12)
    bar = BAR[t - 1]
    z = np.sqrt(bar) * X + np.sqrt(1 - bar) * nodes
    eps_hat = (z - np.sqrt(bar) * x_hat_of(z, t)) / np.sqrt(1 - bar)
    mean = next_mean(t, z, (z - np.sqrt(1 - bar) * eps_hat) / np.sqrt(bar))
    got, _ = noise.posterior(column(z), column(eps_hat), level(t - 1), level(t))
    np.testing.assert_allclose(got[:, 0], mean, rtol=1e-9)
    by_means = weights @ (weights_of(t)[0] * (mean - next_mean(t, z, X)) ** 2)
    weight = jnp.broadcast_to(jnp.expm1(level(t) - level(t - 1)), (12,))
    by_noise, _ = elbo.denoising_matching(column(nodes), column(eps_hat), weight)
    np.testing.assert_allclose(by_means, weights @ np.asarray(by_noise), rtol=1e-9)
    np.testing.assert_allclose(
        by_means, weights_of(t)[2] * weights @ (eps_hat - nodes) ** 2, rtol=1e-9
    )


@pytest.mark.equation("S4 101", "vdm.diffusion.likelihood:Gaussian.reconstruction")
def test_reconstruction_is_a_distance_averaged_over_noise():
    # of x from z_1 / alpha_1, which is S4's mu_1 here, with the sign and the constant of a density
    nodes, weights = gauss_hermite(12)
    omega, variance = level(1), np.exp(OMEGAS[0])
    mean = X + np.sqrt(variance) * nodes
    want = weights @ (-((mean - X) ** 2) / (2 * variance)) - 0.5 * np.log(2 * np.pi * variance)
    got = Gaussian().reconstruction(jnp.full((12, 1), X), column(nodes), omega)
    np.testing.assert_allclose(-weights @ np.asarray(got), want, rtol=1e-10)


@pytest.mark.equation("S4 102", "vdm.diffusion.exact:GaussianData.negative_log_prob")
@pytest.mark.equation("S4 114", "vdm.diffusion.exact:GaussianData.negative_log_prob")
@pytest.mark.equation("S4 103", "vdm.diffusion.exact:GaussianData.negative_log_prob")
def test_mean_log_likelihood_is_highest_at_the_moments_of_the_data():
    # q has two points at +-0.6, so the integral is a mean over two samples
    samples = jnp.array([[0.6], [-0.6]])
    stds = (0.59, 0.6, 0.61)
    values = [-float(jnp.mean(GaussianData(s).negative_log_prob(samples))) for s in stds]
    want = [-0.5 * np.log(2 * np.pi * s**2) - 0.36 / (2 * s**2) for s in stds]
    np.testing.assert_allclose(values, want, rtol=1e-9)
    assert values[1] == max(values)


@pytest.mark.equation("S4 122", "vdm.diffusion.elbo:prior_matching")
def test_a_thousand_steps_end_near_the_prior():
    # alpha of a step from 0.9999 to 0.98 in equal steps; the KL is alpha-bar x^2 / 2 to first order
    bar = np.prod(np.linspace(0.9999, 0.98, 1000))
    omega = jnp.float64(np.log1p(-bar) - np.log(bar))
    for x in (-1.0, 0.5):
        got = elbo.prior_matching(jnp.full((1, 1), x), omega)[0]
        np.testing.assert_allclose(got, 0.5 * bar * x**2, rtol=1e-4)
        assert got < 2.1e-5
