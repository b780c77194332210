"""The schedule of levels that were chosen for T steps."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vdm.nn.schedules import between_levels


class ChosenLevels(nn.Module):
    """Levels of num_steps = T steps as a parameter, omega(i / T) = omegas[i], so that whatever
    takes T steps at equal times takes these. `vdm.runs.levels` gives it to a trained model."""

    num_steps: int

    @nn.compact
    def __call__(self, t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        line = np.linspace(-13.3, 5.0, self.num_steps + 1, dtype=np.float32)
        return between_levels(self.param("omegas", lambda _: jnp.asarray(line)), t)
