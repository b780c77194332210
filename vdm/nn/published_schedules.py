"""The learned schedules of VDM's published code, with the same parameters, so that they can load
its checkpoints.

VDM = arXiv:2107.00630, appendix H; their gamma is our omega.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm.nn.schedules import check_ends


class AbsDense(nn.Module):
    """A dense layer x |kernel| + bias over the last axis, increasing in every input (VDM
    appendix H)."""

    features: int
    kernel_init: nn.initializers.Initializer
    bias_init: nn.initializers.Initializer | None

    @nn.compact
    def __call__(self, x: Float[Array, "n inputs"]) -> Float[Array, "n features"]:
        shape = (x.shape[-1], self.features)
        kernel = jnp.abs(self.param("kernel", self.kernel_init, shape, jnp.float32))
        # A sum, not a matrix product, which accelerators round to TF32 or bfloat16.
        y = jnp.sum(x[:, :, None] * kernel[None], axis=1)
        if self.bias_init is None:
            return y
        return y + self.param("bias", self.bias_init, (self.features,), jnp.float32)[None]


class VDMNet(nn.Module):
    """The learned SNR of VDM's published code:
    omega(t) = l1(t) + l3(2 sigmoid(l2(2 t - 1)) - 1) / K, each l an `AbsDense`, K hidden features.

    omega_0 and omega_1 only initialise l1: the ends are not normalised but follow from all the
    weights. The hidden part starts at 1e-4 of the linear one.
    """

    omega_0: float = -13.3
    omega_1: float = 5.0
    hidden_features: int = 1024

    @nn.compact
    def __call__(self, t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        check_ends(self.omega_0, self.omega_1)
        k, column = self.hidden_features, t.reshape(-1, 1)
        constant, small = nn.initializers.constant, nn.initializers.normal(0.01)
        slope, start = constant(self.omega_1 - self.omega_0), constant(self.omega_0)
        linear = AbsDense(1, slope, start, name="l1")(column)
        hidden = AbsDense(k, small, nn.initializers.zeros, name="l2")(2 * column - 1)
        bent = AbsDense(1, small, None, name="l3")(2 * jax.nn.sigmoid(hidden) - 1)
        return (linear + bent / k).reshape(t.shape)


class VDMScalar(nn.Module):
    """The straight line omega(t) = b + |w| t of VDM's published code and its CIFAR-10 model."""

    omega_0: float = -13.3
    omega_1: float = 5.0

    @nn.compact
    def __call__(self, t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        check_ends(self.omega_0, self.omega_1)
        constant = nn.initializers.constant
        w = self.param("w", constant(self.omega_1 - self.omega_0), (1,), jnp.float32)
        b = self.param("b", constant(self.omega_0), (1,), jnp.float32)
        return b[0] + jnp.abs(w[0]) * t
