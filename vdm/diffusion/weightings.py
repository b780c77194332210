"""Weightings of the denoising term: what a network may be trained on instead of the bound.

L_w = 1/2 E[w(omega) omega'(t) ||eps - eps_hat||^2] (VDM++ = Kingma & Gao 2023, arXiv:2303.00848)
is the bound's denoising term for w = 1 and no bound for any other w. A weighting is a function
(omega_t, weight) -> w > 0, shape of both; weight is that of `elbo.NoiseLevels`, omega'(t) or for T
steps T expm1(omega_t - omega_s). Published weightings of ||eps - eps_hat||^2 under the density of
omega that the schedule makes, without omega'(t), are divided by it.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Weighting = Callable[[Array, Array], Array]
"""(omega_t, weight) -> the multiplier of an example's denoising estimate; positive."""


def bound(omega_t: Float[Array, "*shape"], weight: Float[Array, "*shape"]) -> Array:
    """1: the bound itself."""
    del omega_t
    return jnp.ones_like(weight)


def simple(omega_t: Float[Array, "*shape"], weight: Float[Array, "*shape"]) -> Array:
    """1 / weight: what is left is 1/2 ||eps - eps_hat||^2, the simple loss of DDPM (Ho et al. 2020,
    arXiv:2006.11239, Eq. 14), under the schedule's own density of omega."""
    del omega_t
    return 1 / weight


def min_snr(gamma: float = 5.0) -> Weighting:
    """min(1, gamma / SNR) / weight, SNR = exp(-omega): `simple`, but not more than gamma for
    ||x - x_hat||^2 (Hang et al. 2023, arXiv:2303.09556, for a network that predicts eps)."""
    if not gamma > 0:
        raise ValueError(f"weighting 'min_snr': gamma = {gamma} must be positive")

    def multiplier(omega_t: Float[Array, "*shape"], weight: Float[Array, "*shape"]) -> Array:
        # The exponent is cut off first: exp overflows float32 from omega = 89 on.
        return gamma * jnp.exp(jnp.minimum(omega_t, -math.log(gamma))) / weight

    return multiplier


def sigmoid(shift: float = 2.0) -> Weighting:
    """sigmoid(omega + shift), VDM++'s sigmoid(-lambda + k): it increases with the noise, what
    VDM++ calls a monotonic weighting, and tends to the bound's 1 where noise is all."""

    def multiplier(omega_t: Float[Array, "*shape"], weight: Float[Array, "*shape"]) -> Array:
        del weight
        return jax.nn.sigmoid(omega_t + shift)

    return multiplier
