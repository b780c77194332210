import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm.diffusion import noise
from vdm.diffusion.predictions import PREDICTIONS, convert


def truth(dtype):
    """z, omega, omega_s, and each meaning's output written from its definition."""
    omega = jnp.linspace(-9.0, 8.0, 7, dtype=dtype)
    x, eps = jax.random.normal(jax.random.key(1), (2, 7, 3, 2), dtype)
    return outputs_of(x, eps, omega)


@jax.jit
def outputs_of(x, eps, omega):
    omega_s = omega - 0.3
    z = noise.diffuse(x, eps, omega)
    a, s = (noise.expand(f(omega), z) for f in (noise.alpha, noise.sigma))
    mean, _ = noise.posterior(z, eps, omega_s, omega)
    outputs = {"eps": eps, "x": x, "v": a * eps - s * x, "score": -eps / s, "next_mean": mean}
    return z, omega, omega_s, outputs


converted = jax.jit(convert, static_argnums=(1, 2))


def test_truth_covers_every_prediction():
    assert set(truth(jnp.float32)[-1]) == set(PREDICTIONS)


@pytest.mark.parametrize(("source", "target"), list(itertools.product(PREDICTIONS, repeat=2)))
@pytest.mark.equation("S4 92", "vdm.diffusion.predictions:convert")
@pytest.mark.equation("S1 1.105", "vdm.diffusion.predictions:convert")
@pytest.mark.equation("S1 1.115", "vdm.diffusion.predictions:convert")
def test_every_pair_converts_exactly(source, target):
    with jax.enable_x64(True):
        z, omega, omega_s, outputs = truth(jnp.float64)
        got = converted(outputs[source], source, target, z, omega, omega_s)
        np.testing.assert_allclose(got, outputs[target], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("source", ["eps", "x", "v", "score"])
def test_eps_survives_float32_at_any_noise_level(source):
    # x at low noise is the hard one: eps = (z - alpha x) / sigma divides by sigma = 0.011.
    z, omega, _, outputs = truth(jnp.float32)
    got = converted(outputs[source], source, "eps", z, omega)
    np.testing.assert_allclose(got, outputs["eps"], atol=1e-4)


def test_next_mean_in_continuous_time_is_refused():
    with pytest.raises(ValueError, match="finite step"):
        convert(jnp.zeros((2, 3)), "eps", "next_mean", jnp.zeros((2, 3)), jnp.zeros(2))


def test_unknown_prediction_is_named():
    with pytest.raises(ValueError, match="unknown prediction 'epsilon'"):
        convert(jnp.zeros((2, 3)), "epsilon", "x", jnp.zeros((2, 3)), jnp.zeros(2))
