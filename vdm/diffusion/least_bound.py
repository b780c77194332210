"""Noise levels of T steps that make the bound of the T-step model least, by dynamic programming
(Watson et al. 2021, arXiv:2106.03802).

The bound of the levels i_0 < i_1 < ... < i_T is a sum over neighbours,

    D(i_0) + K(i_0, i_1) + ... + K(i_{T-1}, i_T) + P(i_T),

of the decoder's cost at the lowest level, that of each step, and the prior's at the highest. Hence

    best_k(t) = min over s < t of best_{k-1}(s) + K(s, t),   best_0 = D,

and the least bound is the minimum of best_T + P. The costs are measured at a few levels
(`vdm.evaluation.step_costs`) and interpolated between them.
"""

from typing import NamedTuple

import numpy as np

FINE = 1024
"""The number of equal parts of [omega_0, omega_1], at whose ends the levels are chosen."""

COARSE = 64
"""The number of equal parts at whose ends the costs are measured."""

MOST_STEPS = 512

LEAST = 1e-12
"""Where a rate is less, nats per unit of omega, its logarithm is that of this number."""


class StepCosts(NamedTuple):
    """What the parts of a bound cost at N equally spaced levels, nats per example, means over data.

    omegas: the levels, increasing. rates: for s < t, the cost K(s, t) of a step divided by
    omega_t - omega_s; on the diagonal the limit for a short step, the mean loss density; other
    entries are not read. decoder: D. prior: P.
    """

    omegas: np.ndarray
    rates: np.ndarray
    decoder: np.ndarray
    prior: np.ndarray


def fine_levels(omega_0: float, omega_1: float) -> np.ndarray:
    """The levels to choose from, float32 [1025]: computed in float64 and rounded once. Compressed
    files name their levels by their numbers in this array, so it must not change."""
    index = np.arange(FINE + 1, dtype=np.float64)
    return (omega_0 + (omega_1 - omega_0) * index / FINE).astype(np.float32)


def choose(costs: StepCosts, num_steps: int) -> tuple[int, ...]:
    """Returns the num_steps + 1 increasing indices into `fine_levels` of least bound.

    costs: at the ends of COARSE parts. ValueError for more than 512 steps.
    """
    if not 1 <= num_steps <= MOST_STEPS:
        raise ValueError(
            f"the levels of {num_steps} steps cannot be chosen: take 1 to {MOST_STEPS} steps, or "
            "the grid 'equal_times', which is as good for more"
        )
    steps = fine_steps(costs)
    fine, coarse = np.linspace(0, COARSE, FINE + 1), np.arange(COARSE + 1)
    best = np.interp(fine, coarse, costs.decoder)
    before = []
    for _ in range(num_steps):
        through = steps + best  # [t, s]
        before.append(np.argmin(through, axis=1))
        best = through[np.arange(FINE + 1), before[-1]]
    levels = [int(np.argmin(best + np.interp(fine, coarse, costs.prior)))]
    for lower in reversed(before):
        levels.append(int(lower[levels[-1]]))
    return tuple(reversed(levels))


def fine_steps(costs: StepCosts) -> np.ndarray:
    """The cost K(s, t) of a step from level t to level s of the fine ones, [t, s], nats; infinite
    unless s < t.

    The logarithm of K(s, t) / (omega_t - omega_s) is nearly linear in omega_t and in the distance
    of the levels, in which it is interpolated: of all that a step costs, most is a factor that
    depends on omega_t, times expm1(distance) or, of large steps, a constant.
    """
    points = np.arange(COARSE + 1)
    distance, end = points[:, None], np.maximum(points[:, None], points[None, :])
    rates = np.log(np.maximum(costs.rates[end - distance, end], LEAST))  # [distance, t]
    # From between two levels to the lowest one, the distance reaches below that from the first.
    d, t = points[1:], points[:-1]
    rates[d, t] = rates[d, d] + rates[t, t] - rates[t, d]
    place = np.linspace(0, COARSE, FINE + 1)
    below = np.minimum(place.astype(int), COARSE - 1)
    share = place - below
    at_t = (1 - share) * rates[:, below] + share * rates[:, below + 1]  # [coarse distance, fine t]
    at_t = (1 - share[:, None]) * at_t[below] + share[:, None] * at_t[below + 1]
    index = np.arange(FINE + 1)
    apart = index[:, None] - index[None, :]  # [t, s]
    span = (costs.omegas[-1] - costs.omegas[0]) / FINE
    steps = np.exp(at_t[np.maximum(apart, 0), index[:, None]]) * (apart * span)
    return np.where(apart > 0, steps, np.inf)
