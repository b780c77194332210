"""Grids: the T + 1 values of omega, from omega_0 to omega_1, at which a sampler steps.

A grid is a function (schedule, num_steps) -> omegas [T + 1], or [T + 1, *dims] if every dimension
has its own schedule. It is hashable, because what is compiled for a grid is kept by it.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from vdm.diffusion.interning import interned
from vdm.typing import OmegaGrid, ScheduleFn

Grid = Callable[[ScheduleFn, int], OmegaGrid]


def equal_times(schedule: ScheduleFn, num_steps: int) -> OmegaGrid:
    """omega(t) at the equally spaced times t = 0, 1/T ... 1, as in the T-step bound."""
    return schedule(between(0.0, 1.0, num_steps))


def equal_omegas(schedule: ScheduleFn, num_steps: int) -> OmegaGrid:
    """Equal steps of omega between the schedule's ends; its interior does not matter."""
    omega_0, omega_1 = schedule(jnp.array([0.0, 1.0]))
    return between(omega_0, omega_1, num_steps)


def least_bound(schedule: ScheduleFn, num_steps: int) -> OmegaGrid:
    """The levels of least bound, which `vdm.runs.levels` chooses for a trained model and makes its
    schedule. A schedule alone does not determine them, so calling this raises ValueError."""
    del schedule
    raise ValueError(
        f"the grid 'least_bound' of {num_steps} steps follows from costs measured on training "
        "images: draw samples by a run or by vdm.load(...).sample, or choose 'equal_times'"
    )


@interned
def karras(rho: float = 7.0) -> Grid:
    """Equal steps of r^(1/rho), r = sigma / alpha = exp(omega / 2) (Karras et al. 2022,
    arXiv:2206.00364, Eq. 5). In omega the steps are shorter at the noisy end."""
    if not rho > 0:
        raise ValueError(f"rho = {rho}: it must be positive")

    def grid(schedule: ScheduleFn, num_steps: int) -> OmegaGrid:
        low, high = jnp.exp(schedule(jnp.array([0.0, 1.0])) / (2 * rho))
        return 2 * rho * jnp.log(between(low, high, num_steps))

    return grid


def between(first: ArrayLike, last: ArrayLike, num_steps: int) -> Array:
    """num_steps + 1 equally spaced values from `first` to `last`, shape [T + 1, *shape], where the
    first and the last value are exact.

    `jnp.linspace` computes the same, but fused with a schedule it does not compile for NVIDIA GPUs
    with jax 0.10.2 (at T = 250, 500 and 1,000). The last value is set explicitly because XLA
    multiplies by 1 / T and would end at 0.99999994 for 51 of the T below 400.
    """
    first, last = jnp.asarray(first, float), jnp.asarray(last, float)
    step = jnp.arange(num_steps + 1).reshape(-1, *(1,) * first.ndim)
    share = step / num_steps
    return jnp.where(step < num_steps, (1 - share) * first + share * last, last)
