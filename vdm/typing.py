"""Types of arrays and the few interfaces that several layers share."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, Key, Shaped

PyTree = Any
Params = PyTree
PRNGKey = Key[Array, ""]

NO_LABEL = -1
"""The label of an example whose label is hidden from the model."""

# One value for all examples, one for each example, or one for each of its dimensions.
PerExample = Float[Array, ""] | Float[Array, " batch"] | Float[Array, "#batch *dims"]

# One value for each example, or one for each of its dimensions.
PerDraw = Float[Array, " batch"] | Float[Array, "batch *dims"]

# One value for all examples, or one for each dimension, either shared by all examples (an axis of
# size one) or for each of them.
EndPoint = Float[Array, ""] | Float[Array, "#batch *dims"]

# Increasing values of omega; [points, *dims] if every dimension has its own.
OmegaGrid = Float[Array, " points"] | Float[Array, "points *dims"]

ScheduleFn = Callable[[Array], Array]
"""t in [0, 1], of any shape -> omega = -log SNR(t), increasing in t, of the same shape; the axes of
an example are appended if every dimension has its own schedule."""

Denoiser = Callable[[Array, Array], Array]
"""(z_t [batch, *dims], omega [batch] or [batch, *dims]) -> eps_hat [batch, *dims]."""


Kernel = Callable[[Denoiser, Array, Any, Any], tuple[Array, Array]]
"""The reverse step p(z_s | z_t) = N(mean, variance): (denoiser, z_t, omega_s, omega_t) -> mean,
variance, for one noise level of the whole batch, or of each dimension."""


@runtime_checkable
class Likelihood(Protocol):
    """The distribution p(data | z_0), and the map between data (codes or real numbers) and x."""

    def encode(self, data: Shaped[Array, "..."]) -> Float[Array, "..."]:
        """Maps data to x, the scale at which noise is added ([-1, 1] for codes)."""
        ...

    def decode(
        self, z_0: Float[Array, "batch *dims"], omega_0: EndPoint
    ) -> Shaped[Array, "batch *dims"]:
        """The most likely data given z_0."""
        ...

    def log_prob(
        self,
        data: Shaped[Array, "batch *dims"],
        z_0: Float[Array, "batch *dims"],
        omega_0: EndPoint,
    ) -> Float[Array, " batch"]:
        """log p(data | z_0) in nats, summed over every non-batch axis."""
        ...

    def reconstruction(
        self,
        data: Shaped[Array, "batch *dims"],
        eps_0: Float[Array, "batch *dims"],
        omega_0: EndPoint,
    ) -> Float[Array, " batch"]:
        """-log p(data | z_0) in nats at z_0 = alpha_0 x + sigma_0 eps_0."""
        ...
