"""Times t in [0, 1) at which the denoising term is estimated."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm.typing import PRNGKey


def low_discrepancy(key: PRNGKey, num: int) -> Float[Array, " num"]:
    """Draws the times t_i = frac(u + i / num) with one shared u ~ U(0, 1) (VDM appendix I.1).

    Each t_i is uniform by itself; together they cover [0, 1) evenly, which removes most of
    the estimate's variance over t. `num` is the size of the global batch, not of one device's.
    """
    u = jax.random.uniform(key, (), jnp.float32)
    return jnp.mod(u + jnp.arange(num, dtype=jnp.float32) / num, 1.0)


def step_interval(
    t: Float[Array, "*shape"], num_steps: int
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Both ends (s, t) of the step that contains a drawn t in [0, 1): t is rounded up to one of
    {1/T, ..., 1} and s = t - 1/T, for T = num_steps >= 1."""
    # ceil(t T) / T would give t = 0 at an exact tie. The minimum is for a t T that rounds up to T.
    index = jnp.minimum(jnp.floor(t * num_steps), num_steps - 1)
    return index / num_steps, (index + 1) / num_steps
