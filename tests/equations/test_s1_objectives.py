"""S1 (1.90) to (1.119), (1.140) and (1.151) to (1.154): what is trained, and one step of sampling.

The denoising term of one step as a KL of two normal distributions, and its four weights; alpha_t of
the sources is alpha_t^2 / alpha_{t-1}^2 here, their alpha_bar_t is our alpha_t^2.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.closed_forms import gaussian_kl
from vdm.diffusion import elbo, noise, samplers, weightings
from vdm.diffusion.exact import GaussianData, MixtureData
from vdm.diffusion.likelihood import Gaussian
from vdm.diffusion.predictions import convert

STEP = np.array([0.9, 0.8, 0.6, 0.3])  # alpha_1 ... alpha_4
BAR = np.cumprod(np.append(1.0, STEP))  # alpha_bar_0 ... alpha_bar_4
with np.errstate(divide="ignore"):
    OMEGA = np.log(1 - BAR) - np.log(BAR)
LEVELS = [2, 3, 4]
# Three dimensions: the data, the network's x_hat, and the latent
X_0, X_HAT = np.array([0.7, -0.2, 0.1]), np.array([0.4, 0.5, -0.3])
X_T = np.array([1.1, -0.8, 0.3])


def posterior_mean(x_0, t):
    """(1.88) at X_T."""
    a, bar, before = STEP[t - 1], BAR[t], BAR[t - 1]
    return (np.sqrt(a) * (1 - before) * X_T + np.sqrt(before) * (1 - a) * x_0) / (1 - bar)


def posterior_variance(t):
    """(1.89)."""
    return (1 - STEP[t - 1]) * (1 - BAR[t - 1]) / (1 - BAR[t])


def eps_of(x_0, t):
    """(1.72) solved for the noise."""
    return (X_T - np.sqrt(BAR[t]) * x_0) / np.sqrt(1 - BAR[t])


def denoising_term(t, x_0=X_0, x_hat=X_HAT):
    """The library's term of one step, in nats, for the noise of x_0 and of x_hat."""
    weight = jnp.expm1(jnp.asarray(OMEGA[t] - OMEGA[t - 1]))[None]
    eps, eps_hat = (jnp.asarray(eps_of(x, t))[None] for x in (x_0, x_hat))
    return float(elbo.denoising_matching(eps, eps_hat, weight)[0][0])


@pytest.mark.parametrize("t", LEVELS)
@pytest.mark.equation("S1 1.91", "vdm.diffusion.elbo:denoising_matching")
@pytest.mark.equation("S1 1.95", "vdm.diffusion.elbo:denoising_matching")
def test_term_is_the_kl_of_two_posteriors_a_distance_of_their_means(t):
    variance, means = posterior_variance(t), [posterior_mean(x, t) for x in (X_0, X_HAT)]
    covariance = variance * np.eye(3)
    np.testing.assert_allclose(denoising_term(t), gaussian_kl(means[0], covariance, means[1],
                               covariance), rtol=1e-11)  # fmt: skip
    distance = np.sum((means[1] - means[0]) ** 2) / (2 * variance)
    np.testing.assert_allclose(denoising_term(t), distance, rtol=1e-11)


@pytest.mark.equation("S2 55", "vdm.diffusion.elbo:prior_matching")
def test_prior_matching_is_the_kl_of_two_normals_of_other_covariances():
    omega = 0.4
    variance = 1 / (1 + np.exp(-omega))
    normal = np.sqrt(1 - variance) * X_0, variance * np.eye(3)
    got = elbo.prior_matching(jnp.asarray(X_0)[None], jnp.asarray(omega))
    np.testing.assert_allclose(got, gaussian_kl(*normal, np.zeros(3), np.eye(3)), rtol=1e-11)


@pytest.mark.parametrize("t", LEVELS)
@pytest.mark.equation("S1 1.100", "vdm.diffusion.elbo:denoising_matching")
@pytest.mark.equation("S1 1.103", "vdm.diffusion.elbo:denoising_matching")
@pytest.mark.equation("S1 1.104", "vdm.diffusion.elbo:denoising_matching")
@pytest.mark.equation("S2 63", "vdm.diffusion.elbo:denoising_matching")
@pytest.mark.equation("S2 65", "vdm.diffusion.noise:snr")
def test_weight_of_an_error_of_x_in_each_of_its_forms(t):
    a, bar, before = STEP[t - 1], BAR[t], BAR[t - 1]
    squares = np.sum((X_HAT - X_0) ** 2)
    snr = noise.snr(jnp.asarray(OMEGA))
    weights = [
        before * (1 - a) ** 2 / (1 - bar) ** 2 / (2 * posterior_variance(t)),
        0.5 * before * (1 - a) / ((1 - before) * (1 - bar)),
        0.5 * (before - bar) / ((1 - before) * (1 - bar)),
        0.5 * (before / (1 - before) - bar / (1 - bar)),
        0.5 * (snr[t - 1] - snr[t]),
    ]
    np.testing.assert_allclose(np.array(weights) * squares, denoising_term(t), rtol=1e-11)


