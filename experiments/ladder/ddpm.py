"""Rung 4, the DDPM: a hierarchical VAE whose encoder is fixed.

It makes three restrictions on rung 3 (S1 section 1.3.3; Luo 2022, arXiv:2208.11970, section on
VDMs): every latent has the dimension of the data; the encoder is not learned but the linear
Gaussian q(z_t | z_s) = N(alpha_{t|s} z_s, sigma^2_{t|s} I); and its last latent is almost N(0, I).
Only one network for all levels remains to be learned,

    p(z_s | z_t) = q(z_s | z_t, x = x_hat(z_t)).

As in Ho et al. 2020 (arXiv:2006.11239) there are T = 1000 levels, beta is linear from 1e-4 to 0.02,
and the training loss omits the weights of the bound.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm.diffusion.hierarchy import Kernel, Normal, log_density, log_standard
from vdm.diffusion.noise import alpha, posterior, sigma, transition
from vdm.typing import Denoiser

NUM_LEVELS = 1000
OVERRIDES = {
    "train.num_steps": 500,
    "network.kwargs.num_blocks": 1,
    "model.prediction": "eps",
    "model.num_steps": NUM_LEVELS - 1,  # the steps between that many levels
    "schedule.name": "ddpm_linear",
    "schedule.train": "fixed",
    "weighting.name": "simple",
    "eval.num_steps": NUM_LEVELS - 1,
}
"""The changes that turn configs/digits.py into a DDPM."""


def as_hierarchy(
    omegas: Float[Array, " levels"], denoiser: Denoiser
) -> tuple[list[Kernel], list[Kernel]]:
    """Writes the DDPM as (encoders, decoders) of `vdm.diffusion.hierarchy`, for the levels at these
    omegas.

    The first encoder is q(z_0 | x). p(x | z_0) is the likelihood, so it has no decoder here.
    """

    def from_data(x: Array) -> Normal:
        return Normal(alpha(omegas[0]) * x, _log_variance(sigma(omegas[0]) ** 2, x))

    def up(index: int) -> Kernel:
        scale, variance = transition(omegas[index - 1], omegas[index])
        return lambda z_s: Normal(scale * z_s, _log_variance(variance, z_s))

    def down(index: int) -> Kernel:
        def kernel(z_t: Array) -> Normal:
            omega_t = jnp.broadcast_to(omegas[index], z_t.shape[:1])
            eps_hat = denoiser(z_t, omega_t)
            mean, variance = posterior(z_t, eps_hat, omegas[index - 1], omegas[index])
            return Normal(mean, _log_variance(variance, z_t))

        return kernel

    steps = range(1, len(omegas))
    return [from_data, *map(up, steps)], list(map(down, steps))


def log_weight(
    x: Float[Array, "batch *dims"],
    latents: Sequence[Float[Array, "batch *dims"]],
    omegas: Float[Array, " levels"],
    denoiser: Denoiser,
    log_p_x: Float[Array, " batch"],
) -> Float[Array, " batch"]:
    """log p(x, z) - log q(z | x) along a path, nats, with q factored from the top as in the DDPM's
    bound (S1 1.62): q(z_1 | x) prod q(z_s | z_t, x). `vdm.diffusion.hierarchy.log_weight` of
    `as_hierarchy` factors q from the bottom instead."""
    omega_1, z_1 = omegas[-1], latents[-1]
    first = Normal(alpha(omega_1) * x, _log_variance(sigma(omega_1) ** 2, x))
    weight = log_p_x + log_standard(z_1) - log_density(first, z_1)
    for z_s, z_t, omega_s, omega_t in zip(
        latents[:-1], latents[1:], omegas[:-1], omegas[1:], strict=True
    ):
        true_eps = (z_t - alpha(omega_t) * x) / sigma(omega_t)
        eps_hat = denoiser(z_t, jnp.broadcast_to(omega_t, z_t.shape[:1]))
        for sign, eps in ((1, eps_hat), (-1, true_eps)):
            mean, variance = posterior(z_t, eps, omega_s, omega_t)
            weight += sign * log_density(Normal(mean, _log_variance(variance, x)), z_s)
    return weight


def _log_variance(variance: Array, like: Array) -> Array:
    return jnp.log(variance).reshape((1,) * like.ndim)
