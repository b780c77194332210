"""Rung 2, the VAE: one latent, a learned encoder and a learned decoder.

    -log p(x) <= E_{q(z|x)}[-log p(x|z)] + KL(q(z|x) || N(0, I))

S1 (1.18)-(1.25), S4 section 3.2; Kingma & Welling 2013 (arXiv:1312.6114). In the mixture z has K
values and a known posterior; here it is a vector, and a network approximates the posterior.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Key, Shaped

from experiments.ladder.kernels import check_sizes, data_encoder, init_params, kernel
from vdm.diffusion import hierarchy
from vdm.diffusion.elbo import ElboTerms
from vdm.diffusion.noise import fresh_noise
from vdm.models.vdm import finite
from vdm.nn.encoders import GaussianMLP
from vdm.typing import Likelihood, Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class VAE:
    """The model: config.model.name = "experiments.ladder.vae:VAE". p(x | z) is the likelihood of
    the diffusion models, with the decoder's mean in place of z_0 / alpha_0 and its variance in
    place of sigma_0^2 / alpha_0^2."""

    likelihood: Likelihood
    dims: tuple[int, ...]
    latent_dim: int = 32
    width: int = 256
    num_blocks: int = 2
    dropout: float = 0.0
    num_levels = 1

    def __post_init__(self) -> None:
        check_sizes(self, "latent_dim", "width")

    @property
    def encoder(self) -> GaussianMLP:
        """The network x -> q(z | x)."""
        return data_encoder((self.latent_dim,), self.width, self.num_blocks, self.dropout)

    @property
    def decoder(self) -> GaussianMLP:
        """The network z -> mean and variance of p(x | z)."""
        return GaussianMLP(self.dims, self.width, self.num_blocks, self.dropout)

    def init(self, key: PRNGKey) -> Params:
        """Initial parameters {"network": {"encoder": .., "decoder": ..}}."""
        key_encoder, key_decoder = jax.random.split(key)
        encoder = init_params(self.encoder, key_encoder, self.dims)
        decoder = init_params(self.decoder, key_decoder, (self.latent_dim,))
        return {"network": {"encoder": encoder, "decoder": decoder}}

    def elbo(
        self,
        params: Params,
        data: Shaped[Array, "batch *dims"],
        keys: Key[Array, " batch"],
        dropout_key: PRNGKey | None = None,
    ) -> ElboTerms:
        """Estimates the negative bound in nats; only the reconstruction is random."""
        network = params["network"]
        encoder = kernel(self.encoder, network["encoder"], dropout_key, 0)
        decoder = kernel(self.decoder, network["decoder"], dropout_key, 1)
        q = encoder(self.likelihood.encode(data))
        z = hierarchy.reparameterise(q, fresh_noise(keys, (self.latent_dim,))(jnp.int32(0)))
        reconstruction = -hierarchy.log_likelihood(self.likelihood, data, decoder(z))
        none = jnp.zeros_like(reconstruction)  # With one level there is nothing to denoise.
        return ElboTerms(reconstruction, hierarchy.kl_to_standard(q), none)

    def sample(
        self, params: Params, keys: Key[Array, " batch"]
    ) -> tuple[Shaped[Array, "batch *dims"], Bool[Array, " batch"]]:
        """Returns the most likely data for z ~ N(0, I), and whether the decoder's mean was
        finite."""
        decoder = kernel(self.decoder, params["network"]["decoder"])
        decoded = decoder(fresh_noise(keys, (self.latent_dim,))(jnp.int32(0)))
        return hierarchy.most_likely(self.likelihood, decoded), finite(decoded.mean)
