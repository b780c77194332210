"""Denoisers that favour what a label asks for. A guided denoiser is a denoiser, so every sampler
runs with it; what it makes is no longer a draw of the model, whose bound says nothing of it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm.diffusion.noise import expand, sigma
from vdm.typing import Denoiser, PerExample

LogProb = Callable[[Array, Array], Array]
"""(z_t [batch, *dims], omega [batch] or [batch, *dims]) -> log p(label | z_t) [batch], nats."""


def classifier_free(conditional: Denoiser, unconditional: Denoiser, strength: float) -> Denoiser:
    """eps_hat_none + strength (eps_hat_label - eps_hat_none): 0 ignores the label, 1 is the
    conditional model itself, more exaggerates what the label changes.

    Ho & Salimans 2022 (arXiv:2207.12598) Eq. 6, whose w is strength - 1; in Luo 2022
    (arXiv:2208.11970), section "Guidance", it is gamma.
    """

    def eps_hat(z_t: Array, omega: Array) -> Array:
        without = unconditional(z_t, omega)
        return without + strength * (conditional(z_t, omega) - without)

    return eps_hat


def classifier(denoiser: Denoiser, log_prob: LogProb, strength: float) -> Denoiser:
    """eps_hat - strength sigma grad log p(label | z_t): the score -eps_hat / sigma with the
    classifier's gradient added, Bayes' rule at strength 1 (Dhariwal & Nichol 2021,
    arXiv:2105.05233, section 4.2; Luo 2022, section "Guidance")."""

    def eps_hat(z_t: Array, omega: PerExample) -> Float[Array, "batch *dims"]:
        slope = jax.grad(lambda z: jnp.sum(log_prob(z, omega)))(z_t)
        return denoiser(z_t, omega) - strength * sigma(expand(omega, z_t)) * slope

    return eps_hat
