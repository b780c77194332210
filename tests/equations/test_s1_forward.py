"""S1 (1.33) to (1.89): noise in steps of alpha_t, at once with alpha_bar_t, and one step back.

alpha_t of the sources is alpha_t^2 / alpha_{t-1}^2 here and their alpha_bar_t is our alpha_t^2, so
the level t is omega = log((1 - alpha_bar_t) / alpha_bar_t); their x_0 stands at omega = -infinity.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests.closed_forms import gauss_hermite_grid, log_normal
from vdm.diffusion import noise
from vdm.diffusion.exact import MixtureData

STEP = np.array([0.9, 0.8, 0.6, 0.3])  # alpha_1 ... alpha_4
BAR = np.cumprod(np.append(1.0, STEP))  # alpha_bar_0 ... alpha_bar_4
with np.errstate(divide="ignore"):
    OMEGA = np.log(1 - BAR) - np.log(BAR)
X_0 = 0.7


def posterior_as_printed(x_t, x_0, t):
    """(1.88) and (1.89)."""
    a, bar, before = STEP[t - 1], BAR[t], BAR[t - 1]
    mean = (np.sqrt(a) * (1 - before) * x_t + np.sqrt(before) * (1 - a) * x_0) / (1 - bar)
    return mean, (1 - a) * (1 - before) / (1 - bar)


def posterior(x_t, x_0, t):
    """The library's mean and variance of the posterior, for arrays."""
    eps = (x_t - np.sqrt(BAR[t]) * x_0) / np.sqrt(1 - BAR[t])
    x_t, eps = jnp.atleast_2d(x_t), jnp.atleast_2d(eps)
    mean, variance = noise.posterior(x_t, eps, jnp.asarray(OMEGA[t - 1]), jnp.asarray(OMEGA[t]))
    return np.asarray(mean)[0], float(variance)


@pytest.mark.parametrize("t", [1, 2, 3, 4])
@pytest.mark.equation("S1 1.34", "vdm.diffusion.noise:transition")
@pytest.mark.equation("S1 1.63", "vdm.diffusion.noise:transition")
@pytest.mark.equation("S1 1.144", "vdm.diffusion.noise:transition")
def test_one_step_scales_by_root_alpha_and_adds_the_rest(t):
    scale, variance = noise.transition(jnp.asarray(OMEGA[t - 1]), jnp.asarray(OMEGA[t]))
    np.testing.assert_allclose([scale, variance], [np.sqrt(STEP[t - 1]), 1 - STEP[t - 1]],
                               rtol=1e-12)  # fmt: skip


@pytest.mark.equation("S1 1.33", "vdm.diffusion.noise:transition")
@pytest.mark.erratum(
    "S1 1.34", "on the left stands q(x_{1:T}|x_0), on the right the one factor q(x_t|x_{t−1}): "
    "of four steps three factors are missing, in the mean so many nats of log-density", -1.8427
)  # fmt: skip
def test_density_of_a_chain_is_the_product_of_its_steps(erratum_number):
    # Against the joint normal density, whose covariances are sqrt(bar_t / bar_s) (1 - bar_s).
    s, t = np.minimum(*np.ix_(range(4), range(4))) + 1, np.maximum(*np.ix_(range(4), range(4))) + 1
    covariance = np.sqrt(BAR[t] / BAR[s]) * (1 - BAR[s])
    joint = stats.multivariate_normal(np.sqrt(BAR[1:]) * X_0, covariance)
    path = np.array([X_0, 0.4, 0.9, -0.3, 0.2])
    factors = []
    for t in range(1, 5):
        scale, variance = noise.transition(jnp.asarray(OMEGA[t - 1]), jnp.asarray(OMEGA[t]))
        factors.append(log_normal(path[t], scale * path[t - 1], variance))
    np.testing.assert_allclose(sum(factors), joint.logpdf(path[1:]), rtol=1e-12)
    # In expectation: the negative entropy of all levels minus that of the last step alone.
    last = -stats.norm(scale=np.sqrt(1 - STEP[3])).entropy()
    np.testing.assert_allclose(-joint.entropy() - last, erratum_number, rtol=1e-3)


@pytest.mark.equation("S1 1.48", "vdm.diffusion.noise:transition")
@pytest.mark.erratum(
    "S1 1.48", "q(x_{1:T}|x_0) is written as the product of the q(x_t|x_0): x_1 and x_2 would be "
    "uncorrelated given x_0, they have this covariance; true for a function of one x_j", 0.08944
)  # fmt: skip
def test_levels_of_a_chain_are_not_independent(erratum_number):
    def level(xi_1, xi_2):  # x_1 and x_2 for given noise, by the library's steps
        scale_1, variance_1 = noise.transition(jnp.asarray(-jnp.inf), jnp.asarray(OMEGA[1]))
        scale_2, variance_2 = noise.transition(*jnp.asarray(OMEGA[1:3]))
        x_1 = scale_1 * X_0 + jnp.sqrt(variance_1) * xi_1
        return np.array([x_1, scale_2 * x_1 + jnp.sqrt(variance_2) * xi_2])

    jacobian = np.stack([level(1.0, 0.0), level(0.0, 1.0)], axis=1) - level(0.0, 0.0)[:, None]
    covariance = jacobian @ jacobian.T
    np.testing.assert_allclose(covariance[0, 1], erratum_number, rtol=1e-3)
    np.testing.assert_allclose(np.diag(covariance), 1 - BAR[1:3], rtol=1e-12)  # one x_j: q(x_j|x_0)


