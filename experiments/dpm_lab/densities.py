"""One-dimensional densities q(x), and random densities and noise to disturb them with."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from experiments.dpm_lab.grid import Array, Grid

LogDensity = Callable[[Array], Array]  # z -> log density up to a constant; -inf outside the support


def mixture(weights: ArrayLike, means: ArrayLike, stds: ArrayLike) -> LogDensity:
    """The mixture sum_k w_k N(m_k, s_k^2); its log is normalised and does not underflow in the
    tails."""
    w, m, s = np.array(weights), np.array(means), np.array(stds)

    def log_density(z: Array) -> Array:
        terms = np.log(w) - 0.5 * np.square((z[:, None] - m) / s) - np.log(np.sqrt(2 * np.pi) * s)
        return np.logaddexp.reduce(terms, axis=1)

    return log_density


def diffuse_mixture(
    weights: ArrayLike, means: ArrayLike, stds: ArrayLike, alpha_bar: float
) -> LogDensity:
    """q(z_t) of a mixture in closed form, with means sqrt(alpha_bar) m and variances
    alpha_bar s^2 + 1 - alpha_bar, by S4 (109)."""
    variances = alpha_bar * np.square(stds) + 1 - alpha_bar
    return mixture(weights, np.sqrt(alpha_bar) * np.asarray(means), np.sqrt(variances))


def _log(values: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.log(values)


def uniform(low: float, high: float) -> LogDensity:
    """A density that is constant between its edges."""
    return lambda z: _log(np.where((z > low) & (z < high), 1.0, 0.0))


def triangular(low: float, peak: float, high: float) -> LogDensity:
    """A density with straight lines from zero to the peak and back."""
    return lambda z: _log(np.clip(np.minimum((z - low) / (peak - low), (high - z) / (high - peak)),
                                  0.0, None))  # fmt: skip


def two_bumps(
    weight: float, centres: tuple[float, float], half_widths: tuple[float, float]
) -> LogDensity:
    """A density of two raised cosines with weights `weight` and 1 - `weight`."""

    def log_density(z: Array) -> Array:
        total = np.zeros_like(z)
        for w, centre, half in zip((weight, 1 - weight), centres, half_widths, strict=True):
            u = (z - centre) / half
            total += w / half * np.where(np.abs(u) < 1, np.cos(0.5 * np.pi * u) ** 2, 0.0)
        return _log(total)

    return log_density


MIXTURES = {  # name: weights, means, standard deviations
    "gaussian": ([1.0], [0.0], [0.5]),
    "mixture": ([0.5, 0.3, 0.2], [-1.2, 0.3, 1.4], [0.2, 0.15, 0.35]),
}
DENSITIES: dict[str, LogDensity] = {name: mixture(*parts) for name, parts in MIXTURES.items()} | {
    "two_bumps": two_bumps(0.7, (-0.8, 0.9), (0.7, 0.5)),
    "uniform": uniform(-1.075, 1.075),
    "triangular": triangular(-1.5, 0.9, 1.2),
}


def on_grid(name: str, grid: Grid) -> Array:
    """log q(x) of one of DENSITIES, [n]; q integrates to one on the grid."""
    return grid.normalise(DENSITIES[name](grid.points))


def random_densities(rng: np.random.Generator, num: int, grid: Grid) -> Array:
    """Draws mixtures of one to six Gaussians, [num, n], every second one multiplied by white noise.
    A share of 2 % of N(0, 1.5^2) keeps every divergence between two of them finite."""
    z, drawn = grid.points, []
    background = np.exp(grid.normalise(mixture([1.0], [0.0], [1.5])(z)))
    for index in range(num):
        k = rng.integers(1, 7)
        parts = rng.dirichlet(np.ones(k)), rng.uniform(-2.5, 2.5, k), rng.uniform(0.1, 0.6, k)
        log_p = mixture(*parts)(z)
        if index % 2:
            log_p = log_p + np.log(rng.exponential(size=z.size))
        drawn.append(0.98 * np.exp(grid.normalise(log_p)) + 0.02 * background)
    return np.array(drawn)


def smooth_noise(rng: np.random.Generator, num: int, grid: Grid, length: float) -> Array:
    """Draws white noise smoothed over `length`, with unit variance, [num, n]."""
    z = grid.points
    weights = np.exp(-0.5 * np.square((z[:, None] - z) / length))
    weights /= np.sqrt(np.sum(np.square(weights), axis=1, keepdims=True))
    return rng.standard_normal((num, z.size)) @ weights.T
