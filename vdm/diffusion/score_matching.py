"""Score-based models, which learn grad log q, and their relation to diffusion models.

NCSN (Song & Ermon 2019, arXiv:1907.05600) adds noise without shrinking the data, x_noisy = x + r
eps, where r is their sigma. That is z_t / alpha with r = sigma / alpha = exp(omega / 2), so every
denoiser is a score network and vice versa. The score at x_noisy is alpha times that at z_t.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm.diffusion.noise import alpha, expand
from vdm.typing import Denoiser, PerExample

ScoreFn = Callable[[Array, Array], Array]
"""(x_noisy [batch, *dims], r () or [batch]) -> grad log q_r(x_noisy) [batch, *dims]."""


def ncsn_score(denoiser: Denoiser) -> ScoreFn:
    """Makes a denoiser a score network: -eps_hat / r at z_t = alpha x_noisy, omega = 2 log r."""

    def score(x_noisy: Array, r: Array) -> Array:
        r = jnp.broadcast_to(r, x_noisy.shape[:1])
        omega = 2 * jnp.log(r)
        eps_hat = denoiser(expand(alpha(omega), x_noisy) * x_noisy, omega)
        return -eps_hat / expand(r, x_noisy)

    return score


def ncsn_denoiser(score: ScoreFn) -> Denoiser:
    """Makes a score network a denoiser, eps_hat = -r score: the inverse of `ncsn_score`."""

    def eps_hat(z_t: Array, omega: Array) -> Array:
        omega = jnp.broadcast_to(omega, z_t.shape[:1])
        r = jnp.exp(0.5 * omega)
        return -expand(r, z_t) * score(z_t / expand(alpha(omega), z_t), r)

    return eps_hat


def explicit_score_matching(
    score_hat: Float[Array, "batch *dims"], score: Float[Array, "batch *dims"]
) -> Float[Array, " batch"]:
    """The explicit loss 1/2 ||score_hat - score||^2, summed over every non-batch axis, for data
    whose score is known. Its mean is half the Fisher divergence (Hyvarinen 2005; Luo 2022,
    arXiv:2208.11970)."""
    return 0.5 * jnp.sum(jnp.square(score_hat - score), axis=tuple(range(1, score.ndim)))


def denoising_score_matching(
    x: Float[Array, "batch *dims"],
    eps: Float[Array, "batch *dims"],
    r: PerExample,
    score_hat: ScoreFn,
) -> Float[Array, " batch"]:
    """The denoising loss r^2/2 ||score_hat(x + r eps, r) + eps / r||^2, summed over every non-batch
    axis (Song & Ermon 2019, Eq. 5-6 with lambda(r) = r^2).

    It does not need the score of the data: its mean is r^2 times the explicit loss at x_noisy plus
    its own mean at the exact score (Vincent 2011). It also equals 1/2 ||eps - eps_hat||^2, VDM's
    loss density, so averaged over a geometric ladder of levels it is the bound's denoising term
    with a linear schedule, divided by omega_1 - omega_0.
    """
    scale = expand(r, x)
    score = score_hat(x + scale * eps, r)
    # Equals r (score + eps / r), which would divide by a small r and multiply by it again.
    return 0.5 * jnp.sum(jnp.square(scale * score + eps), axis=tuple(range(1, x.ndim)))
