"""Weightings of the denoising term, which give training losses other than the bound.

L_w = 1/2 E[w(omega) omega'(t) ||eps - eps_hat||^2] (VDM++ = Kingma & Gao 2023, arXiv:2303.00848)
is the bound's denoising term for w = 1 and not a bound for any other w. A weighting is a function
(omega_t, weight) -> w > 0 in the shape of both; weight is that of `elbo.NoiseLevels`: omega'(t), or
T expm1(omega_t - omega_s) for T steps. Papers that weight ||eps - eps_hat||^2 under the schedule's
own density of omega have no factor omega'(t); their weightings are divided by it here.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm.diffusion.interning import interned

Weighting = Callable[[Array, Array], Array]
"""(omega_t, weight) -> the positive multiplier of an example's denoising estimate."""


def bound(omega_t: Float[Array, "*shape"], weight: Float[Array, "*shape"]) -> Array:
    """The multiplier 1, which leaves the bound itself."""
    del omega_t
    return jnp.ones_like(weight)


def simple(omega_t: Float[Array, "*shape"], weight: Float[Array, "*shape"]) -> Array:
    """The multiplier 1 / weight, which leaves 1/2 ||eps - eps_hat||^2, the simple loss of DDPM (Ho
    et al. 2020, arXiv:2006.11239, Eq. 14), under the schedule's own density of omega."""
    del omega_t
    return 1 / weight


@interned
def min_snr(gamma: float = 5.0) -> Weighting:
    """The multiplier min(1, gamma / SNR) / weight, SNR = exp(-omega): like `simple`, but the weight
    of ||x - x_hat||^2 is at most gamma (Hang et al. 2023, arXiv:2303.09556, for a network that
    predicts eps). Raises ValueError unless gamma > 0."""
    if not gamma > 0:
        raise ValueError(f"weighting 'min_snr': gamma = {gamma} must be positive")

    def multiplier(omega_t: Float[Array, "*shape"], weight: Float[Array, "*shape"]) -> Array:
        # The exponent is limited first, as exp overflows float32 from omega = 89 on.
        return gamma * jnp.exp(jnp.minimum(omega_t, -math.log(gamma))) / weight

    return multiplier


@interned
def sigmoid(shift: float = 2.0) -> Weighting:
    """The multiplier sigmoid(omega + shift), VDM++'s sigmoid(-lambda + k): it increases with the
    noise (VDM++ calls that monotonic) and tends to 1, the bound's, for pure noise."""

    def multiplier(omega_t: Float[Array, "*shape"], weight: Float[Array, "*shape"]) -> Array:
        del weight
        return jax.nn.sigmoid(omega_t + shift)

    return multiplier
