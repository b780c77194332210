"""S1 (1.5) to (1.62): the evidence bound of one latent and of a chain of normal distributions.

One latent is a chain of one level: encoder q(z|x) = N(alpha x, sigma^2), prior N(0, 1), decoder
N(z / alpha, sigma^2 / alpha^2). The chain is the one of `experiments.elbo_forms.four_steps`.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from experiments.elbo_forms import four_steps
from tests.closed_forms import gauss_hermite, log_normal
from vdm.diffusion import bounds, elbo, noise
from vdm.diffusion.likelihood import Gaussian

OMEGA, X = -0.6, 0.7
ALPHA, SIGMA = np.sqrt(1 / (1 + np.exp(OMEGA))), np.sqrt(1 / (1 + np.exp(-OMEGA)))
STEP = np.array([0.9, 0.8, 0.6, 0.3])  # alpha_1 ... alpha_4 of the chain
BAR = np.cumprod(np.append(1.0, STEP))


def log_weight(z):
    """log p(x, z) / q(z|x) of one latent, from the densities."""
    log_joint = log_normal(z, 0, 1) + log_normal(X, z / ALPHA, (SIGMA / ALPHA) ** 2)
    return log_joint - log_normal(z, ALPHA * X, SIGMA**2)


def log_evidence():
    return log_normal(X, 0, (1 + SIGMA**2) / ALPHA**2)


def terms_of_one_latent(eps):
    """The library's terms of the bound with one level and no step, for given noise."""
    omega = jnp.full(eps.shape, OMEGA)
    levels = elbo.NoiseLevels(omega[0], omega[0], omega, jnp.zeros(eps.shape))
    draws = elbo.Draws(omega, eps[:, None], eps[:, None])
    x = jnp.full((len(eps), 1), X)
    return elbo.estimate_elbo(x, draws, levels, lambda z, omega: z, Gaussian()).terms


@pytest.mark.equation("S1 1.5", "vdm.diffusion.bounds:importance_bound")
@pytest.mark.equation("S1 1.6", "vdm.diffusion.bounds:importance_bound")
def test_mean_weight_is_the_evidence_and_the_mean_log_weight_below_it():
    # Nodes of equal probability mass take the place of draws of z.
    num = 20_001
    z = ALPHA * X + SIGMA * stats.norm.ppf((np.arange(num) + 0.5) / num)
    log_w = jnp.asarray(log_weight(z))[:, None]
    np.testing.assert_allclose(-bounds.importance_bound(log_w)[0], log_evidence(), rtol=1e-4)
    one_draw = -np.mean(bounds.importance_bound(log_w.T))
    nodes, weights = gauss_hermite(4)
    by_quadrature = weights @ log_weight(ALPHA * X + SIGMA * nodes)
    np.testing.assert_allclose(one_draw, by_quadrature, rtol=1e-4)
    assert one_draw < log_evidence() - 0.01


@pytest.mark.equation("S1 1.1", "vdm.diffusion.likelihood:Gaussian.log_prob")
@pytest.mark.equation("S1 1.2", "vdm.diffusion.likelihood:Gaussian.log_prob")
def test_evidence_is_the_integral_over_the_latent_and_a_ratio_at_each():
    z = np.linspace(-8, 8, 4001)
    x, omega = jnp.full((len(z), 1), X), jnp.asarray(OMEGA)
    log_joint = log_normal(z, 0, 1) + np.asarray(
        Gaussian().log_prob(x, jnp.asarray(z)[:, None], omega)
    )
    np.testing.assert_allclose(
        np.trapezoid(np.exp(log_joint), z), np.exp(log_evidence()), rtol=1e-10
    )
    variance = 1 / (1 + 1 / SIGMA**2)  # variance of p(z|x): precisions add
    posterior = log_normal(z, variance * ALPHA * X / SIGMA**2, variance)
    np.testing.assert_allclose(log_joint - posterior, log_evidence(), rtol=1e-10)