@pytest.mark.parametrize("t", LEVELS)
@pytest.mark.equation("S1 1.96", "vdm.diffusion.predictions:convert")
@pytest.mark.equation("S1 1.105", "vdm.diffusion.predictions:convert")
@pytest.mark.equation("S1 1.115", "vdm.diffusion.predictions:convert")
def test_mean_of_the_model_from_x_hat_and_from_eps_hat(t):
    z, omega, omega_s = jnp.asarray(X_T)[None], jnp.asarray(OMEGA[t]), jnp.asarray(OMEGA[t - 1])
    eps_hat = jnp.asarray(eps_of(X_HAT, t))[None]
    want = posterior_mean(X_HAT, t)
    for output, name in ((jnp.asarray(X_HAT)[None], "x"), (eps_hat, "eps")):
        got = convert(output, name, "next_mean", z, omega, omega_s)
        np.testing.assert_allclose(got[0], want, rtol=1e-11)
    a, bar = STEP[t - 1], BAR[t]
    printed = X_T / np.sqrt(a) - (1 - a) / (np.sqrt(1 - bar) * np.sqrt(a)) * eps_hat[0]
    np.testing.assert_allclose(printed, want, rtol=1e-11)
    printed = (X_T - np.sqrt(1 - bar) * eps_hat[0]) / np.sqrt(bar)
    np.testing.assert_allclose(convert(eps_hat, "eps", "x", z, omega)[0], printed, rtol=1e-11)


@pytest.mark.parametrize("t", LEVELS)
@pytest.mark.equation("S1 1.114", "vdm.diffusion.noise:posterior")
@pytest.mark.equation("S1 1.151", "vdm.diffusion.noise:posterior")
def test_posterior_mean_in_terms_of_the_noise(t):
    a, bar = STEP[t - 1], BAR[t]
    eps = eps_of(X_0, t)
    printed = X_T / np.sqrt(a) - (1 - a) / np.sqrt((1 - bar) * a) * eps
    np.testing.assert_allclose(printed, posterior_mean(X_0, t), rtol=1e-11)
    omegas = jnp.asarray(OMEGA[t - 1]), jnp.asarray(OMEGA[t])
    mean, _ = noise.posterior(jnp.asarray(X_T)[None], jnp.asarray(eps)[None], *omegas)
    np.testing.assert_allclose(mean[0], printed, rtol=1e-11)


@pytest.mark.parametrize("t", LEVELS)
@pytest.mark.equation("S1 1.119", "vdm.diffusion.elbo:denoising_matching")
@pytest.mark.equation("S1 1.140", "vdm.diffusion.predictions:convert")
@pytest.mark.equation("S2 84", "vdm.diffusion.predictions:convert")
def test_weights_of_errors_of_eps_and_of_the_score(t):
    a, bar, variance = STEP[t - 1], BAR[t], posterior_variance(t)
    error = eps_of(X_HAT, t) - eps_of(X_0, t)
    of_eps = (1 - a) ** 2 / ((1 - bar) * a) / (2 * variance)
    np.testing.assert_allclose(of_eps * np.sum(error**2), denoising_term(t), rtol=1e-11)
    # The score of the conditional distribution, which is known: -eps / sqrt(1 - alpha_bar).
    z, omega = jnp.asarray(X_T)[None], jnp.asarray(OMEGA[t])
    of_x_0, of_x_hat = (
        convert(jnp.asarray(eps_of(x, t))[None], "eps", "score", z, omega)[0] for x in (X_0, X_HAT)
    )
    of_score = (1 - a) ** 2 / a / (2 * variance)
    got = of_score * np.sum((of_x_hat - of_x_0) ** 2)
    np.testing.assert_allclose(got, denoising_term(t), rtol=1e-11)


@pytest.mark.parametrize("t", LEVELS)
@pytest.mark.equation("S1 1.140", "vdm.diffusion.exact:MixtureData.score")
@pytest.mark.equation("S2 84", "vdm.diffusion.exact:MixtureData.score")
def test_term_by_the_marginal_score_lacks_a_constant(t):
    # The data are three points, so p(x_0 | X_T) consists of three weights. The mean of the terms
    # under it is the term of the marginal score plus the variance of eps, which no network removes.
    points, prior = np.array([X_0, [-0.5, 0.4, 0.2], [0.1, -0.9, 0.6]]), np.array([0.5, 0.2, 0.3])
    data = MixtureData(*map(jnp.asarray, (prior, points, np.zeros(3))))
    bar, omega = BAR[t], jnp.asarray(OMEGA[t])
    given = prior * np.exp(-np.sum((X_T - np.sqrt(bar) * points) ** 2, axis=1) / (2 * (1 - bar)))
    given /= given.sum()
    of_score = (1 - STEP[t - 1]) ** 2 / STEP[t - 1] / (2 * posterior_variance(t))
    marginal = np.asarray(data.score(jnp.asarray(X_T)[None], omega))[0]
    scores = -np.array([eps_of(x, t) for x in points]) / np.sqrt(1 - bar)
    constant = of_score * (given @ np.sum((scores - marginal) ** 2, axis=1))
    assert constant > 0.04
    for x_hat in (X_HAT, np.zeros(3)):
        network = -eps_of(x_hat, t) / np.sqrt(1 - bar)
        got = given @ [denoising_term(t, x, x_hat) for x in points]
        by_score = of_score * np.sum((network - marginal) ** 2)
        np.testing.assert_allclose(got, by_score + constant, rtol=1e-10)


