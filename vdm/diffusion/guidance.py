"""Guided denoisers, which steer samples towards a label.

A guided denoiser is itself a denoiser, so every sampler accepts it. Its samples are no longer draws
from the model, and the model's bound does not apply to them.
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
    """Classifier-free guidance, eps_hat_none + strength (eps_hat_label - eps_hat_none): strength 0
    ignores the label, 1 is the conditional model, and more exaggerates the effect of the label.

    This is Eq. 6 of Ho & Salimans 2022 (arXiv:2207.12598), whose w is strength - 1; Luo 2022
    (arXiv:2208.11970), section "Guidance", calls the strength gamma.
    """

    def eps_hat(z_t: Array, omega: Array) -> Array:
        without = unconditional(z_t, omega)
        return without + strength * (conditional(z_t, omega) - without)

    return eps_hat


def classifier(denoiser: Denoiser, log_prob: LogProb, strength: float) -> Denoiser:
    """Classifier guidance, eps_hat - strength sigma grad log p(label | z_t): it adds the
    classifier's gradient to the score -eps_hat / sigma, which at strength 1 is Bayes' rule
    (Dhariwal & Nichol 2021, arXiv:2105.05233, section 4.2; Luo 2022, section "Guidance")."""

    def eps_hat(z_t: Array, omega: PerExample) -> Float[Array, "batch *dims"]:
        slope = jax.grad(lambda z: jnp.sum(log_prob(z, omega)))(z_t)
        return denoiser(z_t, omega) - strength * sigma(expand(omega, z_t)) * slope

    return eps_hat
