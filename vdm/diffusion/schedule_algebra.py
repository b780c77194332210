"""Operations on any schedule omega(t): its slope, its inverse, the density of omega that it gives
for t ~ U(0, 1), the same schedule with other times or other ends, and the best schedule for a given
loss.

In continuous time the bound is an integral over omega, so any schedule with the same ends may
replace another on a trained model; only the variance of its estimate changes (VDM section 5.1,
Eq. 18-19). All schedules here have one omega for all dimensions.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm.typing import ScheduleFn

HALVINGS = 60
"""Bisections of the bracket [0, 1] of an inverse: exact to the last digit even in float64, unless
t is tiny."""


def omega_dot(schedule: ScheduleFn, t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The slope omega'(t) of the schedule."""
    return jax.jvp(schedule, (t,), (jnp.ones_like(t),))[1]


def inverse(schedule: ScheduleFn, omega: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Finds the t with schedule(t) = omega by bisection; 0 or 1 for an omega beyond the ends.

    The result is differentiable in omega and in what the schedule closes over: by the implicit
    function theorem dt = (domega - dschedule) / omega'(t), which one Newton step of size zero
    provides. The derivative is 0 where the schedule is flat.
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
    slope = jnp.where(slope > 0, slope, jnp.inf)  # Avoids 0 / 0 where the schedule is flat.
    return t + (error - jax.lax.stop_gradient(error)) / slope


def density(schedule: ScheduleFn, omega: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The density p(omega) = 1 / omega'(t(omega)) of omega(t) for t ~ U(0, 1), per nat. Its
    integral between the ends is 1."""
    return 1 / omega_dot(schedule, inverse(schedule, omega))


def next_omega(
    schedule: ScheduleFn, omega_t: Float[Array, "*shape"], num_steps: int
) -> Float[Array, "*shape"]:
    """The omega at which the step of a T-step model ends that begins at omega_t: omega(t - 1/T) for
    the t with omega(t) = omega_t, which need not be on a grid. Below t = 0 the schedule continues
    by odd reflection, omega(-u) = 2 omega_0 - omega(u), so that every omega from omega_0 to omega_1
    has a next step.
    """
    s = inverse(schedule, omega_t) - 1 / num_steps
    omega = schedule(jnp.abs(s))
    return jnp.where(s < 0, 2 * schedule(jnp.zeros_like(s)) - omega, omega)


def retimed(schedule: ScheduleFn, time: ScheduleFn) -> ScheduleFn:
    """The schedule t -> schedule(time(t)), for an increasing `time` from [0, 1] into [0, 1]."""
    return lambda t: schedule(time(t))


def between(
    schedule: ScheduleFn, omega_0: Float[Array, ""], omega_1: Float[Array, ""]
) -> ScheduleFn:
    """The part of a schedule from omega_0 to omega_1, re-timed to [0, 1].

    Both must lie between the schedule's own ends; a value beyond one is replaced by that end.
    Clipping omega would make omega' = 0 there, and the bound would lose that mass.
    """
    first, last = inverse(schedule, omega_0), inverse(schedule, omega_1)
    return retimed(schedule, lambda t: (1 - t) * first + t * last)


def stretched(
    schedule: ScheduleFn, omega_0: Float[Array, ""], omega_1: Float[Array, ""]
) -> ScheduleFn:
    """The schedule with the same shape between other ends, by a linear map of omega."""

    def omega(t: Array) -> Array:
        own_0, own_1 = schedule(jnp.zeros((), t.dtype)), schedule(jnp.ones((), t.dtype))
        ratio = (schedule(t) - own_0) / (own_1 - own_0)
        return (1 - ratio) * omega_0 + ratio * omega_1

    return omega


def from_density(omegas: Float[Array, " points"], density: Float[Array, " points"]) -> ScheduleFn:
    """The schedule from omegas[0] to omegas[-1] under which omega has the given density, which must
    be positive and need not be normalised; it is linear between the increasing points."""
    # The mass is divided by its own last value: jnp.sum rounds differently and would miss the end.
    mass = jnp.cumsum(0.5 * (density[1:] + density[:-1]) * jnp.diff(omegas))
    t_of_points = jnp.append(jnp.zeros((), mass.dtype), mass) / mass[-1]
    return lambda t: jnp.interp(t, t_of_points, omegas)


def optimal(omegas: Float[Array, " points"], second_moment: Float[Array, " points"]) -> ScheduleFn:
    """The schedule for which the denoising estimate l = omega'(t) d, t ~ U(0, 1), has the least
    variance; d is the loss density and second_moment is E[d^2 | omega] at the points.

    This is importance sampling: E[l^2], the integral of E[d^2 | omega] / p(omega) over omega, is by
    Cauchy and Schwarz at least (integral of sqrt(E[d^2 | omega]))^2, with equality for
    p ~ sqrt(E[d^2 | omega]).
    """
    return from_density(omegas, jnp.sqrt(second_moment))
