"""What one can do with a schedule omega(t), whatever it is made of: its slope, its inverse, the
density of omega that it makes of t ~ U(0, 1), the same with other times or other ends, and the
best one for a given loss.

In continuous time the bound is an integral over omega, so any schedule with the same ends may
replace another on a trained model; only the variance of its estimate changes (VDM section 5.1,
Eq. 18-19). Everything here is for schedules of one omega for all dimensions.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm.typing import ScheduleFn

HALVINGS = 60
"""Of the bracket [0, 1] of an inverse: to the last digit also in float64, where t is not tiny."""


def omega_dot(schedule: ScheduleFn, t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """omega'(t)."""
    return jax.jvp(schedule, (t,), (jnp.ones_like(t),))[1]


def inverse(schedule: ScheduleFn, omega: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """t with schedule(t) = omega, by bisection; 0 or 1 for omega beyond the ends.

    Differentiable in omega and in what the schedule closes over: dt = (domega - dschedule) /
    omega'(t), the implicit function theorem, through one Newton step of size zero; 0 where the
    schedule is flat.
    """

    def halve(_: Array, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = 0.5 * (low + high)
        below = schedule(middle) < omega
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = jax.lax.fori_loop(0, HALVINGS, halve, (jnp.zeros_like(omega), jnp.ones_like(omega)))
    t = jax.lax.stop_gradient(0.5 * (low + high))
    t = jnp.where(omega <= schedule(jnp.zeros_like(omega)), 0.0, t)
    t = jnp.where(omega >= schedule(jnp.ones_like(omega)), 1.0, t)
    error = omega - schedule(t)
    slope = jax.lax.stop_gradient(omega_dot(schedule, t))
    slope = jnp.where(slope > 0, slope, jnp.inf)  # flat there: no derivative, and no 0 / 0
    return t + (error - jax.lax.stop_gradient(error)) / slope


def density(schedule: ScheduleFn, omega: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """p(omega) = 1 / omega'(t(omega)), the density of omega(t) for t ~ U(0, 1), per nat. Its
    integral between the ends is 1."""
    return 1 / omega_dot(schedule, inverse(schedule, omega))


def next_omega(
    schedule: ScheduleFn, omega_t: Float[Array, "*shape"], num_steps: int
) -> Float[Array, "*shape"]:
    """omega(t - 1/T) for the t with omega(t) = omega_t: where the step of a T-step model that
    begins at omega_t ends, whatever grid omega_t comes from. Below t = 0 the schedule goes on by
    odd reflection, omega(-u) = 2 omega_0 - omega(u), so that every omega from omega_0 to omega_1
    has a next step.
    """
    s = inverse(schedule, omega_t) - 1 / num_steps
    omega = schedule(jnp.abs(s))
    return jnp.where(s < 0, 2 * schedule(jnp.zeros_like(s)) - omega, omega)


def retimed(schedule: ScheduleFn, time: ScheduleFn) -> ScheduleFn:
    """t -> schedule(time(t)), for an increasing `time` from [0, 1] into [0, 1]."""
    return lambda t: schedule(time(t))


def between(
    schedule: ScheduleFn, omega_0: Float[Array, ""], omega_1: Float[Array, ""]
) -> ScheduleFn:
    """The part of a schedule that runs from omega_0 to omega_1, re-timed to [0, 1].

    Both must lie within its own ends; beyond them the result stays at its own ends. Clipping
    omega instead would have omega' = 0 there, and the bound would lose that mass.
    """
    first, last = inverse(schedule, omega_0), inverse(schedule, omega_1)
    return retimed(schedule, lambda t: (1 - t) * first + t * last)


def stretched(
    schedule: ScheduleFn, omega_0: Float[Array, ""], omega_1: Float[Array, ""]
) -> ScheduleFn:
    """A schedule of the same shape between other ends: omega is mapped by a straight line."""

    def omega(t: Array) -> Array:
        own_0, own_1 = schedule(jnp.zeros((), t.dtype)), schedule(jnp.ones((), t.dtype))
        ratio = (schedule(t) - own_0) / (own_1 - own_0)
        return (1 - ratio) * omega_0 + ratio * omega_1

    return omega


def from_density(omegas: Float[Array, " points"], density: Float[Array, " points"]) -> ScheduleFn:
    """The schedule from omegas[0] to omegas[-1] under which omega has this density (which need not
    be normalised), a straight line between the increasing, positive points."""
    # Divided by its own last value: jnp.sum rounds differently, and the end would be missed.
    mass = jnp.cumsum(0.5 * (density[1:] + density[:-1]) * jnp.diff(omegas))
    t_of_points = jnp.append(jnp.zeros((), mass.dtype), mass) / mass[-1]
    return lambda t: jnp.interp(t, t_of_points, omegas)


def optimal(omegas: Float[Array, " points"], second_moment: Float[Array, " points"]) -> ScheduleFn:
    """The schedule with the least variance of the denoising estimate l = omega'(t) d, t ~ U(0, 1),
    where d is the loss density and second_moment = E[d^2 | omega] at the points.

    E[l^2] = integral of E[d^2 | omega] / p(omega) over omega, at least (integral of
    sqrt(E[d^2 | omega]))^2 by Cauchy and Schwarz, with equality for p ~ sqrt(E[d^2 | omega]):
    importance sampling.
    """
    return from_density(omegas, jnp.sqrt(second_moment))
