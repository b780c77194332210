"""What a network says about integer codes: the probability p(code k | z_t) of each.

A network of `model.prediction = "codes"` gives logits, what the other dimensions say about one, and

    p_k(z_t) proportional to exp(logit_k) q(z_t | x_k),   x_k = x(code k),

adds what z_t itself says about it (the score interpolation of CDCD, arXiv:2211.15089, section 3.1).
The mean of these codes makes a denoiser; the mixture kernel (`vdm.diffusion.kernels`), the
network's own decoder p(x | z_0) = prod_d p_k(z_0) and samples of codes use all of them.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Integer

from vdm.diffusion.likelihood import codes_to_x
from vdm.diffusion.noise import alpha, expand, sigma
from vdm.typing import Denoiser, PerExample

CodeLogProbs = Callable[[Array, Array], Array]
"""(z_t [batch, *dims], omega [batch] or [batch, *dims]) -> log p(code k | z_t) of every code on a
last axis, nats."""


class CodeSums(Protocol):
    """The probabilities of codes in a form that needs no table of all V of them."""

    def eps_hat(self) -> Float[Array, "batch *dims"]:
        """The mean of (z_t - alpha x_k) / sigma."""
        ...

    def log_probs(self) -> Float[Array, "batch *dims codes"]:
        """The table all the same."""
        ...

    def log_prob_of(self, codes: Integer[Array, "batch *dims"]) -> Float[Array, "batch *dims"]:
        """log p_k at the given codes."""
        ...

    def log_mean_exp(
        self,
        x: Float[Array, "batch *dims"],
        c: Float[Array, "..."],
        xi: Float[Array, "batch *dims"],
    ) -> Float[Array, "batch *dims"]:
        """log sum_k p_k exp(xi delta_k - 1/2 delta_k^2) with delta_k = c (x_k - x)."""
        ...


@dataclasses.dataclass(frozen=True)
class CodesDenoiser:
    """A denoiser, (z_t, omega) -> eps_hat, that also gives the probabilities of the codes; sums:
    without a table, if the head can."""

    eps_hat: Denoiser
    log_probs: CodeLogProbs
    sums: Callable[[Array, Array], CodeSums] | None = None

    def __call__(
        self, z: Float[Array, "batch *dims"], omega: PerExample
    ) -> Float[Array, "batch *dims"]:
        """Returns eps_hat."""
        return self.eps_hat(z, omega)


def log_probs_of(denoiser: Denoiser) -> CodeLogProbs:
    """Returns the probabilities that a denoiser gives of the codes. ValueError if it has none."""
    log_probs = getattr(denoiser, "log_probs", None)
    if log_probs is None:
        raise ValueError(
            "this denoiser has no probability of each code (log_probs), which the mixture kernel, "
            "the network's decoder and sample.name = 'mixture_ancestral' need: it is that of a "
            "model with model.prediction = 'codes', unguided or with classifier-free guidance"
        )
    return log_probs


def all_codes(num_codes: int, ndim: int) -> Float[Array, "*ones codes"]:
    """x_k of every code, after `ndim` axes of size one."""
    return codes_to_x(jnp.arange(num_codes), num_codes).reshape((1,) * ndim + (num_codes,))


def _distances(z: Array, omega: PerExample, num_codes: int) -> Array:
    """(z - alpha x_k) / sigma of every code on a last axis."""
    omega = expand(omega, z)[..., None]
    return (z[..., None] - alpha(omega) * all_codes(num_codes, z.ndim)) / sigma(omega)


def code_log_probs(
    logits: Float[Array, "batch *dims codes"],
    z: Float[Array, "batch *dims"],
    omega: PerExample,
) -> Float[Array, "batch *dims codes"]:
    """log p_k(z_t), nats: the log softmax of logits + log q(z_t | x_k)."""
    distance = _distances(z, omega, logits.shape[-1])
    return jax.nn.log_softmax(logits - 0.5 * jnp.square(distance), axis=-1)


def mean_eps(
    log_probs: Float[Array, "batch *dims codes"],
    z: Float[Array, "batch *dims"],
    omega: PerExample,
) -> Float[Array, "batch *dims"]:
    """eps_hat of the codes' distribution, the mean of (z - alpha x_k) / sigma."""
    return jnp.sum(jnp.exp(log_probs) * _distances(z, omega, log_probs.shape[-1]), axis=-1)


def log_prob_of(
    log_probs: Float[Array, "batch *dims codes"], codes: Integer[Array, "batch *dims"]
) -> Float[Array, " batch"]:
    """The sum of log p_k at the given codes, nats per example: with the probabilities at z_0, the
    network's own decoder log p(x | z_0)."""
    index = codes.astype(jnp.int32)[..., None]
    chosen = jnp.take_along_axis(log_probs, index, axis=-1)
    return jnp.sum(chosen, axis=tuple(range(1, chosen.ndim)))


def draw_codes(
    log_probs: Float[Array, "batch *dims codes"], noise: Float[Array, "batch *dims"]
) -> Int[Array, "batch *dims"]:
    """Draws a code for each dimension, by the inverse of its distribution function at Phi(noise)
    for standard normal noise."""
    below = jnp.cumsum(jnp.exp(log_probs), axis=-1)
    # The last sum may miss 1 by rounding, so it is the quantile that is scaled.
    quantile = jax.scipy.stats.norm.cdf(noise)[..., None] * below[..., -1:]
    return jnp.sum(below[..., :-1] <= quantile, axis=-1, dtype=jnp.int32)


def guided_log_probs(
    conditional: CodeLogProbs, unconditional: CodeLogProbs, strength: float
) -> CodeLogProbs:
    """Classifier-free guidance of the logits: probabilities proportional to
    p_k(without label)^(1 - strength) p_k(with label)^strength."""

    def log_probs(z: Array, omega: Array) -> Array:
        without = unconditional(z, omega)
        guided = without + strength * (conditional(z, omega) - without)
        return jax.nn.log_softmax(guided, axis=-1)

    return log_probs
