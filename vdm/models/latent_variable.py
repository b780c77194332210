"""The interface of a model without a noise schedule, such as a VAE."""

from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Key, Shaped

from vdm.devices.keys import root_key
from vdm.diffusion.elbo import (
    ElboTerms,
)
from vdm.diffusion.interning import kept
from vdm.models.interface import num_codes
from vdm.models.vdm import VDM
from vdm.typing import Likelihood, Params, PRNGKey


class LatentVariableModel(Protocol):
    """A model without a noise schedule, such as a VAE (config.model.name).

    These members are all that training, evaluation and sampling use. Write it as a frozen
    dataclass, because compiled functions are cached by its hash.
    """

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape of an example."""
        ...

    @property
    def num_levels(self) -> int:
        """The number of latents in the hierarchy."""
        ...

    @property
    def likelihood(self) -> Likelihood:
        """p(data | output of the decoder)."""
        ...

    def init(self, key: PRNGKey) -> Params:
        """Returns fresh parameters {"network": ...}, float32."""
        ...

    def elbo(
        self,
        params: Params,
        data: Shaped[Array, "batch *dims"],
        keys: Key[Array, " batch"],
        dropout_key: PRNGKey | None = None,
    ) -> ElboTerms:
        """Returns one estimate of the negative bound for each example, in nats. It may depend on
        the key of that example only."""
        ...

    def sample(
        self, params: Params, keys: Key[Array, " batch"]
    ) -> tuple[Shaped[Array, "batch *dims"], Bool[Array, " batch"]]:
        """Returns one example for each key, and whether the numbers behind each were finite, which
        integer codes no longer show (`vdm.models.vdm.finite`)."""
        ...


AnyModel = VDM | LatentVariableModel


@kept  # traced once for a model
def param_shapes(model: AnyModel) -> Params:
    """Returns the shapes and dtypes of the model's parameters."""
    return jax.eval_shape(model.init, root_key(0))


def check_methods(model: LatentVariableModel, params: Params) -> None:
    """Raises ValueError if a method of the model returns arrays of the wrong shapes.

    params: the shapes of its parameters; nothing is computed.
    """
    dtype = jnp.int32 if num_codes(model) else jnp.float32
    keys = jax.eval_shape(lambda: jax.random.split(root_key(0), 2))
    data = jax.ShapeDtypeStruct((2, *model.dims), dtype)
    shapes = {
        "elbo": [
            term.shape for term in jax.tree.leaves(jax.eval_shape(model.elbo, params, data, keys))
        ],
        "sample": [part.shape for part in jax.eval_shape(model.sample, params, keys)],
    }
    expected = {"elbo": [(2,)] * 3, "sample": [(2, *model.dims), (2,)]}
    for method, returned in shapes.items():
        if returned != expected[method]:
            raise ValueError(
                f"{method} of two examples of {type(model).__name__} returns shapes "
                f"{returned}: they must be {expected[method]}, see "
                "vdm.models.latent_variable.LatentVariableModel"
            )
    if not isinstance(model.num_levels, int):
        raise ValueError(
            f"{type(model).__name__}.num_levels = {model.num_levels!r}: it must be an integer"
        )
