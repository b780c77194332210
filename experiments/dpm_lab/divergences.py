"""f-divergences of densities on a grid, D_f(p || r) = E_r f(p / r). Those with a logarithm are in
nats."""

import numpy as np

from experiments.dpm_lab.grid import Array, Grid


def kl(grid: Grid, p: Array, r: Array) -> Array:
    """KL(p || r) of densities [..., n], infinite if r vanishes where p does not. S4 (33)-(34)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        # p log(p / r) - p + r is never negative, so nothing cancels where p is close to r.
        inside = p * (np.log(p) - np.log(r)) - p + r
    # Subnormal numbers have lost digits, and their halves may be 0.
    return grid.integrate(np.where(p > np.finfo(float).tiny, inside, r))


def js(grid: Grid, p: Array, r: Array) -> Array:
    """The Jensen-Shannon divergence (KL(p || m) + KL(r || m)) / 2, m = (p + r) / 2; at most
    log 2."""
    m = 0.5 * (p + r)
    return 0.5 * (kl(grid, p, m) + kl(grid, r, m))


def total_variation(grid: Grid, p: Array, r: Array) -> Array:
    """The total variation, half the integral of |p - r|."""
    return 0.5 * grid.integrate(np.abs(p - r))


def chi_squared(grid: Grid, p: Array, r: Array) -> Array:
    """The chi-squared divergence, the integral of (p - r)^2 / r."""
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = np.square(p - r) / r
    return grid.integrate(np.where(p == r, 0.0, inside))


def hellinger(grid: Grid, p: Array, r: Array) -> Array:
    """The squared Hellinger distance, half the integral of (sqrt p - sqrt r)^2."""
    return 0.5 * grid.integrate(np.square(np.sqrt(p) - np.sqrt(r)))


DIVERGENCES = {
    "js": js, "kl": kl, "total_variation": total_variation, "chi_squared": chi_squared,
    "hellinger": hellinger,
}  # fmt: skip
