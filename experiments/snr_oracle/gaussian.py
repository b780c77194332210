"""Data x ~ N(0, I_D) with the ideal denoiser: the best schedule, and how good any other one is.

With r(omega) = sigmoid(-omega) and d = 1/2 ||eps - eps_hat||^2, E[d | omega] = D r / 2 and
E[d^2 | omega] = (D^2 + 2 D) r^2 / 4, so the density of omega with the least variance is
proportional to r.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vdm.diffusion.exact import GaussianData
from vdm.diffusion.schedule_algebra import omega_dot
from vdm.typing import ScheduleFn

POINTS = 1 << 14


class IdealDenoiser(nn.Module):
    """A network without parameters: the ideal denoiser E[eps | z_t] of x ~ N(0, I)."""

    def __call__(
        self,
        z: Float[Array, "b d"],
        omega: Float[Array, " b"],
        labels: Array | None = None,
        train: bool = False,
    ) -> Float[Array, "b d"]:
        """Computes eps_hat; labels and train are ignored."""
        return GaussianData(1.0).eps_hat(z, omega)


class Quality(NamedTuple):
    """The quality of a schedule: the variance of the denoising estimate and its variance within t
    (which remains with stratified times), both in (bits/dim)^2, and the total variation between
    p(omega) and the best density."""

    variance: float
    variance_stratified: float
    total_variation: float


def quality(schedule: ScheduleFn, num_dims: int) -> Quality:
    """Computes the quality of a schedule by the midpoint rule in t."""
    t = (jnp.arange(POINTS) + 0.5) / POINTS
    slope = np.asarray(jax.jit(lambda t: omega_dot(schedule, t))(t), np.float64)
    omega = np.asarray(schedule(t), np.float64)
    share = 1 / (1 + np.exp(omega))
    mean = 0.5 * num_dims * slope * share  # E[l | t]
    within = 2 / num_dims * mean**2  # Var(l | t)
    total = mean.mean()
    scale = (num_dims * np.log(2)) ** 2
    return Quality(
        variance=float((within.mean() + mean.var()) / scale),
        variance_stratified=float(within.mean() / scale),
        # p* / p = r omega' / integral of r
        total_variation=float(0.5 * np.mean(np.abs(1 - mean / total))),
    )


def best(omega_0: float, omega_1: float, num_dims: int) -> Quality:
    """The quality of the best schedule (density proportional to r(omega)) in closed form: l has the
    same moments at every t."""
    total = 0.5 * num_dims * (np.logaddexp(0, -omega_0) - np.logaddexp(0, -omega_1))
    variance = float(2 / num_dims * (total / (num_dims * np.log(2))) ** 2)
    return Quality(variance, variance, 0.0)
