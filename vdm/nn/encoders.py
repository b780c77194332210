"""Networks without noise levels: the encoders and decoders of VAEs and of learned latents."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm.arguments import check_share

LEAST_LOG_VARIANCE = -12.0
"""Lower limit of a log variance, a standard deviation of 0.0025."""


class ResidualMLP(nn.Module):
    """A residual MLP [batch, *any] -> [batch, *dims]. With zero_init its output starts at 0."""

    dims: tuple[int, ...]
    width: int = 256
    num_blocks: int = 2
    dropout: float = 0.0
    zero_init: bool = False

    def __post_init__(self) -> None:
        check_share("dropout", self.dropout)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "batch *any"], train: bool = False
    ) -> Float[Array, "batch *dims"]:
        h = nn.Dense(self.width, name="dense_in")(inputs.reshape(len(inputs), -1))
        for i in range(self.num_blocks):
            r = nn.swish(nn.LayerNorm(name=f"block_{i}_norm")(h))
            r = nn.swish(nn.Dense(self.width, name=f"block_{i}_dense_0")(r))
            r = nn.Dropout(self.dropout, deterministic=not train)(r)
            h += nn.Dense(self.width, name=f"block_{i}_dense_1")(r)
        h = nn.swish(nn.LayerNorm(name="norm_out")(h))
        zeros, random = nn.initializers.zeros, nn.initializers.lecun_normal()
        outputs = nn.Dense(
            math.prod(self.dims), kernel_init=zeros if self.zero_init else random, name="dense_out"
        )(h)
        return outputs.reshape(len(inputs), *self.dims)


class GaussianMLP(nn.Module):
    """An MLP whose output is a diagonal Gaussian: [batch, *any] -> mean and log variance, each
    [batch, *dims].

    log_variance: the log variance that training starts around; with zero_init it starts exactly at
        N(0, exp(log_variance) I) for every input.
    """

    dims: tuple[int, ...]
    width: int = 256
    num_blocks: int = 2
    dropout: float = 0.0
    zero_init: bool = True
    log_variance: float = 0.0

    def __post_init__(self) -> None:
        check_share("dropout", self.dropout)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "batch *any"], train: bool = False
    ) -> tuple[Float[Array, "batch *dims"], Float[Array, "batch *dims"]]:
        mlp = ResidualMLP(
            (*self.dims, 2), self.width, self.num_blocks, self.dropout, self.zero_init, name="mlp"
        )
        mean, raw = jnp.moveaxis(mlp(inputs, train), -1, 0)
        above_least = self.log_variance - LEAST_LOG_VARIANCE
        return mean, LEAST_LOG_VARIANCE + jax.nn.softplus(raw + above_least)