@pytest.mark.equation("S1 1.152", "vdm.diffusion.elbo:estimate_elbo")
@pytest.mark.equation("S1 1.153", "vdm.diffusion.weightings:simple")
@pytest.mark.equation("S2 62", "vdm.diffusion.elbo:estimate_elbo")
@pytest.mark.equation("S2 67", "vdm.diffusion.elbo:estimate_elbo")
def test_training_loss_of_a_random_step_and_its_simple_form():
    # For any network. The levels 2, 3, 4 are the three steps of a grid of omega.
    def schedule(t):
        return jnp.interp(t, jnp.linspace(0.0, 1.0, 4), jnp.asarray(OMEGA[1:]))

    def network(z, omega):
        return jnp.sin(z) + 0.1 * omega[:, None]

    @jax.jit
    def estimate(x, eps, t):
        levels = elbo.noise_levels(schedule, t, 3)
        terms = elbo.estimate_elbo(x, elbo.Draws(t, eps, eps), levels, network, Gaussian()).terms
        return terms.denoising_matching, weightings.simple(levels.omega_t, levels.weight)

    x, eps = np.tile(X_0, (3, 1)), np.random.default_rng(0).normal(size=(3, 3))
    terms, simple = (np.asarray(v) for v in estimate(x, eps, np.array([0.1, 0.5, 0.9])))
    total = 0.0
    for i, t in enumerate(LEVELS):
        a, bar = STEP[t - 1], BAR[t]
        x_t = np.sqrt(bar) * x[i] + np.sqrt(1 - bar) * eps[i]
        eps_hat = np.sin(x_t) + 0.1 * OMEGA[t]
        squares = np.sum((eps[i] - eps_hat) ** 2)
        term = (1 - a) ** 2 / ((1 - bar) * a) / (2 * posterior_variance(t)) * squares
        np.testing.assert_allclose(terms[i], 3 * term, rtol=1e-11)  # 3 steps, one drawn
        np.testing.assert_allclose(terms[i] * simple[i], 0.5 * squares, rtol=1e-11)  # half S1's
        x_hat = (x_t - np.sqrt(1 - bar) * eps_hat) / np.sqrt(bar)
        snr_before, snr = BAR[t - 1] / (1 - BAR[t - 1]), bar / (1 - bar)
        total += 0.5 * (snr_before - snr) * np.sum((x_hat - X_0) ** 2)
    np.testing.assert_allclose(terms.mean(), total, rtol=1e-11)


@pytest.mark.equation("S1 1.154", "vdm.diffusion.samplers:ancestral")
@pytest.mark.erratum(
    "S1 1.154", "the noise is multiplied by its variance instead of the standard deviation (S1's "
    "program has the root): DDPM's 1000 steps would give data of variance 1 this one", 0.005577
)  # fmt: skip
def test_noise_of_a_step_has_the_posterior_standard_deviation(erratum_number):
    # The ideal eps_hat of N(0, 1) is sqrt(1 - alpha_bar) x_t: a step is linear, variances add.
    alphas = 1 - np.linspace(1e-4, 0.02, 1000)
    bars = alphas.cumprod()
    before = np.append(1.0, bars[:-1])
    variances = (1 - alphas) * (1 - before) / (1 - bars)
    gains = np.sqrt(alphas)  # (1 - (1 - alpha)) / sqrt(alpha)
    sampled = {"printed": 1.0, "right": 1.0}
    for i in reversed(range(1000)):
        for name, power in (("printed", 2), ("right", 1)):
            sampled[name] = gains[i] ** 2 * sampled[name] + variances[i] ** power
    np.testing.assert_allclose(sampled["printed"], erratum_number, rtol=1e-3)
    np.testing.assert_allclose(sampled["right"], 1, rtol=1e-2)
    # The library gives the same variances at x_1 and takes the same step.
    data, omegas = GaussianData(1.0), np.log1p(-bars) - np.log(bars)
    at_x_1 = (sampled["right"] - variances[0]) / gains[0] ** 2
    np.testing.assert_allclose(data.variance_of_steps(jnp.asarray(omegas)), at_x_1, rtol=1e-9)

    def step(i, xi):
        z, ends = jnp.full((1, 1), 0.7), jnp.asarray(omegas[i - 1 : i + 1])
        interval = samplers.Interval(
            ends[0], ends[1], jnp.bool_(False), lambda k: jnp.full((1, 1), xi)
        )
        return samplers.ancestral().step(data.eps_hat, z, (), interval)[0][0, 0]

    for i in (1, 500, 999):
        np.testing.assert_allclose(step(i, 0.0), gains[i] * 0.7, rtol=1e-9)
        np.testing.assert_allclose(step(i, 1.0) - step(i, 0.0), variances[i] ** 0.5, rtol=1e-9)
