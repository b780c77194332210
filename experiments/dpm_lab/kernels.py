"""The forward chain and its reverse kernels on a grid, float64.

alpha is the source's, for one step: z_t = sqrt(alpha) z_{t-1} + sqrt(1 - alpha) eps. The library's
alpha_t^2 is the product of these up to t, so alpha here is (alpha_t / alpha_s)^2 there. A density
is an array [n] of its values; a kernel is an array [n, n] whose column j is the density given the
j-th point.
"""

from collections.abc import Sequence

import numpy as np

from experiments.dpm_lab.grid import Array, Grid


def log_forward(grid: Grid, alpha: float) -> Array:
    """log q(z_t = z_i | z_{t-1} = z_j) = log N(sqrt(alpha) z_j, 1 - alpha), [n, n]; S4 (108)."""
    z, variance = grid.points, 1 - alpha
    residual = z[:, None] - np.sqrt(alpha) * z
    return -0.5 * (np.square(residual) / variance + np.log(2 * np.pi * variance))


def gaussian_factor(grid: Grid, z_t: float, alpha: float) -> Array:
    """The Gaussian factor GF of S4 (127), corrected: q(z_t | z_{t-1}) as a function of z_{t-1},
    [n], that is N(z_{t-1}; z_t / sqrt(alpha), (1 - alpha) / alpha) / sqrt(alpha). In its first line
    the source prints 1 / (sqrt(2 pi) (1 - alpha)), where sqrt(1 - alpha) is meant, and it calls
    sqrt((1 - alpha) / alpha) the variance, which is the standard deviation."""
    mean, std = z_t / np.sqrt(alpha), np.sqrt((1 - alpha) / alpha)
    normal = np.exp(-0.5 * np.square((grid.points - mean) / std)) / (np.sqrt(2 * np.pi) * std)
    return normal / np.sqrt(alpha)


def diffuse(grid: Grid, log_q: Array, alpha: float) -> Array:
    """Takes one forward step: log q(z_t), [n], from log q(z_{t-1})."""
    return grid.log_integrate(log_forward(grid, alpha) + log_q, axis=1)


def chain(grid: Grid, log_q: Array, alphas: Sequence[float]) -> list[Array]:
    """Takes all forward steps: the list log q(x), log q(z_1), ..., log q(z_T)."""
    marginals = [log_q]
    for alpha in alphas:
        marginals.append(diffuse(grid, marginals[-1], alpha))
    return marginals


def log_reverse(grid: Grid, log_q: Array, alpha: float) -> Array:
    """The log of the reverse kernel q(z_{t-1} = z_i | z_t = z_j), [n, n], from log q(z_{t-1}) by
    Bayes' rule: S4 (125)-(126).

    It works with logarithms because at a distance of 4 from a support, with alpha = 0.99, q(z_t)
    underflows and the quotient would be 0 / 0.
    """
    joint = log_forward(grid, alpha).T + log_q[:, None]
    return joint - grid.log_integrate(joint, axis=0)


def reverse(grid: Grid, log_q: Array, alpha: float) -> Array:
    """The reverse kernel K = q(z_{t-1} | z_t), [n, n]; every column integrates to one."""
    return np.exp(log_reverse(grid, log_q, alpha))


def reverse_chain(grid: Grid, log_q: Array, alphas: Sequence[float]) -> Array:
    """The kernel q(x | z_T), [n, n], of a whole chain."""
    marginals = chain(grid, log_q, alphas)
    composed = reverse(grid, marginals[0], alphas[0])
    for log_marginal, alpha in zip(marginals[1:], alphas[1:], strict=False):
        composed = composed @ reverse(grid, log_marginal, alpha) * grid.spacing
    return composed


def push(grid: Grid, kernel: Array, densities: Array) -> Array:
    """Applies a kernel: the integral of K(. | z) p(z) over z for each density p of [..., n]; S4
    (123)."""
    return densities @ kernel.T * grid.spacing


def moments(grid: Grid, kernel: Array) -> tuple[Array, Array]:
    """The mean and variance of every column, [n] each."""
    z = grid.points[:, None]
    mean = grid.integrate(z * kernel, axis=0)
    return mean, grid.integrate(np.square(z - mean) * kernel, axis=0)