@pytest.mark.equation("S1 1.71", "vdm.diffusion.noise:diffuse")
@pytest.mark.equation("S1 1.72", "vdm.diffusion.noise:diffuse")
@pytest.mark.equation("S1 1.73", "vdm.diffusion.noise:diffuse")
@pytest.mark.equation("S1 1.145", "vdm.diffusion.noise:diffuse")
def test_a_thousand_steps_are_one_with_the_product_of_their_alphas():
    # DDPM's betas. Mean and variance are carried through every step.
    alphas = 1 - np.linspace(1e-4, 0.02, 1000)
    mean, variance = X_0, 0.0
    for i, a in enumerate(alphas):
        mean, variance = np.sqrt(a) * mean, a * variance + 1 - a
        if i in (0, 10, 300, 999):
            bar = alphas[: i + 1].prod()
            omega = jnp.asarray(np.log1p(-bar) - np.log(bar))
            got = noise.diffuse(jnp.array([[X_0, 0.0]]), jnp.array([[0.0, 1.0]]), omega)[0]
            np.testing.assert_allclose(got, [mean, np.sqrt(variance)], rtol=1e-11)


@pytest.mark.parametrize("t", [2, 3, 4])
@pytest.mark.equation("S1 1.87", "vdm.diffusion.noise:posterior")
@pytest.mark.equation("S1 1.88", "vdm.diffusion.noise:posterior")
@pytest.mark.equation("S1 1.89", "vdm.diffusion.noise:posterior")
@pytest.mark.equation("S1 1.148", "vdm.diffusion.noise:posterior")
@pytest.mark.equation("S1 1.149", "vdm.diffusion.noise:posterior")
@pytest.mark.equation("S1 1.150", "vdm.diffusion.noise:posterior")
def test_mean_and_variance_one_step_back_are_the_printed_ones(t):
    x_t = np.array([-1.3, 0.2, 2.1])
    mean, variance = posterior(x_t, X_0, t)
    want_mean, want_variance = posterior_as_printed(x_t, X_0, t)
    np.testing.assert_allclose(mean, want_mean, rtol=1e-12)
    np.testing.assert_allclose(variance, want_variance, rtol=1e-12)


@pytest.mark.parametrize("t", [2, 3, 4])
@pytest.mark.equation("S1 1.50", "vdm.diffusion.noise:posterior")
@pytest.mark.equation("S1 1.74", "vdm.diffusion.noise:posterior")
def test_one_step_back_is_bayes_rule_for_one_step_of_noise(t):
    x_t, x_s = (v.ravel() for v in np.meshgrid(np.linspace(-2, 2, 5), np.linspace(-2, 2, 5)))
    mean, variance = posterior(x_t, X_0, t)
    forward = log_normal(x_t, np.sqrt(STEP[t - 1]) * x_s, 1 - STEP[t - 1])
    marginal_t, marginal_s = (
        log_normal(value, np.sqrt(BAR[i]) * X_0, 1 - BAR[i])
        for value, i in ((x_t, t), (x_s, t - 1))
    )
    back = log_normal(x_s, mean, variance)
    np.testing.assert_allclose(forward, back + marginal_t - marginal_s, rtol=1e-11)


@pytest.mark.erratum(
    "S1 1.78", "a minus is lost before 2√ᾱ_{t−1} x_{t−1} x_0: with + the posterior mean at t = 2, "
    "x_0 = 0.7, x_2 = 1 would be this, and it is 0.7938", -0.15490
)  # fmt: skip
def test_a_lost_minus_moves_the_posterior_mean(erratum_number):
    # The exponent is -1/2 [p x^2 - 2 l x], so the mean is l / p.
    precision = STEP[1] / (1 - STEP[1]) + 1 / (1 - BAR[1])
    slopes = np.sqrt(STEP[1]) / (1 - STEP[1]), np.sqrt(BAR[1]) * X_0 / (1 - BAR[1])
    np.testing.assert_allclose((slopes[0] - slopes[1]) / precision, erratum_number, rtol=1e-3)
    mean, variance = posterior(1.0, X_0, 2)
    np.testing.assert_allclose([mean[0], variance], [sum(slopes) / precision, 1 / precision],
                               rtol=1e-12)  # fmt: skip
    np.testing.assert_allclose(mean, 0.7938, rtol=1e-4)


@pytest.mark.erratum(
    "S1 1.146", "q(x_t) is set equal to q(x_t|x_0): for x_0 ~ N(0, 1) at SNR 1 the mean KL of the "
    "two, the information that x_t holds of x_0, is so many nats", 0.34657
)  # fmt: skip
def test_marginal_is_not_the_conditional(erratum_number):
    data = MixtureData(jnp.ones(1), jnp.zeros((1, 1)), jnp.ones(1))
    nodes, weights = gauss_hermite_grid(2, 60)
    x_0, eps = nodes.T

    @jax.jit
    def latent_and_log_prob(x_0, eps):
        z = noise.diffuse(x_0, eps, jnp.asarray(0.0))
        return z[:, 0], data.log_prob(z, jnp.asarray(0.0))

    z, log_marginal = map(np.asarray, latent_and_log_prob(x_0[:, None], eps[:, None]))
    distance = weights @ (log_normal(z, np.sqrt(0.5) * x_0, 0.5) - log_marginal)
    np.testing.assert_allclose(distance, erratum_number, rtol=1e-3)
    # The conditional averaged over x_0 is the marginal.
    for i in np.flatnonzero(abs(z) < 2)[::300]:
        mixed = weights @ np.exp(log_normal(z[i], np.sqrt(0.5) * x_0, 0.5))
        np.testing.assert_allclose(mixed, np.exp(log_marginal[i]), rtol=1e-7)
