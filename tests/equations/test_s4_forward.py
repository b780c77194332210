"""S4 section 3.3.2: its noise in alpha_t of a step and their product alpha-bar, as printed but for
the slips that test_s4_errata.py shows, against the library's in omega.

Levels z_1 .. z_4 there are z_0 .. z_3 here; BAR[t - 1] is their alpha-bar_t.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.closed_forms import log_normal
from tests.equations.four_levels import ALPHA, BAR, X, level, next_mean, next_variance
from vdm.diffusion import noise
from vdm.diffusion.consistency import forward_noise
from vdm.diffusion.exact import GaussianData
from vdm.diffusion.predictions import convert


@pytest.mark.equation("S4 71", "vdm.diffusion.noise:transition")
@pytest.mark.equation("S4 74", "vdm.diffusion.noise:transition")
@pytest.mark.equation("S4 108", "vdm.diffusion.noise:transition")
@pytest.mark.parametrize("t", [2, 3, 4])
def test_a_step_keeps_sqrt_alpha_and_adds_variance_one_minus_alpha(t):
    scale, variance = noise.transition(level(t - 1), level(t))
    np.testing.assert_allclose(scale, np.sqrt(ALPHA[t - 1]), rtol=1e-12)
    np.testing.assert_allclose(variance, 1 - ALPHA[t - 1], rtol=1e-12)


@pytest.mark.equation("S4 71", "vdm.diffusion.consistency:forward_noise")
@pytest.mark.equation("S4 80", "vdm.diffusion.consistency:forward_noise")
@pytest.mark.equation("S4 81", "vdm.diffusion.noise:diffuse")
@pytest.mark.equation("S4 82", "vdm.diffusion.noise:diffuse")
@pytest.mark.equation("S4 109", "vdm.diffusion.noise:diffuse")
def test_chained_steps_are_one_draw_given_x():
    x, draws = jnp.full((1, 1), X), np.array([0.3, -1.2, 0.8, 0.1])
    eps, z = jnp.full((1, 1), draws[0]), np.sqrt(ALPHA[0]) * X + np.sqrt(1 - ALPHA[0]) * draws[0]
    np.testing.assert_allclose(noise.diffuse(x, eps, level(1)), [[z]], rtol=1e-12)
    for t in (2, 3, 4):
        z = np.sqrt(ALPHA[t - 1]) * z + np.sqrt(1 - ALPHA[t - 1]) * draws[t - 1]
        eps, _ = forward_noise(eps, jnp.full((1, 1), draws[t - 1]), level(t - 1), level(t))
        np.testing.assert_allclose(noise.diffuse(x, eps, level(t)), [[z]], rtol=1e-12)
        # mean sqrt(alpha-bar) x and, by squares of the draws' coefficients, 1 - alpha-bar
        kept = np.append(np.sqrt(np.cumprod(ALPHA[1:t][::-1])[::-1]), 1.0)
        variance = np.sum(np.square(kept * np.sqrt(1 - ALPHA[:t])))
        np.testing.assert_allclose(noise.alpha(level(t)), np.sqrt(np.prod(ALPHA[:t])), rtol=1e-12)
        np.testing.assert_allclose(noise.sigma(level(t)) ** 2, variance, rtol=1e-12)


@pytest.mark.equation("S4 84", "vdm.diffusion.noise:posterior")
@pytest.mark.equation("S4 86", "vdm.diffusion.noise:posterior")
@pytest.mark.equation("S4 110", "vdm.diffusion.noise:posterior")
@pytest.mark.parametrize("t", [2, 3, 4])
def test_posterior_in_alpha_bars(t):
    x, eps = jnp.array([[0.3, -0.9]]), jnp.array([[1.2, 0.4]])
    z_t = noise.diffuse(x, eps, level(t))
    mean, variance = noise.posterior(z_t, eps, level(t - 1), level(t))
    np.testing.assert_allclose(mean, next_mean(t, np.asarray(z_t), np.asarray(x)), rtol=1e-10)
    np.testing.assert_allclose(variance, next_variance(t), rtol=1e-10)


def log_posterior(z, t):
    """log q(z_{t-1}|z_t, x) of the library, z = (z_1, .., z_4)."""
    z_t = jnp.full((1, 1), z[t - 1])
    eps = (z_t - noise.alpha(level(t)) * X) / noise.sigma(level(t))
    mean, variance = noise.posterior(z_t, eps, level(t - 1), level(t))
    return log_normal(z[t - 2], float(mean[0, 0]), float(variance))


def log_step(z, t):
    scale, variance = noise.transition(level(t - 1), level(t))
    return log_normal(z[t - 1], float(scale) * z[t - 2], float(variance))


def log_level(z, t):
    return log_normal(z[t - 1], np.sqrt(BAR[t - 1]) * X, 1 - BAR[t - 1])


Z = (0.9, -0.4, 0.2, 1.1)


@pytest.mark.equation("S4 75", "vdm.diffusion.noise:transition")
@pytest.mark.equation("S4 79", "vdm.diffusion.noise:posterior")
@pytest.mark.equation("S4 105", "vdm.diffusion.noise:transition")
@pytest.mark.equation("S4 107", "vdm.diffusion.noise:posterior")
def test_forward_and_conditional_expansions_are_one_density():
    forward = log_level(Z, 1) + sum(log_step(Z, t) for t in (2, 3, 4))
    conditional = log_level(Z, 4) + sum(log_posterior(Z, t) for t in (2, 3, 4))
    np.testing.assert_allclose(conditional, forward, rtol=1e-10)


@pytest.mark.equation("S4 76", "vdm.diffusion.exact:GaussianData.share")
@pytest.mark.equation("S4 77", "vdm.diffusion.exact:GaussianData.eps_hat")
@pytest.mark.equation("S4 106", "vdm.diffusion.exact:GaussianData.eps_hat")
@pytest.mark.equation("S4 124", "vdm.diffusion.exact:GaussianData.eps_hat")
def test_forward_and_reverse_expansions_are_one_density():
    # For x ~ N(0, s^2): q(z_{t-1}|z_t) is the posterior with eps_hat, wider by the variance of eps.
    data = GaussianData(0.5)

    def log_marginal(t):
        return log_normal(Z[t - 1], 0.0, BAR[t - 1] * 0.25 + 1 - BAR[t - 1])

    def log_reverse(t):
        z_t = jnp.full((1, 1), Z[t - 1])
        eps_hat = data.eps_hat(z_t, level(t))
        mean, variance = noise.posterior(z_t, eps_hat, level(t - 1), level(t))
        slope = noise.posterior(z_t, eps_hat + 1, level(t - 1), level(t))[0] - mean
        variance += slope[0, 0] ** 2 * data.share(level(t))
        return log_normal(Z[t - 2], float(mean[0, 0]), float(variance))

    for t in (2, 3, 4):
        bayes = log_reverse(t) + log_marginal(t) - log_marginal(t - 1)
        np.testing.assert_allclose(bayes, log_step(Z, t), rtol=1e-10)
    z_1 = jnp.full((1, 1), Z[0])
    x_hat = convert(data.eps_hat(z_1, level(1)), "eps", "x", z_1, level(1))
    x_variance = float(jnp.exp(level(1)) * data.share(level(1)))
    reverse = log_normal(X, float(x_hat[0, 0]), x_variance) + log_marginal(4)
    reverse += sum(log_reverse(t) for t in (2, 3, 4))
    forward = log_normal(X, 0.0, 0.25) + log_level(Z, 1) + sum(log_step(Z, t) for t in (2, 3, 4))
    np.testing.assert_allclose(reverse, forward, rtol=1e-10)
