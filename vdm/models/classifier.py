"""The classifier p(label | z_t) of noisy examples, which classifier guidance uses."""

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
    """Predicts labels from noisy examples of shape `dims`, at every noise level.

    network: a flax module, called with (z_t, omega), that returns num_classes logits.
    """

    network: nn.Module
    dims: tuple[int, ...]
    num_classes: int

    def init(self, key: PRNGKey) -> Params:
        """Returns fresh parameters {"network": ...}, float32."""
        z, omega = jnp.zeros((1, *self.dims), jnp.float32), jnp.zeros(1, jnp.float32)
        return {"network": self.network.init(key, z, omega).get("params", {})}

    def log_probs(
        self,
        params: Params,
        z_t: Float[Array, "batch *dims"],
        omega: Float[Array, " batch"] | Float[Array, "batch *dims"],
        dropout_key: PRNGKey | None = None,
    ) -> Float[Array, "batch classes"]:
        """Returns log p(label | z_t) of every label, nats. With a dropout_key the network is in
        training mode."""
        logits: Any = self.network.apply(
            {"params": params["network"]},
            z_t,
            omega,
            train=dropout_key is not None,
            rngs={} if dropout_key is None else {"dropout": dropout_key},
        )
        return jax.nn.log_softmax(logits)

    def log_prob(self, params: Params, labels: Int[Array, " batch"]) -> LogProb:
        """Returns a function (z_t, omega) -> log p(labels | z_t) [batch], nats."""

        def label_log_prob(z_t: Array, omega: Array) -> Array:
            log_probs = self.log_probs(params, z_t, omega)
            return jnp.take_along_axis(log_probs, labels[:, None], axis=-1)[:, 0]

        return label_log_prob
