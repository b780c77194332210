"""The Gaussian kernel of fitted variance against the divergence of two normal distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.closed_forms import gauss_hermite, gaussian_kl
from vdm.diffusion.kernels import FittedGaussian, Guess, Step

OMEGAS = np.array([-3.0, -1.0, 2.0])
ERRORS = np.array([0.1, 0.4, 0.8])
OF_DIMS = np.stack([ERRORS, 0.5 * ERRORS], axis=1)
S, T = np.array([-2.5, -1.5]), np.array([-2.0, 1.0])  # two examples


def errors_at(omega, errors):
    return np.stack([np.interp(omega, OMEGAS, column) for column in errors.T], axis=-1)


def a_step():
    rng = np.random.default_rng(0)
    x, eps, eps_hat = rng.standard_normal((3, 2, 2))
    step = Step(*map(jnp.asarray, (x, eps, S, T)))
    return step, Guess(jnp.asarray(eps_hat)), eps - eps_hat


@pytest.mark.parametrize("errors", [ERRORS, OF_DIMS], ids=["one", "per_dim"])
def test_divergence_is_that_of_two_normal_distributions(errors):
    with jax.enable_x64(True):
        step, guess, miss = a_step()
        kernel = FittedGaussian(jnp.asarray(OMEGAS), jnp.asarray(errors))
        odds = np.expm1(T - S)[:, None]
        at_t = errors_at(T, errors.reshape(3, -1)) * np.ones((2, 2))
        f, delta = 1 + odds * at_t, np.sqrt(odds) * miss
        want = np.empty((2, 2))
        for place in np.ndindex(2, 2):
            mean, variance = delta[place].reshape(1), f[place].reshape(1, 1)
            want[place] = gaussian_kl(np.zeros(1), np.eye(1), mean, variance)
        np.testing.assert_allclose(kernel.divergence(guess, step), want, rtol=1e-10)
        nodes, weights = gauss_hermite(8)
        ratios = [kernel.log_ratio(guess, step, jnp.full((2, 2), node)) for node in nodes]
        np.testing.assert_allclose(-np.tensordot(weights, ratios, 1), want, rtol=1e-10)


def test_errors_are_constant_beyond_the_levels():
    kernel = FittedGaussian(jnp.asarray(OMEGAS), jnp.asarray(ERRORS))
    odds = jnp.ones(4)
    levels = jnp.asarray([-9.0, -3.0, 2.0, 7.0])
    np.testing.assert_allclose(kernel.factor(levels, odds), [1.1, 1.1, 1.8, 1.8], rtol=1e-6)


@pytest.mark.parametrize("errors", [ERRORS, OF_DIMS], ids=["one", "per_dim"])
def test_variance_of_the_sampler_is_that_of_the_bound(errors):
    kernel = FittedGaussian(jnp.asarray(OMEGAS), jnp.asarray(errors))

    def plain(denoiser, z, omega_s, omega_t):
        return z, jnp.asarray(0.3)

    z = jnp.ones((3, 2))
    _, variance = kernel.widened(plain)(lambda z, omega: z, z, jnp.asarray(-2.5), jnp.asarray(-2.0))
    at_t = errors_at(np.array([-2.0]), errors.reshape(3, -1))
    want = 0.3 * (1 + np.expm1(0.5) * at_t)
    np.testing.assert_allclose(
        np.asarray(variance) * np.ones((3, 2)), want * np.ones((3, 2)), rtol=1e-6
    )
