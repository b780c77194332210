"""The exact moments of z_0, without sampling: with Gaussian data a step of every sampler is affine
in z_t and the noise, so that its mean and variance follow from derivatives of one path."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vdm.diffusion.noise import alpha, sigma
from vdm.diffusion.samplers import Sampler, run_chain

OMEGA_0, OMEGA_1 = -8.0, 5.0
MEAN, STD = 0.7, 0.5


def eps_hat(z: Array, omega: Array) -> Array:
    """The ideal denoiser E[eps | z_t] for x ~ N(MEAN, STD^2)."""
    omega = omega[:, None]
    variance = jnp.square(alpha(omega) * STD) + jnp.square(sigma(omega))
    return sigma(omega) * (z - alpha(omega) * MEAN) / variance


def moments_of_data(omega: Array) -> tuple[Array, Array]:
    """The mean and standard deviation of q(z_t)."""
    return alpha(omega) * MEAN, jnp.sqrt(jnp.square(alpha(omega) * STD) + jnp.square(sigma(omega)))


def moments(sampler: Sampler, num_steps: int, draws: int = 1) -> tuple[Array, Array]:
    """The mean and standard deviation of z_0 after num_steps equal steps of omega from q(z_1).

    draws: number of noise draws in each step.
    """
    omegas = jnp.linspace(OMEGA_0, OMEGA_1, num_steps + 1)
    mean_1, std_1 = moments_of_data(omegas[-1])

    def z_0(z_1: Array, noise: Array) -> Array:
        return run_chain(z_1, lambda i: noise[i], omegas, eps_hat, sampler).z_0[0, 0]

    start = mean_1[None, None], jnp.zeros(((num_steps + 1) * draws, 1, 1))
    mean, (by_z, by_noise) = jax.value_and_grad(z_0, argnums=(0, 1))(*start)
    variance = jnp.sum(jnp.square(by_z * std_1)) + jnp.sum(jnp.square(by_noise))
    return mean, jnp.sqrt(variance)


def error(sampler: Sampler, num_steps: int, draws: int = 1) -> float:
    """The Wasserstein-2 distance of z_0 from q(z_0), both normal."""
    with jax.enable_x64(True):
        computed = jax.jit(lambda: moments(sampler, num_steps, draws))()
        expected = moments_of_data(jnp.asarray(OMEGA_0))
        return float(np.hypot(*(a - b for a, b in zip(computed, expected, strict=True))))


def fitted_order(steps: list[int], errors: list[float]) -> float:
    """The order of convergence, -d log(error) / d log(steps), by least squares."""
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])
