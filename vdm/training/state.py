"""What a training run is at one step: arrays only, donated to the next step, saved whole."""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from vdm.typing import Params, PRNGKey, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Randomness and data follow from `step` and the seed, so nothing else is needed to resume."""

    step: Int[Array, ""]
    params: Params
    ema_params: Params
    opt_state: PyTree


class Initialised(Protocol):
    """A model without its parameters."""

    def init(self, key: PRNGKey) -> Params:
        """Its parameters."""
        ...


def init_state(
    model: Initialised,
    optimizer: optax.GradientTransformation,
    key: PRNGKey,
    params: Params | None = None,
) -> TrainState:
    """The state before the first step, from `params` or freshly initialised ones."""
    params = model.init(key) if params is None else params
    # A copy: the step donates its state, and no buffer may be donated twice.
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(params),
    )