@pytest.mark.equation("S1 1.15", "vdm.diffusion.elbo:ElboTerms.total")
@pytest.mark.equation("S1 1.16", "vdm.diffusion.elbo:ElboTerms.total")
@pytest.mark.equation("S1 1.20", "vdm.diffusion.elbo:estimate_elbo")
@pytest.mark.equation("S1 1.24", "vdm.diffusion.elbo:estimate_elbo")
@pytest.mark.erratum("S0 9", "as S2 (22)", -2.5920)
@pytest.mark.erratum(
    "S2 22", "the sum over L draws of z lacks S1's 1/L: for L = 2 reconstruction counts twice, and "
    "the estimate of a bound of −1.4730 nats is this", -2.5920
)  # fmt: skip
def test_evidence_is_the_bound_plus_the_kl_to_the_true_posterior(erratum_number):
    # The terms are quadratic in eps: the two draws eps = +-1 give their means exactly.
    terms = jax.jit(terms_of_one_latent)(np.array([1.0, -1.0]))
    bound = -np.mean(terms.total)
    nodes, weights = gauss_hermite(4)
    z = ALPHA * X + SIGMA * nodes
    np.testing.assert_allclose(bound, weights @ log_weight(z), rtol=1e-12)
    # p(z|x): precisions add
    variance = 1 / (1 + 1 / SIGMA**2)
    true_posterior = log_normal(z, variance * ALPHA * X / SIGMA**2, variance)
    kl = weights @ (log_normal(z, ALPHA * X, SIGMA**2) - true_posterior)
    assert kl > 0
    np.testing.assert_allclose(bound + kl, log_evidence(), rtol=1e-12)
    # Reconstruction minus prior matching, the former as a mean over two draws
    log_prob = log_normal(X, z / ALPHA, (SIGMA / ALPHA) ** 2)
    np.testing.assert_allclose(-np.mean(terms.reconstruction), weights @ log_prob, rtol=1e-12)
    prior = weights @ (log_normal(z, ALPHA * X, SIGMA**2) - log_normal(z, 0, 1))
    np.testing.assert_allclose(terms.prior_matching, prior, rtol=1e-12)
    np.testing.assert_allclose(bound, -1.4730, rtol=1e-4)
    as_printed = -np.sum(terms.reconstruction) - terms.prior_matching[0]
    np.testing.assert_allclose(as_printed, erratum_number, rtol=1e-3)


@pytest.mark.parametrize("omega", [-3.0, 0.0, 2.0])
@pytest.mark.equation("S1 1.17", "vdm.diffusion.elbo:prior_matching")
@pytest.mark.equation("S1 1.23", "vdm.diffusion.elbo:prior_matching")
def test_kl_to_the_prior_is_the_closed_form_and_the_integral(omega):
    mean, std = X / np.sqrt(1 + np.exp(omega)), np.sqrt(1 / (1 + np.exp(-omega)))
    z = mean + std * np.linspace(-12, 12, 4001)
    log_q = log_normal(z, mean, std**2)
    integral = np.trapezoid(np.exp(log_q) * (log_q - log_normal(z, 0, 1)), z)
    closed = np.log(1 / std) - 0.5 + (std**2 + mean**2) / 2
    got = elbo.prior_matching(jnp.full((1, 1), X), jnp.asarray(omega))[0]
    np.testing.assert_allclose([integral, closed], got, rtol=1e-10)


@pytest.mark.equation("S1 1.25", "vdm.diffusion.noise:diffuse")
def test_reparameterised_latents_carry_the_gradient_of_an_expectation():
    # E sin z = sin(alpha x) exp(-sigma^2 / 2), and its slope in omega.
    eps, weights = map(jnp.asarray, gauss_hermite(30))
    eps = eps[:, None]

    def sampled(omega):
        return weights @ jnp.sin(noise.diffuse(jnp.full_like(eps, X), eps, omega))[:, 0]

    def exact(omega):
        variance = 1 / (1 + np.exp(-omega))
        return np.sin(np.sqrt(1 - variance) * X) * np.exp(-variance / 2)

    value, slope = jax.jit(jax.value_and_grad(sampled))(OMEGA)
    np.testing.assert_allclose(value, exact(OMEGA), rtol=1e-12)
    difference = (exact(OMEGA + 1e-5) - exact(OMEGA - 1e-5)) / 2e-5
    np.testing.assert_allclose(slope, difference, rtol=1e-8)


@pytest.fixture
def chain_log_weight(monkeypatch):
    """A function noise [4, paths] -> log w [paths] of the library along these paths."""

    def log_weight(table):
        monkeypatch.setattr(bounds, "fresh_noise", lambda keys, *_: lambda i: table[i][:, None])
        keys = jnp.broadcast_to(jax.random.key(0), table.shape[1])
        x = jnp.full((table.shape[1], 1), four_steps.DATUM)
        omegas = jnp.asarray(four_steps.OMEGAS)
        return bounds.path_log_weight(keys, x, omegas, four_steps.denoiser, four_steps.Decoder())

    return log_weight


def x_hat(x_t, t):
    return 0.5 * np.sqrt(BAR[t]) * x_t + 0.1


