"""Samplers with the exact denoiser: moments of Gaussian data, propagated without noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm.diffusion import noise, samplers
from vdm.diffusion.exact import GaussianData, MixtureData


def variance_of_samples(step, std, omegas):
    """Var z_0 by propagation: a step is linear in (z_t, noise) for the Gaussian denoiser."""
    data, variance = GaussianData(std), 1.0
    one, zero = jnp.ones((1, 1)), jnp.zeros((1, 1))
    for s, t in zip(omegas[-2::-1], omegas[:0:-1], strict=True):
        from_z = step(one, data.eps_hat(one, t), s, t, zero)[0, 0]
        from_noise = step(zero, zero, s, t, one)[0, 0]
        variance = from_z**2 * variance + from_noise**2
    return float(variance)


@pytest.mark.parametrize("step", [samplers.ancestral_step, samplers.ddim_step])
@pytest.mark.parametrize("std", [0.3, 2.0])
def test_variance_converges_to_the_truth_with_first_order(step, std):
    with jax.enable_x64(True):
        # omega_1 = 14: z_1 ~ N(0, 1) is then exact to 1e-6
        want = float(
            noise.alpha(jnp.float64(-8.0)) ** 2 * std**2 + noise.sigma(jnp.float64(-8.0)) ** 2
        )
        errors = [
            abs(variance_of_samples(step, std, jnp.linspace(-8.0, 14.0, n + 1)) / want - 1)
            for n in (100, 200, 400)
        ]
    order = np.log2(errors[0] / errors[2]) / 2
    assert errors[2] < 0.1
    assert abs(order - 1) < 0.25


def test_ancestral_step_is_the_posterior_with_x_hat():
    # Bayes' rule with x = x_hat: precisions add.
    with jax.enable_x64(True):
        z, eps, xi = jax.random.normal(jax.random.key(0), (3, 4, 2), jnp.float64)
        s, t = jnp.float64(-1.5), jnp.float64(0.4)
        x_hat = (z - noise.sigma(t) * eps) / noise.alpha(t)
        scale = noise.alpha(t) / noise.alpha(s)
        step_var = noise.sigma(t) ** 2 - scale**2 * noise.sigma(s) ** 2
        var = 1 / (1 / noise.sigma(s) ** 2 + scale**2 / step_var)
        mean = var * (scale / step_var * z + noise.alpha(s) / noise.sigma(s) ** 2 * x_hat)
        got = samplers.ancestral_step(z, eps, s, t, xi)
        np.testing.assert_allclose(got, mean + jnp.sqrt(var) * xi, rtol=1e-10)


def test_ancestral_samples_of_a_mixture_have_its_moments():
    data = MixtureData(
        jnp.array([0.2, 0.8]), jnp.array([[-0.8, 0.0], [0.6, 0.3]]), jnp.array([0.1, 0.2])
    )
    keys = jax.random.split(jax.random.key(0), 4000)
    omegas = jnp.linspace(-10.0, 10.0, 201)
    z_0 = samplers.sample(keys, (2,), omegas, data.eps_hat, samplers.ancestral_step)
    left = np.mean(np.asarray(z_0)[:, 0] < -0.2)
    assert abs(left - 0.2) < 0.025  # 4 standard errors
    np.testing.assert_allclose(z_0.mean(0), [0.32, 0.24], atol=0.04)
    var_x = 0.2 * (0.64 + 0.01) + 0.8 * (0.36 + 0.04) - 0.32**2
    np.testing.assert_allclose(z_0[:, 0].var(), var_x, rtol=0.06)


def test_a_sample_does_not_depend_on_its_batch():
    data, omegas = GaussianData(0.5), jnp.linspace(-8.0, 5.0, 6)
    keys = jax.random.split(jax.random.key(3), 8)

    def draw(keys):
        return samplers.sample(keys, (4,), omegas, data.eps_hat, samplers.ancestral_step)

    np.testing.assert_allclose(draw(keys)[2:5], draw(keys[2:5]), atol=1e-6)
