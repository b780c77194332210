"""Slips of S4 in its probability and its noise: what is printed, the number that shows it, and
the corrected statement. Those of the bound are in test_s4_errata_bound.py and
test_s4_errata_reconstruction.py.

The four levels of the other files: alpha of a step 0.9, 0.8, 0.6, 0.3, their products BAR.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.closed_forms import log_normal
from tests.equations.four_levels import ALPHA, BAR, X, level
from vdm.diffusion import noise
from vdm.diffusion.exact import GaussianData
from vdm.diffusion.schedule_algebra import omega_dot

STEP_2 = ALPHA[1], BAR[1], BAR[0]  # alpha_t, alpha-bar_t, alpha-bar_{t-1} at t = 2


@pytest.mark.erratum(
    "S4 §1.7", "the covariance of aX + b is a²Σ, not a²ΣᵀΣ: with a² = 0.8, Σ = 0.1", 0.008
)
def test_covariance_of_a_scaled_gaussian(erratum_number):
    a, bar, before = STEP_2
    np.testing.assert_allclose(a * (1 - before) ** 2, erratum_number, rtol=1e-9)
    _, variance = noise.transition(level(1), level(2))
    scaled = noise.sigma(level(2)) ** 2 - variance  # of sqrt(alpha_2) z_1 given x
    np.testing.assert_allclose(scaled, a * (1 - before), rtol=1e-9)
    assert float(scaled) == pytest.approx(0.08) == 1 - bar - (1 - a)


# f = N(0.3, 0.5^2), g = N(-0.2, 1), and f g on a grid
VARIANCE_F, VARIANCE_G, GRID = 0.25, 1.0, np.linspace(-9, 9, 4001)
PRODUCT = np.exp(log_normal(GRID, 0.3, VARIANCE_F) + log_normal(GRID, -0.2, VARIANCE_G))


@pytest.mark.equation("S4 20", "vdm.diffusion.noise:posterior")
@pytest.mark.erratum(
    "S4 20", "the factor S has its root over 2π alone: for variances 0.25 and 1 it is S times this",
    0.8944,
)  # fmt: skip
def test_product_of_gaussians(erratum_number):
    total = VARIANCE_F + VARIANCE_G
    integral = np.sum(PRODUCT) * (GRID[1] - GRID[0])
    exponential = np.exp(-(0.5**2) / (2 * total))
    printed = exponential / (np.sqrt(2 * np.pi) * total)
    np.testing.assert_allclose(printed / integral, erratum_number, rtol=1e-4)
    scale = exponential / np.sqrt(2 * np.pi * total)
    mean = (0.3 * VARIANCE_G - 0.2 * VARIANCE_F) / total
    variance = VARIANCE_F * VARIANCE_G / total
    np.testing.assert_allclose(PRODUCT, scale * np.exp(log_normal(GRID, mean, variance)))
    # so in the library: q(z_s|x) times q(z_t|z_s), as functions of z_s
    a, bar, before = STEP_2
    total = 1 - before + (1 - a) / a
    z_t = jnp.full((1, 1), 0.4)
    eps = (z_t - np.sqrt(bar) * X) / np.sqrt(1 - bar)
    mean, variance = noise.posterior(z_t, eps, level(1), level(2))
    want = (np.sqrt(before) * X * (1 - a) / a + 0.4 / np.sqrt(a) * (1 - before)) / total
    np.testing.assert_allclose(mean[0, 0], want, rtol=1e-10)
    np.testing.assert_allclose(variance, (1 - before) * (1 - a) / a / total, rtol=1e-10)


@pytest.mark.erratum(
    "S4 20", "σ_fg as printed is the variance of the product: for variances 0.25 and 1 this, where "
    "the standard deviation is 0.4472", 0.2,
)  # fmt: skip
def test_width_of_a_product_of_gaussians(erratum_number):
    printed = VARIANCE_F * VARIANCE_G / (VARIANCE_F + VARIANCE_G)
    np.testing.assert_allclose(printed, erratum_number, rtol=1e-9)
    weights = PRODUCT / np.sum(PRODUCT)
    deviation = np.sqrt(weights @ np.square(GRID - weights @ GRID))
    np.testing.assert_allclose(deviation, 0.4472, rtol=1e-4)
    np.testing.assert_allclose(deviation, np.sqrt(printed), rtol=1e-9)


@pytest.mark.erratum("S4 24", "a mean of N + 1 terms, i = 0 to N, is divided by N", 1.25)
def test_monte_carlo_integral_counts_its_terms(erratum_number):
    # Under the schedule of least variance every term is the integral itself; N = 4.
    data, low, high = GaussianData(0.5), jnp.float64(-6.0), jnp.float64(3.0)

    def schedule(t):
        return data.least_variance_omega(t, low, high)

    t = jnp.array([0.1, 0.2, 0.5, 0.6, 0.9])
    terms = np.asarray(0.5 * data.share(schedule(t)) * omega_dot(schedule, t))  # f(omega) / p
    integral = float(data.denoising_term(low, high))
    np.testing.assert_allclose(terms.sum() / 4 / integral, erratum_number, rtol=1e-9)
    np.testing.assert_allclose(terms.mean(), integral, rtol=1e-9)


@pytest.mark.erratum(
    "S4 77", "the last factor is q(x|z_1); with q(z_1|x) the total probability is not 1", 1.0541
)
def test_reverse_expansion_begins_with_the_data_given_the_first_latent(erratum_number):
    # The other factors are densities of z_1, .. z_T; what is left is the integral over x.
    grid, z_1 = np.linspace(-9, 9, 4001), 0.4
    step = grid[1] - grid[0]
    q_z_given_x = np.exp(log_normal(z_1, np.sqrt(ALPHA[0]) * grid, 1 - ALPHA[0]))
    np.testing.assert_allclose(np.sum(q_z_given_x) * step, erratum_number, rtol=1e-4)
    # q(x|z_1) for x ~ N(0, s^2): by Bayes' rule, and from the ideal denoiser
    data, z = GaussianData(0.5), jnp.full((1, 1), z_1)
    marginal = np.exp(log_normal(z_1, 0.0, BAR[0] * 0.25 + 1 - BAR[0]))
    bayes = q_z_given_x * np.exp(log_normal(grid, 0.0, 0.25)) / marginal
    np.testing.assert_allclose(np.sum(bayes) * step, 1, rtol=1e-9)
    eps_hat = data.eps_hat(z, level(1))
    x_hat = (z_1 - float(noise.sigma(level(1)) * eps_hat[0, 0])) / np.sqrt(BAR[0])
    variance = float(jnp.exp(level(1)) * data.share(level(1)))
    np.testing.assert_allclose(bayes, np.exp(log_normal(grid, x_hat, variance)), atol=1e-12)


@pytest.mark.equation("S4 85", "vdm.diffusion.noise:transition")
@pytest.mark.erratum("S4 84-85", "1/√α_{t-1} stands for 1/√α_t in S/(K √α_t) = 1", 0.9428)
def test_constant_of_the_posterior(erratum_number):
    a, bar, before = STEP_2
    z_t = 0.4
    # q(z_t|z_s) = N(z_s; z_t / sqrt(alpha_t), (1 - alpha_t) / alpha_t) / sqrt(alpha_t)
    total = (1 - a) / a + 1 - before
    scale = np.exp(log_normal(z_t / np.sqrt(a), np.sqrt(before) * X, total))
    marginal = np.exp(log_normal(z_t, np.sqrt(bar) * X, 1 - bar))
    printed = scale / (marginal * np.sqrt(ALPHA[0]))
    np.testing.assert_allclose(printed, erratum_number, rtol=1e-4)
    np.testing.assert_allclose(scale / (marginal * np.sqrt(a)), 1, rtol=1e-10)
    kept, variance = noise.transition(level(1), level(2))
    assert (float(kept**2), float(variance)) == pytest.approx((a, 1 - a), rel=1e-10)


@pytest.mark.erratum("S4 95", "1 - ᾱ_t stands for its root: the deviation at ᾱ_t = 0.72", 0.28)
def test_noise_has_the_root_of_one_minus_alpha_bar(erratum_number):
    _, bar, _ = STEP_2
    np.testing.assert_allclose(1 - bar, erratum_number, rtol=1e-9)
    x, one = jnp.full((1, 1), X), jnp.ones((1, 1))
    deviation = noise.diffuse(x, one, level(2)) - noise.diffuse(x, 0 * one, level(2))
    np.testing.assert_allclose(deviation, np.sqrt(1 - bar), rtol=1e-10)
    # so that variances add up: alpha_t (1 - alpha-bar_{t-1}) + 1 - alpha_t
    scale, variance = noise.transition(level(1), level(2))
    np.testing.assert_allclose(
        scale**2 * noise.sigma(level(1)) ** 2 + variance, deviation[0, 0] ** 2, rtol=1e-10
    )


@pytest.mark.erratum(
    "S4 107", "the factors are q(z_{t-1}|z_t, x); without x, Cov(x, z_1) for N(0, 1/4) data at "
    "T = 2 is not √ᾱ_1/4 = 0.2372", 0.1340,
)  # fmt: skip
def test_conditional_expansion_has_x_in_every_factor(erratum_number):
    data, variance = GaussianData(0.5), 0.25
    with_z_2 = np.sqrt(BAR[1]) * variance  # Cov(x, z_2)
    one = jnp.ones((1, 1))

    def mean(z, eps):
        return float(noise.posterior(z, eps, level(1), level(2))[0][0, 0])

    # q(z_1|z_2), by the ideal denoiser: its mean is linear in z_2
    printed = mean(one, data.eps_hat(one, level(2))) * with_z_2
    np.testing.assert_allclose(printed, erratum_number, rtol=1e-3)

    def mean_given(z, x):
        return mean(z * one, (z - np.sqrt(BAR[1]) * x) / np.sqrt(1 - BAR[1]) * one)

    right = mean_given(1.0, 0.0) * with_z_2 + mean_given(0.0, 1.0) * variance
    np.testing.assert_allclose(right, np.sqrt(BAR[0]) * variance, rtol=1e-10)


@pytest.mark.erratum(
    "S4 129", "α_1 = μ(x) would make the variance depend on x: 1 - ᾱ_2 for μ(x) = 0.5; with "
    "q(z_1|x) = N(μ(x), I) it is 1 at every t", 0.6,
)  # fmt: skip
def test_noise_around_an_encoded_mean_does_not_depend_on_it(erratum_number):
    encoded = 0.5
    np.testing.assert_allclose(1 - ALPHA[1] * encoded, erratum_number, rtol=1e-9)
    mean, variance = encoded, 1.0
    for t in (2, 3, 4):
        scale, fresh = noise.transition(level(t - 1), level(t))
        mean, variance = scale * mean, scale**2 * variance + fresh
        np.testing.assert_allclose(mean, np.sqrt(np.prod(ALPHA[1:t])) * encoded, rtol=1e-10)
        np.testing.assert_allclose(variance, 1, rtol=1e-10)
    # With variance 1 - alpha_1 at the start it is z_t = alpha_t f + sigma_t eps, as for data f.
    f = jnp.full((1, 1), encoded / np.sqrt(ALPHA[0]))
    np.testing.assert_allclose(noise.diffuse(f, 0 * f, level(4))[0, 0], mean, rtol=1e-10)
