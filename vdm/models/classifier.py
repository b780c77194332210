"""p(label | z_t) at every noise level: the classifier of classifier guidance."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vdm.diffusion.guidance import LogProb
from vdm.typing import Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class NoisyClassifier:
    """A network (z_t, omega) -> logits of num_classes labels, for examples of shape `dims`."""

    network: nn.Module
    dims: tuple[int, ...]
    num_classes: int

    def init(self, key: PRNGKey) -> Params:
        """{"network": parameters}, float32."""
        z, omega = jnp.zeros((1, *self.dims), jnp.float32), jnp.zeros(1, jnp.float32)
        return {"network": self.network.init(key, z, omega).get("params", {})}

    def log_probs(
        self,
        params: Params,
        z_t: Float[Array, "batch *dims"],
        omega: Float[Array, " batch"] | Float[Array, "batch *dims"],
        dropout_key: PRNGKey | None = None,
    ) -> Float[Array, "batch classes"]:
        """log p(label | z_t) of every label, nats; in training mode with a dropout_key."""
        logits: Any = self.network.apply(
            {"params": params["network"]},
            z_t,
            omega,
            train=dropout_key is not None,
            rngs={} if dropout_key is None else {"dropout": dropout_key},
        )
        return jax.nn.log_softmax(logits)

    def log_prob(self, params: Params, labels: Int[Array, " batch"]) -> LogProb:
        """(z_t, omega) -> log p(labels | z_t) [batch]."""

        def of_labels(z_t: Array, omega: Array) -> Array:
            log_probs = self.log_probs(params, z_t, omega)
            return jnp.take_along_axis(log_probs, labels[:, None], axis=-1)[:, 0]

        return of_labels
