"""Slips of S4 in the levels of its bound and in its objective: what is printed, the number that
shows it, and the corrected statement; on the four-step example of experiments/elbo_forms.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.closed_forms import gauss_hermite, log_normal
from tests.equations.four_levels import ALPHA, BAR, X, level, next_mean, x_hat_of, z_nodes
from vdm.diffusion import elbo, noise
from vdm.diffusion.exact import GaussianData

STEP_2 = ALPHA[1], BAR[1], BAR[0]  # alpha_t, alpha-bar_t, alpha-bar_{t-1} at t = 2


def weight_of_mean(t):
    """C_t of S4 90."""
    return (1 - BAR[t - 1]) / (2 * (1 - BAR[t - 2]) * (1 - ALPHA[t - 1]))


def matching_of_library(t, eps):
    """KL_t by `elbo.denoising_matching` at each draw of the noise."""
    z = np.sqrt(BAR[t - 1]) * X + np.sqrt(1 - BAR[t - 1]) * eps
    eps_hat = (z - np.sqrt(BAR[t - 1]) * x_hat_of(z, t)) / np.sqrt(1 - BAR[t - 1])
    weight = jnp.broadcast_to(jnp.expm1(level(t) - level(t - 1)), eps.shape)
    columns = (jnp.asarray(eps)[:, None], jnp.asarray(eps_hat)[:, None])
    return np.asarray(elbo.denoising_matching(*columns, weight)[0])


@pytest.mark.erratum(
    "S4 98", "1 - ᾱ_t stands for its root; L_2 is then not E KL_2 = 0.5513", 0.7651
)
def test_a_level_in_terms_of_noise(erratum_number):
    _, bar, _ = STEP_2
    nodes, weights = gauss_hermite(12)
    z, _ = z_nodes(2)
    mean = next_mean(2, z, x_hat_of(z, 2))
    wrong = next_mean(2, np.sqrt(bar) * X + (1 - bar) * nodes, X)
    printed = weight_of_mean(2) * (weights @ (mean - wrong) ** 2)
    np.testing.assert_allclose(printed, erratum_number, rtol=1e-3)
    right = weight_of_mean(2) * (weights @ (mean - next_mean(2, z, X)) ** 2)
    np.testing.assert_allclose(right, weights @ matching_of_library(2, nodes), rtol=1e-9)
    assert abs(printed / right - 1) > 0.1


@pytest.mark.erratum(
    "S4 99", "μ_θ keeps the unknown x, with slope √ᾱ_{t-1} at a given ε̂: it is no model", 0.9487
)
def test_mean_of_the_model_does_not_know_x(erratum_number):
    _, bar, _ = STEP_2
    z, eps_hat = 0.4, -0.3

    def printed(x, root=True):
        noise_scale = np.sqrt(1 - bar) if root else 1 - bar
        return next_mean(2, np.sqrt(bar) * x + noise_scale * eps_hat, x)

    for root in (True, False):
        slope = printed(1.0, root) - printed(0.0, root)
        np.testing.assert_allclose(slope, erratum_number, rtol=1e-4)
    # x by z and eps_hat, as in S1 1.115: the same mean where eps_hat is the true noise
    got, _ = noise.posterior(jnp.full((1, 1), z), jnp.full((1, 1), eps_hat), level(1), level(2))
    x = (z - np.sqrt(1 - bar) * eps_hat) / np.sqrt(bar)
    np.testing.assert_allclose(got[0, 0], next_mean(2, z, x), rtol=1e-10)
    np.testing.assert_allclose(got[0, 0], printed(x), rtol=1e-10)


@pytest.mark.erratum(
    "S4 100", "D_t at t = 2 (1.25 is right); with the root mended alone it is a quarter of its "
    "reciprocal, 0.2", 0.056,
)  # fmt: skip
def test_weight_of_the_noise(erratum_number):
    a, bar, before = STEP_2
    printed = (1 - before) * (1 - bar) * a / (2 * (1 - a))
    np.testing.assert_allclose(printed, erratum_number, rtol=1e-9)
    right = (1 - a) / (2 * a * (1 - before))  # S1 1.119
    # What follows from (98) and (99), as printed and with the root: C_t (d mean / d eps_hat)^2.
    for scale, want in ((1 - bar, printed), (np.sqrt(1 - bar), 1 / (4 * right))):
        slope = next_mean(2, scale, 0.0)
        np.testing.assert_allclose(weight_of_mean(2) * slope**2, want, rtol=1e-10)
    one = jnp.ones((1, 1))
    slope = noise.posterior(one, one, level(1), level(2))[0]
    slope -= noise.posterior(one, 0 * one, level(1), level(2))[0]
    np.testing.assert_allclose(weight_of_mean(2) * slope[0, 0] ** 2, right, rtol=1e-10)
    weight = jnp.expm1(level(2) - level(1))[None]
    got, _ = elbo.denoising_matching(one, 0 * one, weight)
    np.testing.assert_allclose(got[0], right, rtol=1e-10)


@pytest.mark.erratum(
    "S4 100", "a sum over N + 1 draws, j = 0 to N, not their mean: L_2 by four draws; E KL_2 is "
    "0.5513", 2.2050,
)  # fmt: skip
def test_a_level_by_draws_of_the_noise_is_their_mean(erratum_number):
    eps = np.array([1.0, -1.0, 1.0, -1.0])  # exact for a square; D_t as it should be
    terms = matching_of_library(2, eps)
    np.testing.assert_allclose(terms.sum(), erratum_number, rtol=1e-4)
    nodes, weights = gauss_hermite(12)
    expectation = weights @ matching_of_library(2, nodes)
    np.testing.assert_allclose(expectation, 0.5513, rtol=1e-4)
    np.testing.assert_allclose(terms.mean(), expectation, rtol=1e-10)


@pytest.mark.erratum(
    "S4 103", "N + 1 terms, i = 0 to N, and no 1/N: times N + 1 = 5; its maximum is the same", 5.0
)
def test_objective_over_samples_is_a_mean(erratum_number):
    samples = jnp.array([[0.6], [-0.6], [0.6], [-0.6], [0.6]])  # x^2 is 0.36 always
    stds = np.array([0.5, 0.6, 0.7])
    terms = np.array([-GaussianData(s).negative_log_prob(samples) for s in stds])
    expectation = -0.5 * np.log(2 * np.pi * stds**2) - 0.36 / (2 * stds**2)
    np.testing.assert_allclose(terms.sum(axis=1) / expectation, erratum_number, rtol=1e-9)
    np.testing.assert_allclose(terms.mean(axis=1), expectation, rtol=1e-9)
    assert terms.sum(axis=1).argmax() == terms.mean(axis=1).argmax() == 1


@pytest.mark.erratum(
    "S4 113, 116-117", "KL_t is integrated again, against q(z_{t-1}|z_t, x) dz_t; this is no mean: "
    "a KL of 1 becomes, at t = 2,", 3.1305,
)  # fmt: skip
def test_a_level_integrates_its_kl_once(erratum_number):
    grid = np.linspace(-12, 12, 2001)
    step = grid[1] - grid[0]
    z = jnp.asarray(grid)[:, None]
    eps = (z - np.sqrt(BAR[1]) * X) / np.sqrt(1 - BAR[1])
    mean, variance = noise.posterior(z, eps, level(1), level(2))
    for z_1 in (0.2, 0.9):
        q = np.exp(log_normal(z_1, np.asarray(mean)[:, 0], float(variance)))
        np.testing.assert_allclose(np.sum(q) * step, erratum_number, rtol=1e-4)
    # Over z_{t-1}, its own variable, the integral is 1 and changes nothing.
    q = np.exp(log_normal(grid, float(mean[1000, 0]), float(variance)))
    np.testing.assert_allclose(np.sum(q) * step, 1, rtol=1e-9)
    # L_t = E KL_t over q(z_t|x) alone, S4 88
    z, weights = z_nodes(2)
    means = (next_mean(2, z, x) for x in (X, x_hat_of(z, 2)))
    log_q, log_p = (log_normal(grid[:, None], m, float(variance)) for m in means)
    kl = np.sum(np.exp(log_q) * (log_q - log_p), axis=0) * step
    want = weights @ matching_of_library(2, gauss_hermite(12)[0])
    np.testing.assert_allclose(weights @ kl, want, rtol=1e-9)
