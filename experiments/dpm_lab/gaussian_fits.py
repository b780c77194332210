"""The loss when Gaussians replace the reverse kernels, or any density."""

from collections.abc import Callable, Sequence

import numpy as np

from experiments.dpm_lab import kernels
from experiments.dpm_lab.divergences import kl
from experiments.dpm_lab.grid import Array, Grid


def log_gaussian_columns(grid: Grid, mean: Array, variance: Array) -> Array:
    """Columns [n, k] of log N(mean_j, variance_j), each normalised on the grid. Far outside a
    bounded support a conditional is narrower than the spacing; its fit then lies on the nearest
    points."""
    log_p = -0.5 * np.square(grid.points[:, None] - mean) / _floored(grid, variance)
    return log_p - grid.log_integrate(log_p, axis=0)


def log_fitted(grid: Grid, kernel: Array) -> Array:
    """The log of the Gaussians with the mean and variance of every column, [n, n]: the minimiser of
    S4 (117) among Gaussian models p(z_{t-1} | z_t) with a free mean and variance at each z_t."""
    return log_gaussian_columns(grid, *kernels.moments(grid, kernel))


def shape(grid: Grid, log_q: Array, alpha: float) -> dict[str, float]:
    """Measures how far q(z_{t-1} | z_t) is from a Gaussian and what a Gaussian costs after one
    step. "Worst" is over the z_t of highest density that hold 99.9 % of the mass.

    Returns:
        nongaussian: E_{q(z_t)} KL(conditional || the Gaussian of its moments), nats.
        nongaussian_worst: the largest of these.
        bend: 1 - R^2 of a straight line in z_t fitted to E[z_{t-1} | z_t].
        variance_ratio: E_{q(z_t)} of the conditional's variance, divided by that of GF of S4 (127).
        variance_ratio_worst, worst_at: the largest ratio, and its z_t.
        variance_ratio_smooth: the largest ratio where log q(z_{t-1}) is concave within three
            standard deviations of GF around its mean, so that no second mode of q is within reach.
        loss_kl: KL from q(z_{t-1}) to the density that the Gaussians give for q(z_t), nats.
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
    """Whether log q is concave within `half_width` of each centre, bool [n]: its finite values have
    no gap and no second difference above 0."""
    supported, concave = np.isfinite(log_q), np.zeros(centres.size, bool)
    for index, centre in enumerate(centres):
        (near,) = np.nonzero((np.abs(grid.points - centre) <= half_width) & supported)
        connected = near.size == 0 or near[-1] - near[0] + 1 == near.size
        concave[index] = connected and np.max(np.diff(log_q[near], 2), initial=0.0) < 1e-9
    return concave


def _floored(grid: Grid, variance: Array) -> Array:
    return np.maximum(variance, 1e-3 * grid.spacing**2)


def _highest(grid: Grid, density: Array, mass: float) -> Array:
    """The smallest set of points that holds `mass`, bool [n]."""
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
    """The density p(x) [n] that results if q(z_T) passes through the Gaussian fits of all reverse
    kernels of the chain."""
    marginals = kernels.chain(grid, log_q, alphas)
    p = np.exp(marginals[-1])
    for log_marginal, alpha in zip(marginals[-2::-1], alphas[::-1], strict=True):
        fits = np.exp(log_fitted(grid, kernels.reverse(grid, log_marginal, alpha)))
        p = kernels.push(grid, fits, p)
    return p


def best_gaussian(grid: Grid, q: Array, order: str) -> tuple[float, float]:
    """The mean and standard deviation of the Gaussian p closest to q. Order "q||p" minimises KL(q
    || p), whose solution has q's moments. Order "p||q" minimises KL(p || q): it gives the local
    minimum that a search from the highest point of q finds, which is the global one if that mode
    also has the most mass.

    The two differ, whereas S4 (35) and (118) take them for equal.
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
    """Minimises by coordinate search with a halving step, to 1e-9."""
    step, best = 0.1, objective(m, log_s)
    while step > 1e-9:
        moves = [(m + a * step, log_s + b * step) for a in (-1, 0, 1) for b in (-1, 0, 1)]
        value, move = min((objective(*each), each) for each in moves)
        if value < best:
            best, (m, log_s) = value, move
        else:
            step /= 2
    return m, float(np.exp(log_s))