def back(x_t, x_0, t):
    """(1.88) and (1.89)."""
    a, bar, before = STEP[t - 1], BAR[t], BAR[t - 1]
    mean = (np.sqrt(a) * (1 - before) * x_t + np.sqrt(before) * (1 - a) * x_0) / (1 - bar)
    return mean, (1 - a) * (1 - before) / (1 - bar)


@pytest.mark.equation("S1 1.26", "vdm.diffusion.bounds:path_log_weight")
@pytest.mark.equation("S1 1.27", "vdm.diffusion.bounds:path_log_weight")
@pytest.mark.equation("S1 1.32", "vdm.diffusion.bounds:path_log_weight")
@pytest.mark.equation("S1 1.35", "vdm.diffusion.bounds:path_log_weight")
@pytest.mark.equation("S1 1.40", "vdm.diffusion.bounds:path_log_weight")
@pytest.mark.equation("S1 1.59", "vdm.diffusion.bounds:path_log_weight")
def test_weight_of_a_path_is_the_model_over_the_chain(chain_log_weight):
    table = np.random.default_rng(0).normal(size=(4, 5))
    x = {0: np.full(5, four_steps.DATUM)}
    x[4] = np.sqrt(BAR[4]) * x[0] + np.sqrt(1 - BAR[4]) * table[0]
    for t in (4, 3, 2):
        mean, variance = back(x[t], x[0], t)
        x[t - 1] = mean + np.sqrt(variance) * table[t - 1]
    model = log_normal(x[4], 0, 1) + log_normal(x[0], x_hat(x[1], 1), 0.05)
    model += sum(log_normal(x[t - 1], *back(x[t], x_hat(x[t], t), t)) for t in (2, 3, 4))
    forward = sum(
        log_normal(x[t], np.sqrt(STEP[t - 1]) * x[t - 1], 1 - STEP[t - 1]) for t in (1, 2, 3, 4)
    )
    got = jax.jit(chain_log_weight)(table)
    np.testing.assert_allclose(got, model - forward, rtol=1e-11)
    backward = log_normal(x[4], np.sqrt(BAR[4]) * x[0], 1 - BAR[4])
    backward += sum(log_normal(x[t - 1], *back(x[t], x[0], t)) for t in (2, 3, 4))
    np.testing.assert_allclose(got, model - backward, rtol=1e-11)


@pytest.mark.equation("S1 1.30", "vdm.diffusion.bounds:path_log_weight")
@pytest.mark.equation("S1 1.31", "vdm.diffusion.bounds:path_log_weight")
@pytest.mark.equation("S1 1.38", "vdm.diffusion.bounds:path_log_weight")
@pytest.mark.equation("S1 1.39", "vdm.diffusion.bounds:path_log_weight")
def test_weights_of_a_chain_average_to_its_likelihood_and_their_logs_to_its_bound(chain_log_weight):
    # log w is quadratic in the noise, c + b xi + 1/2 xi A xi, so both means are closed forms.
    noise_of_path = np.random.default_rng(1).normal(size=(4, 20))
    log_w = np.asarray(jax.jit(chain_log_weight)(noise_of_path))
    pairs = np.array(list(itertools.combinations_with_replacement(range(4), 2))).T
    squares = noise_of_path[pairs[0]] * noise_of_path[pairs[1]]
    design = np.concatenate([np.ones((1, 20)), noise_of_path, squares]).T
    (c, *coefficients), residual, *_ = np.linalg.lstsq(design, log_w)
    assert residual < 1e-20
    b, a = np.array(coefficients[:4]), np.zeros((4, 4))
    a[tuple(pairs)] = coefficients[4:]
    a = a + a.T
    rest = np.eye(4) - a
    log_mean = c + 0.5 * b @ np.linalg.solve(rest, b) - 0.5 * np.linalg.slogdet(rest)[1]
    # The model's p(x_0): its steps are affine, means and variances carry through.
    mean, variance = 0.0, 1.0
    for t in (4, 3, 2):
        shift, step_variance = back(0.0, x_hat(0.0, t), t)
        slope = back(1.0, x_hat(1.0, t), t)[0] - shift
        mean, variance = slope * mean + shift, slope**2 * variance + step_variance
    slope = x_hat(1.0, 1) - x_hat(0.0, 1)
    mean, variance = slope * mean + x_hat(0.0, 1), slope**2 * variance + 0.05
    np.testing.assert_allclose(log_mean, log_normal(four_steps.DATUM, mean, variance), rtol=1e-10)
    bound = c + 0.5 * np.trace(a)
    np.testing.assert_allclose(bound, -1.3865617261, rtol=1e-9)
    assert bound < log_mean
