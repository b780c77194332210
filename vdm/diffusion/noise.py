"""The forward process: noise levels, q(z_t | x), q(z_t | z_s), q(z_s | z_t, x).

Sources: VDM = Kingma et al. 2021 (arXiv:2107.00630), section 3.1 and appendix A.
alpha^2 here is the cumulative alpha-bar of DDPM; its per-step alpha_t is our
alpha_t^2 / alpha_{t-1}^2.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from vdm.typing import OmegaGrid, PerExample

NoiseFn = Callable[[Array], Array]
"""The index of a point on a path -> its noise [batch, *dims]."""


def expand(value: Float[Array, "..."], like: Float[Array, "batch *dims"]) -> Float[Array, "..."]:
    """Appends axes to a value per example, of shape () or (batch,), so that it broadcasts against
    `like`. A value per dimension (the shape of `like`) is returned unchanged.
    """
    if value.ndim in (0, like.ndim):
        return value
    if value.shape != like.shape[:1]:
        raise ValueError(
            f"cannot spread shape {value.shape} over examples of shape {like.shape}: give one "
            "value, one for each example, or one for each of their dimensions"
        )
    return value.reshape(value.shape + (1,) * (like.ndim - 1))


def level(omegas: OmegaGrid, index: Array) -> Float[Array, "..."]:
    """One point of a grid of omega that broadcasts against a batch: of shape (), or [1, *dims] if
    every dimension has its own grid."""
    return omegas[index] if omegas.ndim == 1 else omegas[index][None]


def alpha(omega: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The scale of x in z_t, alpha = sqrt(sigmoid(-omega))."""
    return jnp.exp(-0.5 * jax.nn.softplus(omega))


def sigma(omega: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The standard deviation of the noise in z_t, sigma = sqrt(sigmoid(omega))."""
    return jnp.exp(-0.5 * jax.nn.softplus(-omega))


def snr(omega: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The signal-to-noise ratio, alpha^2 / sigma^2 = exp(-omega) (VDM Eq. 2)."""
    return jnp.exp(-omega)


def diffuse(
    x: Float[Array, "batch *dims"], eps: Float[Array, "batch *dims"], omega: PerExample
) -> Float[Array, "batch *dims"]:
    """Adds noise to x: z_t = alpha x + sigma eps, a draw of q(z_t | x) if eps ~ N(0, I) (VDM
    Eq. 1)."""
    omega = expand(omega, x)
    return alpha(omega) * x + sigma(omega) * eps


def transition(
    omega_s: Float[Array, "*shape"], omega_t: Float[Array, "*shape"]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """The pair alpha_{t|s}, sigma^2_{t|s} of q(z_t | z_s) = N(alpha_{t|s} z_s, sigma^2_{t|s} I).

    s < t, so omega_s <= omega_t. VDM Eq. 20-22 (appendix A.1).
    """
    log_alpha_squared = jax.nn.softplus(omega_s) - jax.nn.softplus(omega_t)
    # The variance is also -expm1(log_alpha_squared), but that form starts from a difference of two
    # softplus: at omega = 5 and a step of 1e-3 it is 1.5e-4 off in float32, this form 2e-7.
    return jnp.exp(0.5 * log_alpha_squared), -jax.nn.sigmoid(omega_t) * jnp.expm1(omega_s - omega_t)


def fresh_noise(
    keys: Key[Array, " batch"], dims: tuple[int, ...], dtype: DTypeLike = jnp.float32
) -> NoiseFn:
    """Makes a function from the index of a point on a path to standard normal noise. An example's
    noise depends only on its own key and the index, not on the batch it is in."""

    def noise_at(index: Array) -> Array:
        return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, index), dims, dtype))(
            keys
        )

    return noise_at


def posterior(
    z_t: Float[Array, "batch *dims"],
    eps: Float[Array, "batch *dims"],
    omega_s: PerExample,
    omega_t: PerExample,
) -> tuple[Float[Array, "batch *dims"], Float[Array, "..."]]:
    """The mean and variance of q(z_s | z_t, x), with x written as (z_t - sigma_t eps) / alpha_t.

    mean = (alpha_s / alpha_t) (z_t - sigma_t c eps), variance = sigma_s^2 c,
    c = -expm1(omega_s - omega_t). With the network's eps_hat in place of eps the same
    function gives p(z_s | z_t). VDM Eq. 23-25 (appendix A.2) and 31-33 (A.4). The variance has
    as many axes as z_t; an axis along which it is constant has size one.
    """
    omega_s, omega_t = expand(omega_s, z_t), expand(omega_t, z_t)
    c = -jnp.expm1(omega_s - omega_t)
    alpha_ratio = jnp.exp(0.5 * (jax.nn.softplus(omega_t) - jax.nn.softplus(omega_s)))
    mean = alpha_ratio * (z_t - sigma(omega_t) * c * eps)
    return mean, jax.nn.sigmoid(omega_s) * c
