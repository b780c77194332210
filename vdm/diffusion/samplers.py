"""From noise to data: one reverse step per sampler, and the scan over steps.

A sampler is a function `step(z_t, eps_hat, omega_s, omega_t, noise) -> z_s`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from vdm.diffusion.noise import alpha, fresh_noise, level, posterior, sigma
from vdm.typing import Denoiser, EndPoint, OmegaGrid

Step = Callable[[Array, Array, Array, Array, Array], Array]


def ancestral_step(
    z_t: Float[Array, "batch *dims"],
    eps_hat: Float[Array, "batch *dims"],
    omega_s: EndPoint,
    omega_t: EndPoint,
    noise: Float[Array, "batch *dims"],
) -> Float[Array, "batch *dims"]:
    """A draw of p(z_s | z_t) = q(z_s | z_t, x_hat) (VDM Eq. 33), also in the last step,
    where DDPM's algorithm 2 leaves the noise out."""
    mean, variance = posterior(z_t, eps_hat, omega_s, omega_t)
    return mean + jnp.sqrt(variance) * noise


def ddim_step(
    z_t: Float[Array, "batch *dims"],
    eps_hat: Float[Array, "batch *dims"],
    omega_s: EndPoint,
    omega_t: EndPoint,
    noise: Float[Array, "batch *dims"],
) -> Float[Array, "batch *dims"]:
    """z_s = alpha_s x_hat + sigma_s eps_hat, deterministic (DDIM Eq. 12 with its sigma = 0)."""
    del noise
    x_hat = (z_t - sigma(omega_t) * eps_hat) / alpha(omega_t)
    return alpha(omega_s) * x_hat + sigma(omega_s) * eps_hat


def sample(
    keys: Key[Array, " batch"],
    dims: tuple[int, ...],
    omegas: OmegaGrid,
    denoiser: Denoiser,
    step: Step,
) -> Float[Array, "batch *dims"]:
    """z_0 for every key, from z_1 ~ N(0, I) down the increasing grid `omegas` (T + 1 values, or
    T + 1 for each dimension).

    Each sample has a key of its own, so it does not depend on the batch it is drawn in.
    """

    noise_at = fresh_noise(keys, dims)

    def body(z_t: Array, index: Array) -> tuple[Array, None]:
        omega_s, omega_t = level(omegas, index - 1), level(omegas, index)
        eps_hat = denoiser(z_t, jnp.broadcast_to(omega_t, keys.shape + omegas.shape[1:]))
        return step(z_t, eps_hat, omega_s, omega_t, noise_at(index)), None

    num_steps = omegas.shape[0] - 1
    # index 0 is left for z_1, indices 1 .. T for the steps
    z_0, _ = jax.lax.scan(body, noise_at(jnp.zeros((), jnp.int32)), jnp.arange(num_steps, 0, -1))
    return z_0
