"""What is lost when Gaussians take the place of the reverse kernels, or of any density."""

from collections.abc import Callable, Sequence

import numpy as np

from experiments.dpm_lab import kernels
from experiments.dpm_lab.divergences import kl
from experiments.dpm_lab.grid import Array, Grid


def log_gaussian_columns(grid: Grid, mean: Array, variance: Array) -> Array:
    """[n, k]: column j is log N(mean_j, variance_j), normalised on the grid. Far outside a bounded
    support a conditional is narrower than the spacing; its fit then sits on the nearest points."""
    log_p = -0.5 * np.square(grid.points[:, None] - mean) / _floored(grid, variance)
    return log_p - grid.log_integrate(log_p, axis=0)


def log_fitted(grid: Grid, kernel: Array) -> Array:
    """log of the Gaussian of every column's mean and variance, [n, n]: the minimiser of S4 (117)
    among the models p(z_{t-1} | z_t) with a mean and a variance of their own at each z_t."""
    return log_gaussian_columns(grid, *kernels.moments(grid, kernel))


def shape(grid: Grid, log_q: Array, alpha: float) -> dict[str, float]:
    """How far q(z_{t-1} | z_t) is from a Gaussian, and what that costs after one step. "Worst" is
    over the z_t of highest density with 99.9 % of the mass.

    Returns:
        nongaussian: E_{q(z_t)} KL(conditional || the Gaussian of its moments), nats.
        nongaussian_worst: the largest of these.
        bend: 1 - R^2 of E[z_{t-1} | z_t] as a straight line in z_t.
        variance_ratio: E_{q(z_t)} of the conditional's variance, over GF's of S4 (127).
        variance_ratio_worst, worst_at: the largest one, and its z_t.
        variance_ratio_smooth: the largest one where log q(z_{t-1}) is concave within three standard
            deviations of GF around its mean, that is where q has no second mode to reach.
        loss_kl: from q(z_{t-1}) to what the Gaussians make of q(z_t), nats.
    """
    z, kernel = grid.points, kernels.reverse(grid, log_q, alpha)
    q, q_t = np.exp(log_q), np.exp(kernels.diffuse(grid, log_q, alpha))
    mean, variance = kernels.moments(grid, kernel)
    # KL to the Gaussian of the same moments is the difference of the entropies.
    entropy = -grid.integrate(kernel * np.log(np.maximum(kernel, 1e-300)), axis=0)
    divergence = 0.5 * np.log(2 * np.pi * np.e * _floored(grid, variance)) - entropy
    inside = _highest(grid, q_t, 0.999)
    restored = kernels.push(grid, np.exp(log_gaussian_columns(grid, mean, variance)), q_t)
    factor_variance = (1 - alpha) / alpha
    spread = np.where(inside, variance, 0.0)
    smooth = inside & _concave(grid, log_q, z / np.sqrt(alpha), 3 * np.sqrt(factor_variance))
    return {
        "nongaussian": float(grid.integrate(q_t * divergence)),
        "nongaussian_worst": float(np.max(divergence[inside])),
        "bend": 1 - _correlation(grid, q_t, z, mean) ** 2,
        "variance_ratio": float(grid.integrate(q_t * variance)) / factor_variance,
        "variance_ratio_worst": float(np.max(spread)) / factor_variance,
        "worst_at": float(z[np.argmax(spread)]),
        "variance_ratio_smooth": float(np.max(variance[smooth], initial=0.0)) / factor_variance,
        "loss_kl": float(kl(grid, q, restored)),
    }


def _concave(grid: Grid, log_q: Array, centres: Array, half_width: float) -> Array:
    """Whether log q is concave within `half_width` of each centre, [n] of bool: what is finite has
    no gap and no second difference above 0."""
    supported, found = np.isfinite(log_q), np.zeros(centres.size, bool)
    for index, centre in enumerate(centres):
        (near,) = np.nonzero((np.abs(grid.points - centre) <= half_width) & supported)
        connected = near.size == 0 or near[-1] - near[0] + 1 == near.size
        found[index] = connected and np.max(np.diff(log_q[near], 2), initial=0.0) < 1e-9
    return found


def _floored(grid: Grid, variance: Array) -> Array:
    return np.maximum(variance, 1e-3 * grid.spacing**2)


def _highest(grid: Grid, density: Array, mass: float) -> Array:
    """The fewest points that hold `mass`, [n] of bool."""
    order = np.argsort(-density)
    inside = np.zeros(density.size, bool)
    inside[order[: 1 + np.searchsorted(np.cumsum(density[order]) * grid.spacing, mass)]] = True
    return inside


def _correlation(grid: Grid, weight: Array, a: Array, b: Array) -> float:
    a, b = a - grid.integrate(weight * a), b - grid.integrate(weight * b)
    between = grid.integrate(weight * a * b)
    alone = grid.integrate(weight * a * a) * grid.integrate(weight * b * b)
    return float(between / np.sqrt(alone))


def through_fits(grid: Grid, log_q: Array, alphas: Sequence[float]) -> Array:
    """p(x), [n]: q(z_T) pushed through the Gaussian fit of every reverse kernel of the chain."""
    marginals = kernels.chain(grid, log_q, alphas)
    p = np.exp(marginals[-1])
    for log_marginal, alpha in zip(marginals[-2::-1], alphas[::-1], strict=True):
        fits = np.exp(log_fitted(grid, kernels.reverse(grid, log_marginal, alpha)))
        p = kernels.push(grid, fits, p)
    return p


def best_gaussian(grid: Grid, q: Array, order: str) -> tuple[float, float]:
    """Mean and standard deviation of the Gaussian p with the least KL(q || p), order "q||p", which
    has q's moments, or KL(p || q), order "p||q": the local minimum that a search from the highest
    point of q finds, the deepest one where that mode also has the most mass.

    They differ: S4 (35) and (118) take them for equal.
    """
    z = grid.points
    mean = float(grid.integrate(z * q))
    std = float(np.sqrt(grid.integrate(np.square(z - mean) * q)))
    if order == "q||p":
        return mean, std
    if order != "p||q":
        raise ValueError(f"order {order!r}; known are 'q||p' and 'p||q'")
    top = float(z[np.argmax(q)])

    def objective(m: float, log_s: float) -> float:
        log_p = log_gaussian_columns(grid, np.array([m]), np.array([np.exp(2 * log_s)]))
        return float(kl(grid, np.exp(log_p[:, 0]), q))

    return _descend(objective, top, float(np.log(0.3 * std)))


def _descend(
    objective: Callable[[float, float], float], m: float, log_s: float
) -> tuple[float, float]:
    """Coordinate search with a halving step, to 1e-9."""
    step, best = 0.1, objective(m, log_s)
    while step > 1e-9:
        moves = [(m + a * step, log_s + b * step) for a in (-1, 0, 1) for b in (-1, 0, 1)]
        value, move = min((objective(*each), each) for each in moves)
        if value < best:
            best, (m, log_s) = value, move
        else:
            step /= 2
    return m, float(np.exp(log_s))
