"""Networks as functions with their parameters bound: the conditional Gaussians and points that are
the encoders and decoders of the learned rungs."""

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
    """Binds the parameters of a network: returns the function from its inputs to its outputs. With
    a dropout_key the network is in training mode; give each network another `place`, so that they
    draw different masks."""
    rngs = {} if dropout_key is None else {"dropout": jax.random.fold_in(dropout_key, place)}
    return lambda inputs: network.apply({"params": params}, inputs, train=bool(rngs), rngs=rngs)


def kernel(
    network: GaussianMLP, params: Params, dropout_key: PRNGKey | None = None, place: int = 0
) -> Kernel:
    """The function from the value conditioned on to the network's Gaussian."""
    gaussian = with_params(network, params, dropout_key, place)
    return lambda inputs: Normal(*gaussian(inputs))


def data_encoder(dims: tuple[int, ...], width: int, num_blocks: int, dropout: float) -> GaussianMLP:
    """The network x -> q(z_1 | x), which starts narrow and different for every x, so that z_1
    carries information about x. If it started as N(0, I), the decoder would learn to ignore z, and
    a hierarchy would never leave that state."""
    return GaussianMLP(dims, width, num_blocks, dropout, zero_init=False, log_variance=-4.0)


def residual(kernel: Kernel) -> Kernel:
    """Makes a kernel between latents of the same size residual. With the initial kernel N(0, I) it
    is z' = (z + eps) / sqrt(2), a chain that keeps N(0, I) and correlates all levels; levels that
    start independent of one another may stay so."""

    def shifted(z: Array) -> Normal:
        mean, log_variance = kernel(z)
        return Normal(math.sqrt(0.5) * (z + mean), log_variance - math.log(2))

    return shifted


def init_params(network: nn.Module, key: PRNGKey, dims: tuple[int, ...]) -> Params:
    """Initial parameters of a network for inputs of shape `dims`."""
    return network.init(key, jnp.zeros((1, *dims), jnp.float32))["params"]


def check_sizes(model: Any, *names: str) -> None:
    """Raises ValueError if a field of the model that counts something is below 1, or if its dropout
    is not in [0, 1)."""
    for name in names:
        if getattr(model, name) < 1:
            raise ValueError(f"model.kwargs.{name} = {getattr(model, name)}: it must be at least 1")
    check_share("model.kwargs.dropout", model.dropout)
