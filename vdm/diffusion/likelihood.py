"""p(x | z_0): from the least noisy latent back to the data.

`Discretised` is the VDM paper's likelihood of integer codes (section 3.3 and appendix E);
`Gaussian` is a density for real-valued data. Both satisfy `vdm.typing.Likelihood`.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Num

from vdm.diffusion.noise import alpha, expand, sigma
from vdm.typing import PerExample

WINDOW = 17
"""Neighbouring codes that the normaliser of `Discretised` runs over, where that is exact."""

EXACT_SPACING = 0.7
"""Noise standard deviations between neighbouring codes from which the window is exact.

The nearest code lies within half a spacing d of z, the first one left out at 8.5 d or more:
its term is exp(-(8.5^2 - 0.5^2) d^2 / 2) < 2.3e-8 of the largest, below float32's rounding.
"""


def codes_to_x(codes: Integer[Array, "*shape"], num_codes: int) -> Float[Array, "*shape"]:
    """x = 2 (code + 1/2) / V - 1: the centres of V equal bins of [-1, 1]."""
    # 2 code + 1 - V is an exact integer; one rounding remains, and x(V-1-c) = -x(c) exactly.
    return (2 * codes.astype(jnp.int32) + 1 - num_codes) / num_codes


def x_to_codes(x: Float[Array, "*shape"], num_codes: int) -> Integer[Array, "*shape"]:
    """The nearest code, shape of x, clipped to 0 .. V-1."""
    codes = jnp.floor((x + 1) * (num_codes / 2))
    return jnp.clip(codes, 0, num_codes - 1).astype(jnp.int32)


def discretised_log_prob(
    codes: Integer[Array, "*shape"],
    noise: Float[Array, "*shape"],
    omega_0: Float[Array, ""],
    num_codes: int,
) -> Float[Array, "*shape"]:
    """log p(code | z_0) in nats per dimension: a softmax over all V codes of
    -1/2 (z_0/alpha_0 - x(v))^2 / (sigma_0/alpha_0)^2, taken at v = code (VDM Eq. 30).

    `noise` u = (z_0/alpha_0 - x(code)) / (sigma_0/alpha_0) is z_0's distance from the true
    code in standard deviations; for z_0 ~ q(z_0|x) it is the drawn eps_0 itself, without the
    4e-5 that forming z_0 - x loses in float32 at omega_0 = -13.3.

    Only a window of neighbouring codes enters the normaliser where that is exact to float32
    (EXACT_SPACING); elsewhere all codes do. No array of V values per dimension is kept.
    """
    spacing = 2 / num_codes * jnp.exp(-0.5 * omega_0)  # between codes, in standard deviations
    # m: the nearest code's offset from the true one. Distances are taken from it, because
    # differences of squares of distances from far codes cancel (1e6 - 1e6 at V = 256).
    m = jnp.clip(jnp.round(jax.lax.stop_gradient(noise / spacing)), -codes, num_codes - 1 - codes)
    to_nearest = noise - m * spacing
    nearest = codes + m.astype(codes.dtype)

    def log_normaliser(width: int) -> Float[Array, "*shape"]:
        """log sum over `width` codes around the nearest, relative to the nearest one's term."""
        first = jnp.clip(nearest - width // 2, 0, num_codes - width) - nearest
        offsets = first[..., None] + jax.lax.broadcasted_iota(
            first.dtype, (*first.shape, width), first.ndim
        )
        distances = offsets * spacing
        return jax.nn.logsumexp(distances * (to_nearest[..., None] - 0.5 * distances), axis=-1)

    def windowed() -> Float[Array, "*shape"]:
        return log_normaliser(WINDOW)

    def over_all() -> Float[Array, "*shape"]:
        return log_normaliser(num_codes)

    if num_codes <= WINDOW or noise.dtype == jnp.float64:  # the window is exact to float32 only
        normaliser = over_all()
    else:
        normaliser = jax.lax.cond(spacing >= EXACT_SPACING, windowed, over_all)
    return -0.5 * m * spacing * (2 * to_nearest + m * spacing) - normaliser


def expected_x(
    logits: Float[Array, "batch *dims codes"],
    z: Float[Array, "batch *dims"],
    omega: PerExample,
) -> Float[Array, "batch *dims"]:
    """x_hat = E[x] over codes v with probabilities proportional to exp(logit_v) q(z | x(v)).

    A network's logits say what z's neighbours tell of a dimension, q(z | x(v)) what z itself
    does. With logits 0 this is the exact denoiser of independent uniform codes, and the bound
    log2 V bits/dim. The softmax over codes is the score interpolation of CDCD
    (arXiv:2211.15089, section 3.1).
    """
    num_codes = logits.shape[-1]
    x = codes_to_x(jnp.arange(num_codes), num_codes).reshape((1,) * z.ndim + (num_codes,))
    omega = expand(omega, z)[..., None]
    distance = (z[..., None] - alpha(omega) * x) / sigma(omega)
    probabilities = jax.nn.softmax(logits - 0.5 * jnp.square(distance), axis=-1)
    return jnp.sum(probabilities * x, axis=-1)


@dataclasses.dataclass(frozen=True)
class Discretised:
    """Integer codes 0 .. num_codes - 1; a probability, so bits/dim is at least zero."""

    num_codes: int

    def encode(self, data: Num[Array, "*shape"]) -> Float[Array, "*shape"]:
        """codes -> x in (-1, 1)."""
        return codes_to_x(data, self.num_codes)

    def decode(
        self, z_0: Float[Array, "*shape"], omega_0: Float[Array, ""]
    ) -> Integer[Array, "*shape"]:
        """argmax over codes of p(code | z_0): the nearest one."""
        return x_to_codes(z_0 / alpha(omega_0), self.num_codes)

    def log_prob(
        self,
        data: Num[Array, "batch *dims"],
        z_0: Float[Array, "batch *dims"],
        omega_0: Float[Array, ""],
    ) -> Float[Array, " batch"]:
        """log p(codes | z_0), nats per example."""
        noise = (z_0 - alpha(omega_0) * self.encode(data)) / sigma(omega_0)
        return -self.reconstruction(data, noise, omega_0)

    def reconstruction(
        self,
        data: Num[Array, "batch *dims"],
        eps_0: Float[Array, "batch *dims"],
        omega_0: Float[Array, ""],
    ) -> Float[Array, " batch"]:
        """-log p(codes | z_0 = alpha_0 x + sigma_0 eps_0), nats per example."""
        codes = data.astype(jnp.int32)
        log_prob = discretised_log_prob(codes, eps_0, omega_0, self.num_codes)
        return -jnp.sum(log_prob, axis=tuple(range(1, eps_0.ndim)))


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Real-valued data: p(x | z_0) = N(z_0/alpha_0, sigma_0^2/alpha_0^2), a density.

    Its bound is differential: nats may be negative, and it has a floor only because omega_0
    has. The variance is exp(omega_0), learned with the schedule's end point.
    """

    def encode(self, data: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The data themselves."""
        return data

    def decode(
        self, z_0: Float[Array, "*shape"], omega_0: Float[Array, ""]
    ) -> Float[Array, "*shape"]:
        """The mean, z_0 / alpha_0."""
        return z_0 / alpha(omega_0)

    def log_prob(
        self,
        data: Float[Array, "batch *dims"],
        z_0: Float[Array, "batch *dims"],
        omega_0: Float[Array, ""],
    ) -> Float[Array, " batch"]:
        """log p(x | z_0), nats per example."""
        return -self.reconstruction(data, (z_0 - alpha(omega_0) * data) / sigma(omega_0), omega_0)

    def reconstruction(
        self,
        data: Float[Array, "batch *dims"],
        eps_0: Float[Array, "batch *dims"],
        omega_0: Float[Array, ""],
    ) -> Float[Array, " batch"]:
        """-log p(x | z_0 = alpha_0 x + sigma_0 eps_0), nats per example."""
        del data  # the distance to it is eps_0
        per_dim = 0.5 * (jnp.square(eps_0) + omega_0 + math.log(2 * math.pi))
        return jnp.sum(per_dim, axis=tuple(range(1, eps_0.ndim)))
