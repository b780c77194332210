"""Slips of S4 in its bound: what is printed, the number that shows it, and the corrected
statement; on the four-step example of experiments/elbo_forms.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.elbo_forms import four_steps
from vdm.diffusion import elbo, noise
from vdm.diffusion.exact import GaussianData
from vdm.diffusion.likelihood import Gaussian

ALPHA = np.array([0.9, 0.8, 0.6, 0.3])
BAR = np.cumprod(ALPHA)
OMEGAS = np.log(1 - BAR) - np.log(BAR)
X = 0.7
STEP_2 = ALPHA[1], BAR[1], BAR[0]  # alpha_t, alpha-bar_t, alpha-bar_{t-1} at t = 2
DECODER_VARIANCE = 0.05


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def log_normal(value, mean, variance):
    return -0.5 * np.log(2 * np.pi * variance) - (value - mean) ** 2 / (2 * variance)


@functools.cache
def hermite(order=12):
    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    return nodes, weights / weights.sum()


def level(t):
    return jnp.float64(OMEGAS[t - 1])


def next_mean(t, z, x):
    """Of q(z_{t-1}|z_t, x), S4 86."""
    a, bar, before = ALPHA[t - 1], BAR[t - 1], BAR[t - 2]
    return (np.sqrt(a) * (1 - before) * z + np.sqrt(before) * (1 - a) * x) / (1 - bar)


def x_hat_of(z, t):
    """The four-step example's prediction of x."""
    return 0.5 * np.sqrt(BAR[t - 1]) * z + 0.1


def weight_of_mean(t):
    """C_t of S4 90."""
    return (1 - BAR[t - 1]) / (2 * (1 - BAR[t - 2]) * (1 - ALPHA[t - 1]))


def z_nodes(t):
    """Nodes of q(z_t|x) and their weights."""
    nodes, weights = hermite()
    return np.sqrt(BAR[t - 1]) * X + np.sqrt(1 - BAR[t - 1]) * nodes, weights


def printed_c_1(std):
    """C_1 of S4 90, 91, 94 and 101, k = 1."""
    return np.log(np.sqrt(2 * np.pi * std)) / (2 * std**2)


PRINTED_C_1 = printed_c_1(np.sqrt(DECODER_VARIANCE))


def log_decoder(eps):
    """log p(x|z_1) of the example in the library, at z_1 = sqrt(alpha_1) x + sigma_1 eps."""
    x = jnp.full((len(eps), 1), X)
    return -np.asarray(four_steps.Decoder().reconstruction(x, jnp.asarray(eps)[:, None], level(1)))


def expected_matching(weight, x_hat=x_hat_of):
    """sum over t = 2, 3, 4 of weight(t) E (x_hat - x)^2."""
    levels = [(t, *z_nodes(t)) for t in (2, 3, 4)]
    return sum(weight(t) * (weights @ (x_hat(z, t) - X) ** 2) for t, z, weights in levels)


def weight_of_x(t):
    """K_t of S4 93."""
    before, bar = BAR[t - 2], BAR[t - 1]
    return before * (1 - ALPHA[t - 1]) / (2 * (1 - before) * (1 - bar))


def matching_of_library(t):
    """E KL_t by `elbo.denoising_matching`."""
    nodes, weights = hermite()
    z, _ = z_nodes(t)
    eps_hat = (z - np.sqrt(BAR[t - 1]) * x_hat_of(z, t)) / np.sqrt(1 - BAR[t - 1])
    weight = jnp.broadcast_to(jnp.expm1(level(t) - level(t - 1)), nodes.shape)
    columns = (jnp.asarray(nodes)[:, None], jnp.asarray(eps_hat)[:, None])
    return weights @ np.asarray(elbo.denoising_matching(*columns, weight)[0])


@pytest.mark.erratum("S4 55", "a sum over K draws of the noise, not their mean: times K = 4", 4.0)
def test_expectation_by_draws_is_their_mean(erratum_number):
    eps, omega = jnp.array([[1.0], [-1.0], [1.0], [-1.0]]), level(1)  # exact for a square
    terms = np.asarray(Gaussian().reconstruction(jnp.full((4, 1), X), eps, omega))
    nodes, weights = hermite()
    every = Gaussian().reconstruction(jnp.full((12, 1), X), jnp.asarray(nodes)[:, None], omega)
    expectation = weights @ np.asarray(every)
    np.testing.assert_allclose(terms.sum() / expectation, erratum_number, rtol=1e-9)
    np.testing.assert_allclose(terms.mean(), expectation, rtol=1e-9)


