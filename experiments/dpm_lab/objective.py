"""The terms of the bound averaged over q(x), S4 3.4.2, for two steps x -> z_1 -> z_2.

log_p is log p(z_1 = z_i | z_2 = z_j), [n, n], or likewise log p(x | z_1).
"""

from collections.abc import Sequence

import numpy as np

from experiments.dpm_lab import kernels
from experiments.dpm_lab.grid import Array, Grid


def posterior(alphas: Sequence[float]) -> tuple[float, float, float]:
    """The coefficients a, b, v of q(z_1 | z_2, x) = N(a z_2 + b x, v), S4 (110) with t = 2."""
    first, second = alphas
    left = 1 - first * second
    return (
        np.sqrt(second) * (1 - first) / left,
        np.sqrt(first) * (1 - second) / left,
        (1 - first) * (1 - second) / left,
    )


def middle_term(grid: Grid, log_q: Array, alphas: Sequence[float], log_p: Array) -> float:
    """The middle term Q_2 = E_{q(z_2, x)} KL(q(z_1 | z_2, x) || p(z_1 | z_2)), nats; S4 (116)-(117)
    without the second integral over z_1. The first argument is Gaussian with a constant variance,
    so its entropy is a constant, and the rest does not depend on x."""
    _, q_1, q_2 = kernels.chain(grid, log_q, alphas)
    joint = np.exp(kernels.log_reverse(grid, q_1, alphas[1]) + q_2)
    entropy = 0.5 * np.log(2 * np.pi * np.e * posterior(alphas)[2])
    return float(-grid.integrate(grid.integrate(joint * np.maximum(log_p, -1e300)))) - entropy


def reversed_middle_term(grid: Grid, log_q: Array, alphas: Sequence[float], log_p: Array) -> Array:
    """The middle term with swapped arguments, E_{q(x | z_2)} KL(p(z_1 | z_2) || q(z_1 | z_2, x)) at
    every z_2, [n], nats, which S4 (119) averages over q(z_2)."""
    z, (a, b, variance) = grid.points, posterior(alphas)
    p = np.exp(log_p)
    mean, spread = kernels.moments(grid, p)
    mean_x, spread_x = kernels.moments(grid, kernels.reverse_chain(grid, log_q, alphas))
    square = spread + b**2 * spread_x + np.square(mean - a * z - b * mean_x)
    negative_entropy = grid.integrate(p * np.maximum(log_p, -1e300), axis=0)
    return negative_entropy + 0.5 * (square / variance + np.log(2 * np.pi * variance))


def first_term(grid: Grid, log_q: Array, alpha: float, log_p: Array) -> float:
    """The first term Q_1 = E_{q(x, z_1)} log p(x | z_1), nats; S4 (116), (121)."""
    q_1 = kernels.diffuse(grid, log_q, alpha)
    joint = np.exp(kernels.log_reverse(grid, log_q, alpha) + q_1)
    return float(grid.integrate(grid.integrate(joint * np.maximum(log_p, -1e300))))
