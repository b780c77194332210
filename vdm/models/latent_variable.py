"""What is asked of a model without a schedule, such as a VAE."""

from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Key, Shaped

from vdm.devices.keys import root_key
from vdm.diffusion.elbo import (
    ElboTerms,
)
from vdm.models.interface import num_codes
from vdm.models.vdm import VDM
from vdm.typing import Likelihood, Params, PRNGKey


class LatentVariableModel(Protocol):
    """A model without a schedule, such as a VAE: all that training, evaluation and sampling ask of
    one of the user's own (config.model.name). A frozen dataclass: compiled evaluations are kept by
    its hash."""

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape of an example."""
        ...

    @property
    def num_levels(self) -> int:
        """How many latents stand above one another."""
        ...

    @property
    def likelihood(self) -> Likelihood:
        """p(data | what the decoder gives)."""
        ...

    def init(self, key: PRNGKey) -> Params:
        """Parameters: {"network": ...}, float32."""
        ...

    def elbo(
        self,
        params: Params,
        data: Shaped[Array, "batch *dims"],
        keys: Key[Array, " batch"],
        dropout_key: PRNGKey | None = None,
    ) -> ElboTerms:
        """One estimate of the negative bound for each example, nats, from its own key alone."""
        ...

    def sample(
        self, params: Params, keys: Key[Array, " batch"]
    ) -> tuple[Shaped[Array, "batch *dims"], Bool[Array, " batch"]]:
        """Data, one example for each key, and whether the numbers that they were made of were
        finite (`finite`), which codes do not tell."""
        ...


AnyModel = VDM | LatentVariableModel


def check_methods(model: LatentVariableModel, params: Params) -> None:
    """ValueError where a model without a schedule gives other shapes than it should; params: their
    shapes."""
    dtype = jnp.int32 if num_codes(model) else jnp.float32
    keys = jax.eval_shape(lambda: jax.random.split(root_key(0), 2))
    data = jax.ShapeDtypeStruct((2, *model.dims), dtype)
    found = {
        "elbo": [
            term.shape for term in jax.tree.leaves(jax.eval_shape(model.elbo, params, data, keys))
        ],
        "sample": [part.shape for part in jax.eval_shape(model.sample, params, keys)],
    }
    asked = {"elbo": [(2,)] * 3, "sample": [(2, *model.dims), (2,)]}
    for method, shapes in found.items():
        if shapes != asked[method]:
            raise ValueError(
                f"{method} of two examples of {type(model).__name__} gives shapes {shapes}, not "
                f"{asked[method]}, as vdm.models.latent_variable.LatentVariableModel says"
            )
    if not isinstance(model.num_levels, int):
        raise ValueError(f"{type(model).__name__}.num_levels = {model.num_levels!r}: an integer")
