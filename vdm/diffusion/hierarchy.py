"""The bound of a Markovian hierarchy of latents, learned or fixed: VAE, hierarchical VAE, DDPM.

    q(z_1 .. z_T | x)   = q(z_1 | x) prod_{t=2}^T q(z_t | z_{t-1})
    p(x, z_1 .. z_T)    = p(z_T) p(x | z_1) prod_{t=2}^T p(z_{t-1} | z_t),   p(z_T) = N(0, I)

All distributions but p(x | z_1) are diagonal Gaussians (Luo 2022, arXiv:2208.11970, Eq. 23-29).
As in the sources, T counts the latents here: the z_0 .. z_1 of `vdm.diffusion.elbo` with T steps
are T + 1 latents. T = 1 is the VAE (Kingma & Welling, arXiv:1312.6114). If the encoder is a fixed
linear Gaussian chain that keeps the dimension and ends at N(0, I), the model is the DDPM. S1
numbers Luo's equations differently: experiments/equations/README.md lists what each one states.
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
    """A diagonal Gaussian for each example. log_variance has as many axes as the mean; an axis
    along which it is constant has size one."""

    mean: Float[Array, "batch *dims"]
    log_variance: Float[Array, "..."]


Kernel = Callable[[Array], Normal]
"""The value conditioned on, [batch, *dims] -> the conditional distribution."""


class Path(NamedTuple):
    """Latents z_1 .. z_T drawn from q, each [batch, *its_own_dims], and the distribution
    q(z_t | z_{t-1}) that each was drawn from."""

    latents: tuple[Array, ...]
    encoded: tuple[Normal, ...]


def reparameterise(normal: Normal, eps: Float[Array, "batch *dims"]) -> Float[Array, "batch *dims"]:
    """The draw mean + standard deviation * eps (S1 1.25; Kingma & Welling, section 2.4)."""
    return normal.mean + jnp.exp(0.5 * normal.log_variance) * eps


def log_density(normal: Normal, z: Float[Array, "batch *dims"]) -> Float[Array, " batch"]:
    """The log density log N(z; mean, variance), nats, summed over every non-batch axis."""
    squares = jnp.square(z - normal.mean) * jnp.exp(-normal.log_variance)
    return -0.5 * _sum(squares + normal.log_variance + math.log(2 * math.pi))


def log_standard(z: Float[Array, "batch *dims"]) -> Float[Array, " batch"]:
    """The standard normal log density log N(z; 0, I), nats, summed over every non-batch axis."""
    return -0.5 * _sum(jnp.square(z) + math.log(2 * math.pi))


def kl_to_standard(normal: Normal) -> Float[Array, " batch"]:
    """KL(N(mean, variance) || N(0, I)) in nats, summed over every non-batch axis (S1 1.23 with
    sigma_2 = 1, mu_2 = 0)."""
    # exp(v) - 1 - v cancels near v = 0: it is off by 3e-8 of 5e-7 at v = 1e-3 in float32, which
    # expm1 avoids.
    excess = jnp.expm1(normal.log_variance) - normal.log_variance
    return 0.5 * _sum(jnp.square(normal.mean) + excess)


def encode_path(
    x: Float[Array, "batch *dims"], encoders: Sequence[Kernel], noise: Sequence[Array]
) -> Path:
    """Draws one path from q(z_1 .. z_T | x).

    Args:
        x: the data at the scale of the encoders.
        encoders: encoders[t] gives q(z_{t+1} | z_t), where z_0 means x.
        noise: for each latent a standard normal array of its shape.
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
    """log p(x | z_1) in nats under the likelihood of a diffusion model, with the decoder's mean in
    place of z_0 / alpha_0 and its variance in place of exp(omega_0)."""
    distance = decoded.mean - likelihood.encode(data)
    eps_0 = distance * jnp.exp(-0.5 * decoded.log_variance)
    return -likelihood.reconstruction(data, eps_0, decoded.log_variance)


def most_likely(likelihood: Likelihood, decoded: Normal) -> Shaped[Array, "batch *dims"]:
    """The most likely data under this p(x | z_1)."""
    z_0 = alpha(decoded.log_variance) * decoded.mean
    return likelihood.decode(z_0, decoded.log_variance)


def log_weight(
    path: Path, decoders: Sequence[Kernel], log_p_x: Float[Array, " batch"]
) -> Float[Array, " batch"]:
    """The log importance weight of the path, log p(x, z_1 .. z_T) - log q(z_1 .. z_T | x), in nats
    (S1 1.32). Its mean over paths is the bound on log p(x), and the mean of its exp is p(x).

    Args:
        path: a path from `encode_path`.
        decoders: T - 1 of them; decoders[t] gives p(z_{t+1} | z_{t+2}).
        log_p_x: log p(x | z_1) of the path's z_1.
    """
    joint = log_p_x + log_standard(path.latents[-1])
    for decoder, z, above in zip(decoders, path.latents[:-1], path.latents[1:], strict=True):
        joint += log_density(decoder(above), z)
    return joint - sum(map(log_density, path.encoded, path.latents))


def negative_elbo(
    path: Path, decoders: Sequence[Kernel], log_p_x: Float[Array, " batch"]
) -> ElboTerms:
    """Estimates the negative bound from one path, in nats.

    In expectation both the value and the gradient equal those of -`log_weight`; for a single path
    they do not, because a part of the gradient whose mean is 0 is left out.

    prior_matching = KL(q(z_T | z_{T-1}) || N(0, I)) in closed form, so T = 1 gives the bound of
    the VAE (S1 1.20). denoising_matching holds the consistency terms, the sum over t < T of
    log q(z_t | z_{t-1}) - log p(z_t | z_{t+1}) (S1 1.46): the denoising form needs
    q(z_t | z_{t+1}, x), which is known for a linear encoder only.
    """
    consistency = jnp.zeros_like(log_p_x)
    levels = zip(decoders, path.encoded[:-1], path.latents[:-1], path.latents[1:], strict=True)
    for decoder, encoded, z, above in levels:
        # Unlike a KL in closed form, log q - log p of one draw has a noisy gradient: with T = 2 on
        # the digits, training had not left q = p = N(0, I) after 1,000 steps. The part of the
        # gradient that comes through log q's own parameters has mean 0; without it the encoder's
        # gradient has no noise where q = p (Roeder et al., arXiv:1703.09194).
        log_q = log_density(jax.lax.stop_gradient(encoded), z)
        consistency += log_q - log_density(decoder(above), z)
    return ElboTerms(
        reconstruction=-log_p_x,
        prior_matching=kl_to_standard(path.encoded[-1]),
        denoising_matching=consistency,
    )


def _sum(per_dim: Float[Array, "batch *dims"]) -> Float[Array, " batch"]:
    return jnp.sum(per_dim, axis=tuple(range(1, per_dim.ndim)))
