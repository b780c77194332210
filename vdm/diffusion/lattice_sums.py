"""Sums of a normal over the lattice of codes, which make a distribution of codes from few numbers.

A normal of any centre and width, taken at the V codes, has the terms exp(j slope - 1/2 j^2
precision) relative to that of the code nearest to its centre, where j counts codes from there. All
of them are at most 1, and no difference of large squares is ever formed.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

UNROLLED = 8
"""Codes that one turn of the loop adds: the sums are read and written once for all of them."""


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def log_sum_and_mean(
    num_codes: int,
    nearest: Int[Array, "*shape"],
    slope: Float[Array, "*shape"],
    precision: Float[Array, "*shape"],
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """The log of the sum of the terms over all codes, and the mean of j under them.

    Args:
        num_codes: V.
        nearest: the code nearest to the normal's centre.
        slope: the centre minus that code, in codes, times the precision.
        precision: 1 / variance of the normal, for a distance in codes.
    """
    total, first, _, _ = _sums(num_codes, nearest, slope, precision)
    return jnp.log(total), first / total


@log_sum_and_mean.defjvp
def _log_sum_and_mean_jvp(num_codes: int, primals: tuple, tangents: tuple) -> tuple:
    # The moments that the slopes need come from the same loop as the value: differentiating
    # through it would keep the terms of all codes.
    total, *sums = _sums(num_codes, *primals)
    mean, second, third = (moment / total for moment in sums)
    _, d_slope, d_precision = tangents
    variance, skew = second - jnp.square(mean), third - mean * second
    d_log_sum = mean * d_slope - 0.5 * second * d_precision
    d_mean = variance * d_slope - 0.5 * skew * d_precision
    return (jnp.log(total), mean), (d_log_sum, d_mean)


def _sums(num_codes: int, nearest: Array, slope: Array, precision: Array) -> tuple[Array, ...]:
    """The sums of the terms times 1, j, j^2 and j^3."""
    nearest, half = nearest.astype(slope.dtype), 0.5 * precision

    def add(code: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        j = code.astype(slope.dtype) - nearest
        powers = [jnp.exp(j * (slope - j * half))]
        for _ in sums[1:]:
            powers.append(powers[-1] * j)
        return tuple(jnp.add(*pair) for pair in zip(sums, powers, strict=True))

    zeros = (jnp.zeros_like(slope),) * 4
    return jax.lax.fori_loop(0, num_codes, add, zeros, unroll=min(UNROLLED, num_codes))
