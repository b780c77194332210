"""What a network may predict, and how to convert one kind of prediction to another.

Given z_t and omega, each of eps, x, v, the score and the mean of the next step is a linear function
of any other, so the bound is one function of eps_hat whatever the network predicts. Sources: VDM
appendix A and K; v: Salimans & Ho 2022 (arXiv:2202.00512) appendix D; score and next-step mean:
Luo 2022 (arXiv:2208.11970) Eq. 84-151.

Every entry of the table converts one kind of output: from (z, output) to (x, eps), and from
(x, eps, z) back to the output. Going through both x and eps keeps the coefficients at or below one
wherever the conversion allows it.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm.diffusion.noise import alpha, expand, sigma, transition
from vdm.typing import PerExample


class NoisePoint(NamedTuple):
    """z_t with its noise level, and omega_s at the end of the next step if there is one."""

    z: Float[Array, "batch *dims"]
    alpha: Float[Array, "..."]
    sigma: Float[Array, "..."]
    omega: Float[Array, "..."]
    omega_s: Float[Array, "..."] | None


class Prediction(NamedTuple):
    """The two conversions of one kind of network output."""

    to_x_and_eps: Callable[[NoisePoint, Array], tuple[Array, Array]]
    from_x_and_eps: Callable[[NoisePoint, Array, Array], Array]


def _next_omega(p: NoisePoint) -> Array:
    if p.omega_s is None:
        raise ValueError(
            "prediction 'next_mean' is the mean of a finite step: give omega_s, or choose one of "
            "'eps', 'x', 'v', 'score' for continuous time"
        )
    return p.omega_s


def _next_mean_to_x_and_eps(p: NoisePoint, mean: Array) -> tuple[Array, Array]:
    omega_s = _next_omega(p)
    alpha_ratio = jnp.exp(0.5 * (jax.nn.softplus(omega_s) - jax.nn.softplus(p.omega)))
    eps = (p.z - alpha_ratio * mean) / (-jnp.expm1(omega_s - p.omega) * p.sigma)
    return (p.z - p.sigma * eps) / p.alpha, eps


def _next_mean_from_x_and_eps(p: NoisePoint, x: Array, eps: Array) -> Array:
    omega_s = _next_omega(p)
    alpha_ts, _ = transition(omega_s, p.omega)
    return alpha(omega_s) * x + alpha_ts * jax.nn.sigmoid(omega_s) / p.sigma * eps


PREDICTIONS: MappingProxyType[str, Prediction] = MappingProxyType(
    {
        # z = alpha x + sigma eps
        "eps": Prediction(
            lambda p, eps: ((p.z - p.sigma * eps) / p.alpha, eps),
            lambda p, x, eps: eps,
        ),
        "x": Prediction(
            lambda p, x: (x, (p.z - p.alpha * x) / p.sigma),
            lambda p, x, eps: x,
        ),
        # v = alpha eps - sigma x, the velocity on the circle alpha^2 + sigma^2 = 1
        "v": Prediction(
            lambda p, v: (p.alpha * p.z - p.sigma * v, p.sigma * p.z + p.alpha * v),
            lambda p, x, eps: p.alpha * eps - p.sigma * x,
        ),
        # grad log q(z | x) = -eps / sigma; with E[eps | z] for eps, the marginal score (Tweedie)
        "score": Prediction(
            lambda p, score: ((p.z + p.sigma**2 * score) / p.alpha, -p.sigma * score),
            lambda p, x, eps: -eps / p.sigma,
        ),
        # mean of q(z_s | z, x) = alpha_s x + alpha_{t|s} sigma_s^2 / sigma_t eps
        "next_mean": Prediction(_next_mean_to_x_and_eps, _next_mean_from_x_and_eps),
    }
)


def convert(
    output: Float[Array, "batch *dims"],
    source: str,
    target: str,
    z: Float[Array, "batch *dims"],
    omega: PerExample,
    omega_s: PerExample | None = None,
) -> Float[Array, "batch *dims"]:
    """Converts a network output of kind `source` to kind `target`, in the shape of z.

    omega is the noise level of z; omega_s, which only 'next_mean' needs, is that at the end of the
    next step. Raises ValueError for an unknown kind, and for 'next_mean' without omega_s.
    """
    for name in (source, target):
        if name not in PREDICTIONS:
            raise ValueError(f"unknown prediction {name!r}; known: {', '.join(PREDICTIONS)}")
    if source == target:
        return output
    omega = expand(omega, z)
    point = NoisePoint(
        z, alpha(omega), sigma(omega), omega, None if omega_s is None else expand(omega_s, z)
    )
    x, eps = PREDICTIONS[source].to_x_and_eps(point, output)
    return PREDICTIONS[target].from_x_and_eps(point, x, eps)
