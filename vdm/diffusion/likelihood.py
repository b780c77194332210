"""The likelihood p(x | z_0), which leads from the least noisy latent back to the data.

`Discretised` is the VDM paper's likelihood of integer codes (section 3.3);
`Gaussian` is a density for real-valued data. Both satisfy `vdm.typing.Likelihood`.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from vdm.diffusion.noise import alpha, expand, sigma
from vdm.typing import EndPoint, PerExample

WINDOW = 17
"""Number of neighbouring codes that the normaliser of `Discretised` sums where that is exact."""

EXACT_SPACING = 0.7
"""Spacing of neighbouring codes, in standard deviations of the noise, from which on the window is
exact.

The nearest code lies within half a spacing d of z and the first code outside the window at 8.5 d or
more: its term is exp(-(8.5^2 - 0.5^2) d^2 / 2) < 2.3e-8 of the largest, below float32's rounding.
"""


def codes_to_x(codes: Integer[Array, "*shape"], num_codes: int) -> Float[Array, "*shape"]:
    """Maps codes to the centres of V equal bins of [-1, 1], x = 2 (code + 1/2) / V - 1."""
    # 2 code + 1 - V is an exact integer; one rounding remains, and x(V-1-c) = -x(c) exactly.
    # The divisor is not an integer, as the result would then be float32 even with float64 enabled.
    return (2 * codes.astype(jnp.int32) + 1 - num_codes) / jnp.asarray(
        num_codes, jnp.result_type(float)
    )


def x_to_codes(x: Float[Array, "*shape"], num_codes: int) -> Integer[Array, "*shape"]:
    """Maps x to the nearest code in 0 .. V-1, in the shape of x."""
    codes = jnp.floor((x + 1) * (num_codes / 2))
    return jnp.clip(codes, 0, num_codes - 1).astype(jnp.int32)


def discretised_log_prob(
    codes: Integer[Array, "*shape"],
    noise: Float[Array, "*shape"],
    omega_0: Float[Array, "..."],
    num_codes: int,
) -> Float[Array, "*shape"]:
    """log p(code | z_0) in nats per dimension: the log softmax over all V codes v of
    -1/2 (z_0/alpha_0 - x(v))^2 / (sigma_0/alpha_0)^2, taken at v = code (VDM section 3.3).

    Args:
        codes: the true codes.
        noise: u = (z_0/alpha_0 - x(code)) / (sigma_0/alpha_0), the distance of z_0 from the true
            code in standard deviations. For z_0 ~ q(z_0|x) it is the drawn eps_0 itself, which
            avoids the error of 4e-5 that forming z_0 - x makes in float32 at omega_0 = -13.3.
        omega_0: -log SNR of z_0, without axes or with as many as the noise.
        num_codes: V.
    """
    codes = codes.astype(jnp.int32)
    spacing = 2 / num_codes * jnp.exp(-0.5 * omega_0)  # Of codes, in standard deviations.
    # m is the nearest code's offset from the true one. Distances are measured from the nearest
    # code, because differences of squared distances from far codes cancel (1e6 - 1e6 at V = 256).
    m = jnp.clip(jnp.round(jax.lax.stop_gradient(noise / spacing)), -codes, num_codes - 1 - codes)
    to_nearest = noise - m * spacing
    normaliser = log_normaliser(num_codes, codes + m.astype(codes.dtype), to_nearest, spacing)
    return -0.5 * m * spacing * (2 * to_nearest + m * spacing) - normaliser


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def log_normaliser(
    num_codes: int,
    nearest: Integer[Array, "*shape"],
    to_nearest: Float[Array, "*shape"],
    spacing: Float[Array, "..."],
) -> Float[Array, "*shape"]:
    """The log of the sum over codes of exp(-1/2 distance^2), relative to the nearest code's term.

    Only a window of neighbouring codes is summed where that is exact to float32 (EXACT_SPACING),
    all codes elsewhere.

    Args:
        num_codes: V.
        nearest: the code nearest to z_0.
        to_nearest: z_0 minus the nearest code, in standard deviations.
        spacing: the distance between neighbouring codes, in standard deviations.
    """
    return _normaliser_and_slopes(num_codes, nearest, to_nearest, spacing)[0]


@log_normaliser.defjvp
def _log_normaliser_jvp(num_codes: int, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    # The slopes come from the same branch as the value: differentiating through the cond would
    # keep V-sized arrays of both branches (13 times slower for the window at V = 256).
    value, grad_noise, grad_spacing = _normaliser_and_slopes(num_codes, *primals)
    return value, grad_noise * tangents[1] + grad_spacing * tangents[2]


def _normaliser_and_slopes(
    num_codes: int, nearest: Array, to_nearest: Array, spacing: Array
) -> tuple[Array, Array, Array]:
    """The log normaliser and its derivatives in to_nearest and spacing, each like to_nearest."""
    spacing_of_codes = spacing[..., None] if spacing.ndim else spacing

    def sums(first: Array, width: int) -> tuple[Array, Array, Array]:
        """Sums the terms of the codes first ... first + width - 1, and their two slopes. The
        largest term is the nearest code's, exp(0), so no maximum needs to be subtracted first."""
        codes = first[..., None] + jax.lax.broadcasted_iota(
            first.dtype, (*first.shape, width), first.ndim
        )
        offsets = codes - nearest[..., None]
        distances = offsets * spacing_of_codes
        terms = jnp.exp(distances * (to_nearest[..., None] - 0.5 * distances))
        terms = jnp.where(codes < num_codes, terms, 0.0)
        spacing_slopes = terms * offsets * (to_nearest[..., None] - distances)
        noise_slopes = terms * distances
        total, noise_slope = jnp.sum(terms, axis=-1), jnp.sum(noise_slopes, axis=-1)
        return total, noise_slope, jnp.sum(spacing_slopes, axis=-1)

    def over_window() -> tuple[Array, Array, Array]:
        return sums(jnp.clip(nearest - WINDOW // 2, 0, num_codes - WINDOW), WINDOW)

    def over_all() -> tuple[Array, Array, Array]:
        # One window at a time: the terms of all codes would be the largest arrays of a step.
        def add(index: Array, so_far: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            first = jnp.full_like(nearest, WINDOW * index)
            return jax.tree.map(jnp.add, so_far, sums(first, WINDOW))

        zeros = (jnp.zeros_like(to_nearest),) * 3
        return jax.lax.fori_loop(0, -(-num_codes // WINDOW), add, zeros)

    if num_codes <= WINDOW:
        totals = sums(jnp.zeros_like(nearest), num_codes)
    elif to_nearest.dtype == jnp.float64:  # The window is exact to float32 only.
        totals = over_all()
    else:
        totals = jax.lax.cond(jnp.all(spacing >= EXACT_SPACING), over_window, over_all)
    total, noise_slope, spacing_slope = totals
    return jnp.log(total), noise_slope / total, spacing_slope / total


def expected_eps(
    logits: Float[Array, "batch *dims codes"],
    z: Float[Array, "batch *dims"],
    omega: PerExample,
) -> Float[Array, "batch *dims"]:
    """eps_hat from a network's logits: the mean of (z - alpha x(v)) / sigma over codes v with
    probabilities proportional to exp(logit_v) q(z | x(v)).

    The logits add what the other dimensions say about this one to what z itself says,
    q(z | x(v)). With all logits 0 this is the exact denoiser of independent uniform codes, whose
    bound is log2 V bits/dim. The softmax over codes is the score interpolation of CDCD
    (arXiv:2211.15089, section 3.1).
    """
    num_codes = logits.shape[-1]
    x = codes_to_x(jnp.arange(num_codes), num_codes).reshape((1,) * z.ndim + (num_codes,))
    omega = expand(omega, z)[..., None]
    # The mean of the distances is 9 times more exact than (z - alpha x_hat) / sigma in float32 at
    # omega = -8, V = 256.
    distance = (z[..., None] - alpha(omega) * x) / sigma(omega)
    probabilities = jax.nn.softmax(logits - 0.5 * jnp.square(distance), axis=-1)
    return jnp.sum(probabilities * distance, axis=-1)


@dataclasses.dataclass(frozen=True)
class Discretised:
    """The likelihood of integer codes 0 .. num_codes - 1: a probability, so bits/dim >= 0."""

    num_codes: int

    def encode(self, data: Integer[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Maps codes to x in (-1, 1)."""
        return codes_to_x(data, self.num_codes)

    def decode(
        self, z_0: Float[Array, "batch *dims"], omega_0: EndPoint
    ) -> Integer[Array, "batch *dims"]:
        """The most likely code given z_0, which is the nearest one."""
        return x_to_codes(z_0 / alpha(omega_0), self.num_codes)

    def log_prob(
        self,
        data: Integer[Array, "batch *dims"],
        z_0: Float[Array, "batch *dims"],
        omega_0: EndPoint,
    ) -> Float[Array, " batch"]:
        """log p(codes | z_0), nats per example."""
        noise = (z_0 - alpha(omega_0) * self.encode(data)) / sigma(omega_0)
        return -self.reconstruction(data, noise, omega_0)

    def reconstruction(
        self,
        data: Integer[Array, "batch *dims"],
        eps_0: Float[Array, "batch *dims"],
        omega_0: EndPoint,
    ) -> Float[Array, " batch"]:
        """-log p(codes | z_0 = alpha_0 x + sigma_0 eps_0), nats per example."""
        log_prob = discretised_log_prob(data, eps_0, omega_0, self.num_codes)
        return -jnp.sum(log_prob, axis=tuple(range(1, eps_0.ndim)))

    def log_probs(
        self, z_0: Float[Array, "batch *dims"], omega_0: EndPoint
    ) -> Float[Array, "batch *dims codes"]:
        """log p(code | z_0) of every code on a last axis, nats."""
        x = codes_to_x(jnp.arange(self.num_codes), self.num_codes).reshape((1,) * z_0.ndim + (-1,))
        distance = (z_0 / alpha(omega_0))[..., None] - x
        precision = jnp.exp(-omega_0)  # 1 / variance of z_0 / alpha_0
        precision = precision[..., None] if precision.ndim else precision
        return jax.nn.log_softmax(-0.5 * precision * jnp.square(distance), axis=-1)


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """The likelihood of real-valued data, the density p(x | z_0) = N(z_0/alpha_0,
    sigma_0^2/alpha_0^2).

    As it is a density, the bound may be negative, and it is bounded below only because omega_0 is.
    The variance is exp(omega_0), learned with the schedule's end point.
    """

    def encode(self, data: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns the data unchanged."""
        return data

    def decode(
        self, z_0: Float[Array, "batch *dims"], omega_0: EndPoint
    ) -> Float[Array, "batch *dims"]:
        """The mean of p(x | z_0), z_0 / alpha_0."""
        return z_0 / alpha(omega_0)

    def log_prob(
        self,
        data: Float[Array, "batch *dims"],
        z_0: Float[Array, "batch *dims"],
        omega_0: EndPoint,
    ) -> Float[Array, " batch"]:
        """log p(x | z_0), nats per example."""
        return -self.reconstruction(data, (z_0 - alpha(omega_0) * data) / sigma(omega_0), omega_0)

    def reconstruction(
        self,
        data: Float[Array, "batch *dims"],
        eps_0: Float[Array, "batch *dims"],
        omega_0: EndPoint,
    ) -> Float[Array, " batch"]:
        """-log p(x | z_0 = alpha_0 x + sigma_0 eps_0), nats per example."""
        del data  # Its distance from z_0 is eps_0.
        per_dim = 0.5 * (jnp.square(eps_0) + omega_0 + math.log(2 * math.pi))
        return jnp.sum(per_dim, axis=tuple(range(1, eps_0.ndim)))
