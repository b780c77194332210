"""The state of a training at one step. It holds arrays only, and checkpoints store all of it."""

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
    """All that is needed to resume, because randomness and data follow from `step` and the seed."""

    step: Int[Array, ""]
    params: Params
    ema_params: Params
    opt_state: PyTree


class Initialised(Protocol):
    """A model that can initialise its parameters."""

    def init(self, key: PRNGKey) -> Params:
        """Returns fresh parameters."""
        ...


def init_state(
    model: Initialised,
    optimizer: optax.GradientTransformation,
    key: PRNGKey,
    params: Params | None = None,
) -> TrainState:
    """Returns the state before the first step, with `params` or fresh parameters."""
    params = model.init(key) if params is None else params
    # Copied, because the step donates its state, and no buffer may be donated twice.
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(params),
    )
