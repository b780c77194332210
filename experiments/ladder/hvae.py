"""Rung 3, the Markovian hierarchical VAE: T latents above one another, all of it learned.

    q(z_1 .. z_T | x) = q(z_1 | x) prod q(z_t | z_{t-1})
    p(x, z_1 .. z_T) = p(z_T) prod p(z_{t-1} | z_t) p(x | z_1)

S1 (1.26)-(1.32), Luo 2022 (arXiv:2208.11970) Eq. 23-29. With T = 1 it is the VAE. Its latents all
have the size of the first one; the DDPM's have that of the data, and its encoder is not learned.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, Shaped

from experiments.ladder.kernels import (
    check_sizes,
    data_encoder,
    init_params,
    kernel,
    residual,
)
from vdm.diffusion import hierarchy
from vdm.diffusion.elbo import ElboTerms
from vdm.diffusion.noise import fresh_noise
from vdm.models.vdm import finite
from vdm.nn.encoders import GaussianMLP
from vdm.typing import Likelihood, Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class HierarchicalVAE:
    """config.model.name = "experiments.ladder.hvae:HierarchicalVAE"; num_levels is T. The lists
    params["network"]["encoder"] and ["decoder"] go from the data up."""

    likelihood: Likelihood
    dims: tuple[int, ...]
    num_levels: int = 2
    latent_dim: int = 32
    width: int = 256
    num_blocks: int = 2
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_sizes(self, "num_levels", "latent_dim", "width")

    def encoder(self, level: int) -> GaussianMLP:
        """z_level -> q(z_{level+1} | z_level), level 0 the data."""
        network = GaussianMLP if level else data_encoder
        return network((self.latent_dim,), self.width, self.num_blocks, self.dropout)

    def decoder(self, level: int) -> GaussianMLP:
        """z_{level+1} -> p(z_level | z_{level+1}), level 0 the data."""
        dims = (self.latent_dim,) if level else self.dims
        return GaussianMLP(dims, self.width, self.num_blocks, self.dropout)

    def init(self, key: PRNGKey) -> Params:
        """A network for each level, up and down."""
        key_encoder, key_decoder = jax.random.split(key)
        below = [self.dims] + [(self.latent_dim,)] * (self.num_levels - 1)
        keys = zip(
            jax.random.split(key_encoder, self.num_levels),
            jax.random.split(key_decoder, self.num_levels),
            strict=True,
        )
        encoders, decoders = [], []
        for level, (up, down) in enumerate(keys):
            encoders.append(init_params(self.encoder(level), up, below[level]))
            decoders.append(init_params(self.decoder(level), down, (self.latent_dim,)))
        return {"network": {"encoder": encoders, "decoder": decoders}}

    def elbo(
        self,
        params: Params,
        data: Shaped[Array, "batch *dims"],
        keys: Key[Array, " batch"],
        dropout_key: PRNGKey | None = None,
    ) -> ElboTerms:
        """One estimate of the negative bound, nats, by one path from q."""
        from_data, *encoders = [
            kernel(self.encoder(level), of_level, dropout_key, 2 * level)
            for level, of_level in enumerate(params["network"]["encoder"])
        ]
        to_data, *decoders = self._decoders(params, dropout_key)
        x = self.likelihood.encode(data)
        path = hierarchy.encode_path(x, [from_data, *map(residual, encoders)], self._noise(keys))
        decoded = to_data(path.latents[0])
        log_likelihood = hierarchy.log_likelihood(self.likelihood, data, decoded)
        return hierarchy.negative_elbo(path, decoders, log_likelihood)

    def sample(
        self, params: Params, keys: Key[Array, " batch"]
    ) -> tuple[Shaped[Array, "batch *dims"], Bool[Array, " batch"]]:
        """z_T ~ N(0, I), then down to z_1, and the most likely data; whether the last decoder's
        mean was finite."""
        to_data, *decoders = self._decoders(params, None)
        *eps, z = self._noise(keys)
        for decoder, eps_of_level in zip(reversed(decoders), reversed(eps), strict=True):
            z = hierarchy.reparameterise(decoder(z), eps_of_level)
        decoded = to_data(z)
        return hierarchy.most_likely(self.likelihood, decoded), finite(decoded.mean)

    def _noise(self, keys: Key[Array, " batch"]) -> list[Float[Array, "batch latent"]]:
        """For each level, from the data up."""
        noise_at = fresh_noise(keys, (self.latent_dim,))
        return [noise_at(jnp.int32(level)) for level in range(self.num_levels)]

    def _decoders(self, params: Params, dropout_key: PRNGKey | None) -> list[hierarchy.Kernel]:
        to_data, *decoders = [
            kernel(self.decoder(level), of_level, dropout_key, 2 * level + 1)
            for level, of_level in enumerate(params["network"]["decoder"])
        ]
        return [to_data, *map(residual, decoders)]