@pytest.mark.erratum(
    "S4 90", "log p(x|z_1) is a sum, not a product; C_1 for σ_1² = 0.05 where -10 is right", 1.7001
)
def test_log_density_of_the_decoder_is_a_negative_multiple_and_a_constant(erratum_number):
    np.testing.assert_allclose(PRINTED_C_1, erratum_number, rtol=1e-4)
    assert printed_c_1(0.01) < 0  # below (2 pi)^-k its sign is right, its size is not
    eps = np.array([-1.0, 0.3, 1.4])
    z = np.sqrt(BAR[0]) * X + np.sqrt(1 - BAR[0]) * eps
    distance = (x_hat_of(z, 1) - X) ** 2
    slope, constant = np.polyfit(distance, log_decoder(eps), 1)
    np.testing.assert_allclose(slope, -1 / (2 * DECODER_VARIANCE), rtol=1e-9)
    np.testing.assert_allclose(constant, -0.5 * np.log(2 * np.pi * DECODER_VARIANCE), rtol=1e-9)


@pytest.mark.erratum(
    "S4 91", "the sum begins at t = 2; from t = 1 it takes L_1 away again, whatever the decoder",
    0.8919,
)  # fmt: skip
def test_sum_over_levels_begins_at_the_second(erratum_number):
    # m_1 = x, alpha-bar_0 being 1. (C_t with t = 1 would be 1/0; C_1 is that of L_1.)
    z, weights = z_nodes(1)
    denoising = expected_matching(weight_of_x)
    for decoder in (x_hat_of, lambda z, t: 3.0 + 0 * z):
        first = PRINTED_C_1 * (weights @ (decoder(z, 1) - X) ** 2)
        np.testing.assert_allclose(-(first - (first + denoising)), erratum_number, rtol=1e-4)
    nodes, weights = hermite()
    reconstruction = -weights @ log_decoder(nodes)
    prior = float(elbo.prior_matching(jnp.full((1, 1), X), level(4))[0])
    np.testing.assert_allclose(-(reconstruction + denoising + prior), -1.3865617261, atol=1e-9)


@pytest.mark.erratum("S4 94", "L_1 has C_1 of (90), and no constant: a worse decoder scores higher",
                     -0.7155)  # fmt: skip
def test_bound_falls_as_the_decoder_gets_worse(erratum_number):
    denoising = expected_matching(weight_of_x)
    z, weights = z_nodes(1)

    def printed(x_hat):
        return PRINTED_C_1 * (weights @ (x_hat - X) ** 2) - denoising

    np.testing.assert_allclose(printed(x_hat_of(z, 1)), erratum_number, rtol=1e-4)
    assert printed(np.full(12, 9.0)) > 100
    nodes, _ = hermite()

    def reconstruction(x_hat):
        return -(weights @ log_normal(X, x_hat, DECODER_VARIANCE))

    np.testing.assert_allclose(reconstruction(x_hat_of(z, 1)), -weights @ log_decoder(nodes))
    assert reconstruction(np.full(12, 9.0)) > reconstruction(x_hat_of(z, 1))


@pytest.mark.erratum(
    "S4 98", "1 - ᾱ_t stands for its root; L_2 is then not E KL_2 = 0.5513", 0.7651
)
def test_a_level_in_terms_of_noise(erratum_number):
    _, bar, _ = STEP_2
    nodes, weights = hermite()
    z, _ = z_nodes(2)
    mean = next_mean(2, z, x_hat_of(z, 2))
    wrong = next_mean(2, np.sqrt(bar) * X + (1 - bar) * nodes, X)
    printed = weight_of_mean(2) * (weights @ (mean - wrong) ** 2)
    np.testing.assert_allclose(printed, erratum_number, rtol=1e-3)
    right = weight_of_mean(2) * (weights @ (mean - next_mean(2, z, X)) ** 2)
    np.testing.assert_allclose(right, matching_of_library(2), rtol=1e-9)
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
    "S4 101", "C_1 of (90), and a sum over draws, not their mean: L_1 by four draws", 0.7054
)
def test_reconstruction_by_draws_of_the_noise(erratum_number):
    eps = np.array([1.0, -1.0, 1.0, -1.0])  # exact for a square
    z = np.sqrt(BAR[0]) * X + np.sqrt(1 - BAR[0]) * eps
    printed = PRINTED_C_1 * np.sum((x_hat_of(z, 1) - X) ** 2)
    np.testing.assert_allclose(printed, erratum_number, rtol=1e-4)
    nodes, weights = hermite()
    want = weights @ log_decoder(nodes)
    np.testing.assert_allclose(np.mean(log_decoder(eps)), want, rtol=1e-10)
    distance = np.mean((x_hat_of(z, 1) - X) ** 2) / (2 * DECODER_VARIANCE)
    np.testing.assert_allclose(
        want, -distance - 0.5 * np.log(2 * np.pi * DECODER_VARIANCE), rtol=1e-10
    )


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
    nodes, weights = z_nodes(2)
    means = (next_mean(2, nodes, x) for x in (X, x_hat_of(nodes, 2)))
    log_q, log_p = (log_normal(grid[:, None], m, float(variance)) for m in means)
    kl = np.sum(np.exp(log_q) * (log_q - log_p), axis=0) * step
    np.testing.assert_allclose(weights @ kl, matching_of_library(2), rtol=1e-9)
