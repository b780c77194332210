"""Rung 3, the Markovian hierarchical VAE: a chain of T latents, with everything learned.

    q(z_1 .. z_T | x) = q(z_1 | x) prod q(z_t | z_{t-1})
    p(x, z_1 .. z_T) = p(z_T) prod p(z_{t-1} | z_t) p(x | z_1)

S1 (1.26)-(1.32), Luo 2022 (arXiv:2208.11970) Eq. 23-29. With T = 1 it is the VAE. All its latents
have the same size; in the DDPM they have the size of the data, and the encoder is not learned.
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
    """The model: config.model.name = "experiments.ladder.hvae:HierarchicalVAE"; num_levels is T.
    The lists params["network"]["encoder"] and ["decoder"] begin at the data."""

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
        """The network z_level -> q(z_{level+1} | z_level); level 0 is the data."""
        network = GaussianMLP if level else data_encoder
        return network((self.latent_dim,), self.width, self.num_blocks, self.dropout)

    def decoder(self, level: int) -> GaussianMLP:
        """The network z_{level+1} -> p(z_level | z_{level+1}); level 0 is the data."""
        dims = (self.latent_dim,) if level else self.dims
        return GaussianMLP(dims, self.width, self.num_blocks, self.dropout)

    def init(self, key: PRNGKey) -> Params:
        """Initial parameters of an encoder and a decoder for each level."""
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
        """Estimates the negative bound in nats from one path drawn from q."""
        from_data, *encoders = [
            kernel(self.encoder(level), level_params, dropout_key, 2 * level)
            for level, level_params in enumerate(params["network"]["encoder"])
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
        """Draws z_T ~ N(0, I) and then z_{T-1} ... z_1; returns the most likely data, and whether
        the last decoder's mean was finite."""
        to_data, *decoders = self._decoders(params, None)
        *eps, z = self._noise(keys)
        for decoder, eps_level_params in zip(reversed(decoders), reversed(eps), strict=True):
            z = hierarchy.reparameterise(decoder(z), eps_level_params)
        decoded = to_data(z)
        return hierarchy.most_likely(self.likelihood, decoded), finite(decoded.mean)

    def _noise(self, keys: Key[Array, " batch"]) -> list[Float[Array, "batch latent"]]:
        """The noise of each level, beginning at the data."""
        noise_at = fresh_noise(keys, (self.latent_dim,))
        return [noise_at(jnp.int32(level)) for level in range(self.num_levels)]

    def _decoders(self, params: Params, dropout_key: PRNGKey | None) -> list[hierarchy.Kernel]:
        to_data, *decoders = [
            kernel(self.decoder(level), level_params, dropout_key, 2 * level + 1)
            for level, level_params in enumerate(params["network"]["decoder"])
        ]
        return [to_data, *map(residual, decoders)]
