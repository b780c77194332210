"""Where a sampler steps: T + 1 values of omega from omega_0 to omega_1.

A grid is a function (schedule, num_steps) -> omegas [T + 1], or [T + 1, *dims] where every
dimension has a schedule of its own.
"""

from collections.abc import Callable

import jax.numpy as jnp

from vdm.typing import OmegaGrid, ScheduleFn

Grid = Callable[[ScheduleFn, int], OmegaGrid]


def equal_times(schedule: ScheduleFn, num_steps: int) -> OmegaGrid:
    """omega(t) at t = 0, 1/T ... 1: the steps of the T-step bound."""
    return schedule(jnp.linspace(0.0, 1.0, num_steps + 1))


def equal_omegas(schedule: ScheduleFn, num_steps: int) -> OmegaGrid:
    """Equal steps of omega between the schedule's ends, whatever lies between."""
    omega_0, omega_1 = schedule(jnp.array([0.0, 1.0]))
    return jnp.linspace(omega_0, omega_1, num_steps + 1)


def karras(rho: float = 7.0) -> Grid:
    """Equal steps of r^(1/rho), r = sigma / alpha = exp(omega / 2) (Karras et al. 2022,
    arXiv:2206.00364, Eq. 5): shorter in omega at the noisy end."""
    if not rho > 0:
        raise ValueError(f"rho = {rho}: it must be positive")

    def grid(schedule: ScheduleFn, num_steps: int) -> OmegaGrid:
        low, high = jnp.exp(schedule(jnp.array([0.0, 1.0])) / (2 * rho))
        return 2 * rho * jnp.log(jnp.linspace(low, high, num_steps + 1))

    return grid
