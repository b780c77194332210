"""Measures how much closer a reverse kernel brings two densities."""

import numpy as np

from experiments.dpm_lab import kernels
from experiments.dpm_lab.divergences import js
from experiments.dpm_lab.grid import Array, Grid


def singular_values(grid: Grid, log_q: Array, alpha: float) -> tuple[Array, Array]:
    """The singular values of K from L2(q_t) to L2(q_{t-1}), descending, and the right singular
    functions.

    K takes q_t f to q_{t-1} E[f(z_t) | z_{t-1}], so its matrix between the weighted spaces is the
    joint density divided by sqrt(q_{t-1} q_t). That equals sqrt(q(z_t|z_{t-1}) q(z_{t-1}|z_t)),
    which needs no division. The first value is 1 with f = 1; the second is the maximal correlation
    of z_{t-1} and z_t, and its square the exact contraction of chi^2(p || q_t).

    Returns:
        values: [n].
        functions: [n, n], row k is f_k sqrt(q_t spacing), of unit length.
    """
    joint = kernels.log_forward(grid, alpha).T + kernels.log_reverse(grid, log_q, alpha)
    _, values, functions = np.linalg.svd(np.exp(0.5 * joint) * grid.spacing)
    return values, functions


def gaussian_singular_value(variance: float, alpha: float) -> float:
    """The second singular value for q(z_{t-1}) = N(., s^2),
    sqrt(alpha s^2 / (alpha s^2 + 1 - alpha))."""
    return float(np.sqrt(alpha * variance / (alpha * variance + 1 - alpha)))


def local_js_ratio(
    grid: Grid, kernel: Array, q_t: Array, function: Array, size: float = 0.01
) -> float:
    """The ratio of JS after the kernel to JS before it, for q_t (1 + size f) and q_t (1 - size f),
    where f is a right singular function. For a small size JS is size^2 / 2 times the integral of
    q_t f^2, and the ratio is the square of f's singular value, so no smaller constant bounds it."""
    shift = size * function * np.sqrt(q_t / grid.spacing)
    pair = np.clip(q_t + shift, 0.0, None), np.clip(q_t - shift, 0.0, None)
    after = [kernels.push(grid, kernel, p) for p in pair]
    return float(js(grid, after[0], after[1]) / js(grid, pair[0], pair[1]))


def dobrushin(grid: Grid, kernel: Array, half_width: float) -> float:
    """Dobrushin's coefficient: the largest total variation between K(. | z) and K(. | z') for z, z'
    in [-half_width, half_width]. The total variation of densities on that interval falls at least
    by this factor. On the whole line it is 1 for every alpha."""
    inside = np.abs(grid.points) <= half_width + 1e-9
    columns = kernel[:, inside].T
    return max(float(np.max(0.5 * grid.integrate(np.abs(columns - column)))) for column in columns)


def overlap(grid: Grid, kernel: Array, inside: Array) -> float:
    """1 minus the largest total variation between K(. | z) and K(. | z') for z, z' in `inside`, a
    bool array [n]. It is computed as the smallest integral of min(K(. | z), K(. | z')), which loses
    no digits near 0. An f-divergence of densities on `inside` keeps at most 1 minus this share."""
    columns = kernel[:, inside].T
    return min(float(np.min(grid.integrate(np.minimum(columns, column)))) for column in columns)


def disturb(grid: Grid, q: Array, noise: Array, target: float) -> Array:
    """The density p [n] proportional to q exp(c noise), with the c >= 0 for which JS(p, q) = target
    to 1e-10."""
    with np.errstate(divide="ignore"):
        log_q = np.log(q)

    def disturbed(c: float) -> Array:
        return np.exp(grid.normalise(log_q + c * noise))

    low, high = 0.0, 1.0
    while js(grid, disturbed(high), q) < target:
        high *= 2
        if high > 1e6:
            raise ValueError(f"no such noise reaches JS {target}; the largest is log 2 = 0.693")
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if js(grid, disturbed(middle), q) < target else (low, middle)
    return disturbed(high)
