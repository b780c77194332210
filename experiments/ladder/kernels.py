"""Networks with their parameters as functions: conditional Gaussians and points, which the encoders
and decoders of the learned rungs are."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from vdm.arguments import check_share
from vdm.diffusion.hierarchy import Kernel, Normal
from vdm.nn.encoders import GaussianMLP, ResidualMLP
from vdm.typing import Params, PRNGKey


def with_params(
    network: ResidualMLP | GaussianMLP, params: Params, dropout_key: PRNGKey | None, place: int
) -> Callable[[Array], Any]:
    """Inputs -> what the network gives. With a dropout_key it is in training mode; networks at
    different places draw different masks."""
    rngs = {} if dropout_key is None else {"dropout": jax.random.fold_in(dropout_key, place)}
    return lambda inputs: network.apply({"params": params}, inputs, train=bool(rngs), rngs=rngs)


def kernel(
    network: GaussianMLP, params: Params, dropout_key: PRNGKey | None = None, place: int = 0
) -> Kernel:
    """What is conditioned on -> the network's Gaussian."""
    gaussian = with_params(network, params, dropout_key, place)
    return lambda inputs: Normal(*gaussian(inputs))


def data_encoder(dims: tuple[int, ...], width: int, num_blocks: int, dropout: float) -> GaussianMLP:
    """x -> q(z_1 | x), which tells the data well at first: narrow, and another for every x. Where
    it starts as N(0, I) the decoder learns to do without z, and a hierarchy stays there."""
    return GaussianMLP(dims, width, num_blocks, dropout, zero_init=False, log_variance=-4.0)


def residual(kernel: Kernel) -> Kernel:
    """The kernel between latents of one size, from z to z' = (z + eps) / sqrt(2) on: with the
    kernel at its initial N(0, I) this chain keeps N(0, I) and correlates all levels, where levels
    that know nothing of one another at first may never come to."""

    def shifted(z: Array) -> Normal:
        mean, log_variance = kernel(z)
        return Normal(math.sqrt(0.5) * (z + mean), log_variance - math.log(2))

    return shifted


def init_params(network: nn.Module, key: PRNGKey, dims: tuple[int, ...]) -> Params:
    """Parameters for inputs of shape dims."""
    return network.init(key, jnp.zeros((1, *dims), jnp.float32))["params"]


def check_sizes(model: Any, *names: str) -> None:
    """ValueError where a field of the model that counts something is below 1, or its dropout is no
    share."""
    for name in names:
        if getattr(model, name) < 1:
            raise ValueError(f"model.kwargs.{name} = {getattr(model, name)}: it must be at least 1")
    check_share("model.kwargs.dropout", model.dropout)
