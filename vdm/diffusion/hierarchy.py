"""The bound of a Markovian hierarchy of latents, learned or fixed: VAE, hierarchical VAE, DDPM.

    q(z_1 .. z_T | x)   = q(z_1 | x) prod_{t=2}^T q(z_t | z_{t-1})
    p(x, z_1 .. z_T)    = p(z_T) p(x | z_1) prod_{t=2}^T p(z_{t-1} | z_t),   p(z_T) = N(0, I)

with diagonal Gaussians but for p(x | z_1) (Luo 2022, arXiv:2208.11970, Eq. 23-29). T counts the
latents, as the sources do: the z_0 .. z_1 of `vdm.diffusion.elbo` in T steps are T + 1 of them.
T = 1 is the VAE (Kingma & Welling, arXiv:1312.6114); with the encoder fixed to a linear Gaussian
chain that keeps the dimension and ends at N(0, I) it is the DDPM. S1 numbers Luo's equations anew:
experiments/equations/README.md says what each states.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from vdm.diffusion.elbo import ElboTerms
from vdm.diffusion.noise import alpha
from vdm.typing import Likelihood


class Normal(NamedTuple):
    """A diagonal Gaussian for each example. log_variance has as many axes as the mean, of size one
    where it does not vary."""

    mean: Float[Array, "batch *dims"]
    log_variance: Float[Array, "..."]


Kernel = Callable[[Array], Normal]
"""What is conditioned on [batch, *dims] -> the conditional distribution."""


class Path(NamedTuple):
    """Latents z_1 .. z_T drawn from q, each [batch, *its_own_dims], and the q(z_t | z_{t-1}) that
    each was drawn from."""

    latents: tuple[Array, ...]
    encoded: tuple[Normal, ...]


def reparameterise(normal: Normal, eps: Float[Array, "batch *dims"]) -> Float[Array, "batch *dims"]:
    """mean + standard deviation * eps (S1 1.25; Kingma & Welling, section 2.4)."""
    return normal.mean + jnp.exp(0.5 * normal.log_variance) * eps


def log_density(normal: Normal, z: Float[Array, "batch *dims"]) -> Float[Array, " batch"]:
    """log N(z; mean, variance), nats, summed over every non-batch axis."""
    squares = jnp.square(z - normal.mean) * jnp.exp(-normal.log_variance)
    return -0.5 * _sum(squares + normal.log_variance + math.log(2 * math.pi))


def log_standard(z: Float[Array, "batch *dims"]) -> Float[Array, " batch"]:
    """log N(z; 0, I), nats."""
    return -0.5 * _sum(jnp.square(z) + math.log(2 * math.pi))


def kl_to_standard(normal: Normal) -> Float[Array, " batch"]:
    """KL(N(mean, variance) || N(0, I)), nats (S1 1.23 with sigma_2 = 1, mu_2 = 0)."""
    # exp(v) - 1 - v cancels near v = 0: 3e-8 of 5e-7 at v = 1e-3 in float32. expm1 does better.
    excess = jnp.expm1(normal.log_variance) - normal.log_variance
    return 0.5 * _sum(jnp.square(normal.mean) + excess)


def encode_path(
    x: Float[Array, "batch *dims"], encoders: Sequence[Kernel], noise: Sequence[Array]
) -> Path:
    """One path from q(z_1 .. z_T | x): encoders[t] gives q(z_{t+1} | z_t), z_0 standing for x.

    noise: one standard normal array for each latent, of its shape.
    """
    latents, encoded, below = [], [], x
    for encoder, eps in zip(encoders, noise, strict=True):
        encoded.append(encoder(below))
        below = reparameterise(encoded[-1], eps)
        latents.append(below)
    return Path(tuple(latents), tuple(encoded))


def log_likelihood(
    likelihood: Likelihood, data: Shaped[Array, "batch *dims"], decoded: Normal
) -> Float[Array, " batch"]:
    """log p(x | z_1) in nats where a decoder's mean stands for z_0 / alpha_0, and its variance for
    exp(omega_0), in the likelihood of a diffusion model."""
    distance = decoded.mean - likelihood.encode(data)
    eps_0 = distance * jnp.exp(-0.5 * decoded.log_variance)
    return -likelihood.reconstruction(data, eps_0, decoded.log_variance)


def most_likely(likelihood: Likelihood, decoded: Normal) -> Shaped[Array, "batch *dims"]:
    """The data that this p(x | z_1) finds most likely."""
    z_0 = alpha(decoded.log_variance) * decoded.mean
    return likelihood.decode(z_0, decoded.log_variance)


def log_weight(
    path: Path, decoders: Sequence[Kernel], log_p_x: Float[Array, " batch"]
) -> Float[Array, " batch"]:
    """log p(x, z_1 .. z_T) - log q(z_1 .. z_T | x) along the path, nats (S1 1.32).

    decoders[t] gives p(z_{t+1} | z_{t+2}): T - 1 of them. log_p_x: log p(x | z_1). Its mean
    over paths is the bound, and E exp of it is p(x).
    """
    joint = log_p_x + log_standard(path.latents[-1])
    for decoder, z, above in zip(decoders, path.latents[:-1], path.latents[1:], strict=True):
        joint += log_density(decoder(above), z)
    return joint - sum(map(log_density, path.encoded, path.latents))


def negative_elbo(
    path: Path, decoders: Sequence[Kernel], log_p_x: Float[Array, " batch"]
) -> ElboTerms:
    """The negative bound by one path, nats; in expectation -`log_weight`, and its gradient that of
    -`log_weight`: not path by path, as a part of mean 0 is left out of it.

    prior_matching = KL(q(z_T | z_{T-1}) || N(0, I)) in closed form, so with T = 1 it is the bound
    of the VAE (S1 1.20). denoising_matching holds the consistency terms, the sum over t < T of
    log q(z_t | z_{t-1}) - log p(z_t | z_{t+1}) (S1 1.46): the denoising form needs
    q(z_t | z_{t+1}, x), which is known of a linear encoder alone.
    """
    consistency = jnp.zeros_like(log_p_x)
    levels = zip(decoders, path.encoded[:-1], path.latents[:-1], path.latents[1:], strict=True)
    for decoder, encoded, z, above in levels:
        # Unlike a KL in closed form, log q - log p of one draw has a noisy gradient: with T = 2 on
        # the digits it had not left q = p = N(0, I) after 1,000 steps. Without the part that comes
        # through log q's own parameters, whose mean is 0, the encoder's has none where q = p
        # (Roeder et al., arXiv:1703.09194).
        of_q = log_density(jax.lax.stop_gradient(encoded), z)
        consistency += of_q - log_density(decoder(above), z)
    return ElboTerms(
        reconstruction=-log_p_x,
        prior_matching=kl_to_standard(path.encoded[-1]),
        denoising_matching=consistency,
    )


def _sum(per_dim: Float[Array, "batch *dims"]) -> Float[Array, " batch"]:
    return jnp.sum(per_dim, axis=tuple(range(1, per_dim.ndim)))
