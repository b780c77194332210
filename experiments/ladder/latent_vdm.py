"""Rung 6, VAE and diffusion fused: a VDM of the outputs of a learned encoder.

    -log p(x) <= E[-log p(x | z_0)] + KL(q(z_1 | f) || N(0, I)) + denoising matching of f,
    f = mu(x),  z_t = alpha_t f + sigma_t eps

This is one bound, trained jointly (S4 section 3.5). The encoder's mean f takes the place of the
data, so eps- and x-prediction (of f) work as before, although S4 says that only the prediction of
the next step remains possible; the gradient reaches the encoder through z_t. If encoder and decoder
are the identity, this is the VDM. Without diffusion between z_1 and z_0 it is a VAE with a fixed
variance.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Bool, Float, Int, Shaped

from experiments.ladder.kernels import check_sizes, init_params, kernel, with_params
from vdm.diffusion import hierarchy
from vdm.diffusion.hierarchy import Normal
from vdm.diffusion.noise import alpha, diffuse
from vdm.models.vdm import VDM
from vdm.nn.encoders import GaussianMLP, ResidualMLP
from vdm.typing import Denoiser, EndPoint, Likelihood, Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class LatentLikelihood:
    """p(data | z_0) with a decoder, and f, the output of the encoder, to which noise is added.

    encoder: x -> f.
    decoder: (z_0 / alpha_0, omega_0) -> the values that take the place of z_0 / alpha_0 and its
        variance in the `likelihood` of the data.
    """

    likelihood: Likelihood
    encoder: Callable[[Array], Array]
    decoder: Callable[[Array, EndPoint], Normal]

    def encode(self, data: Shaped[Array, "batch *dims"]) -> Float[Array, "batch latent"]:
        """Maps the data to f."""
        return self.encoder(self.likelihood.encode(data))

    def decode(
        self, z_0: Float[Array, "batch latent"], omega_0: EndPoint
    ) -> Shaped[Array, "batch *dims"]:
        """The most likely data given z_0."""
        return hierarchy.most_likely(self.likelihood, self.decoder(z_0 / alpha(omega_0), omega_0))

    def log_prob(
        self,
        data: Shaped[Array, "batch *dims"],
        z_0: Float[Array, "batch latent"],
        omega_0: EndPoint,
    ) -> Float[Array, " batch"]:
        """log p(data | z_0), nats per example."""
        decoded = self.decoder(z_0 / alpha(omega_0), omega_0)
        return hierarchy.log_likelihood(self.likelihood, data, decoded)

    def log_probs(
        self, z_0: Float[Array, "batch latent"], omega_0: EndPoint
    ) -> Float[Array, "batch *dims codes"]:
        """log p(code | z_0) of every code, nats, for lossless compression."""
        decoded = self.decoder(z_0 / alpha(omega_0), omega_0)
        likelihood: Any = self.likelihood
        return likelihood.log_probs(
            alpha(decoded.log_variance) * decoded.mean, decoded.log_variance
        )

    def reconstruction(
        self,
        data: Shaped[Array, "batch *dims"],
        eps_0: Float[Array, "batch latent"],
        omega_0: EndPoint,
    ) -> Float[Array, " batch"]:
        """-log p(data | z_0 = alpha_0 f + sigma_0 eps_0), nats per example."""
        return -self.log_prob(data, diffuse(self.encode(data), eps_0, omega_0), omega_0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentVDM(VDM):
    """The model: config.model.name = "experiments.ladder.latent_vdm:LatentVDM". The network
    denoises vectors of latent_dim numbers; everything else of a VDM (schedules, bounds, samplers)
    works on these vectors."""

    latent_dim: int = 32
    width: int = 256
    num_blocks: int = 2
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_sizes(self, "latent_dim", "width")
        if self.prediction == "codes":
            raise ValueError(
                "model.prediction = 'codes' is for codes with noise, and the latents of a "
                "LatentVDM are none: choose 'eps', 'x' or 'v'"
            )

    @property
    def latent_dims(self) -> tuple[int, ...]:
        """The shape of z_t."""
        return (self.latent_dim,)

    @property
    def encoder(self) -> ResidualMLP:
        """The network x -> f."""
        return ResidualMLP(self.latent_dims, self.width, self.num_blocks, self.dropout)

    @property
    def decoder(self) -> GaussianMLP:
        """The network z_0 -> mean and variance of p(x | z_0)."""
        return GaussianMLP(self.dims, self.width, self.num_blocks, self.dropout)

    def init(self, key: PRNGKey) -> Params:
        """Initial parameters {"network": {"denoiser": .., "encoder": .., "decoder": ..},
        "schedule": ..}."""
        vdm_params = super().init(key)
        # The base class uses split(key, 2); fold_in(key, 2) differs from both of these keys.
        key_encoder, key_decoder = jax.random.split(jax.random.fold_in(key, 2))
        network = {
            "denoiser": vdm_params["network"],
            "encoder": init_params(self.encoder, key_encoder, self.dims),
            "decoder": init_params(self.decoder, key_decoder, self.latent_dims),
        }
        return vdm_params | {"network": network}

    def denoiser(
        self,
        params: Params,
        labels: Int[Array, " batch"] | None = None,
        dropout_key: PRNGKey | None = None,
        augmented: Bool[Array, " batch"] | None = None,
    ) -> Denoiser:
        """The denoiser (z_t, omega) -> eps_hat of f."""
        own = params | {"network": params["network"]["denoiser"]}
        return super().denoiser(own, labels, dropout_key, augmented)

    def likelihood_of(self, params: Params, dropout_key: PRNGKey | None = None) -> LatentLikelihood:
        """The likelihood with the encoder and decoder of these parameters."""
        network = params["network"]
        # Places 1 and 2, because the denoiser uses the dropout_key itself.
        encoder = with_params(self.encoder, network["encoder"], dropout_key, 1)
        decoder = kernel(self.decoder, network["decoder"], dropout_key, 2)
        return LatentLikelihood(self.likelihood, encoder, lambda z, omega_0: decoder(z))
