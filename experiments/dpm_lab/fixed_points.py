"""The limits of the iterates of a reverse kernel, and of a chain of reverse kernels.

The forward step leaves N(0, 1) unchanged and is reversible there:
phi(z') q(z | z') = phi(z) q(z' | z). So K(z' | z) = q(z | z') q(z') / q_t(z) satisfies
pi(z) K(z' | z) = pi(z') K(z | z') for pi = q q_t / phi. If pi can be normalised, that is the fixed
point; if not, there is none. It is q only if q_t is N(0, 1).
"""

import dataclasses

import numpy as np

from experiments.dpm_lab import kernels
from experiments.dpm_lab.densities import LogDensity
from experiments.dpm_lab.divergences import total_variation
from experiments.dpm_lab.grid import Array, Grid


def gaussian_fixed_point(mean: float, variance: float, alpha: float) -> tuple[float, float] | None:
    """The mean and variance of the fixed point for q(z_{t-1}) = N(m, s^2), or None if there is
    none.

    K is the map z -> k z + c with noise of variance v, where k = sqrt(alpha) s^2 / V,
    c = (1 - alpha) m / V, v = (1 - alpha) s^2 / V and V = alpha s^2 + 1 - alpha. k < 1 if and only
    if s^2 < (1 + sqrt(alpha)) / sqrt(alpha). S4 3.4.7 claims that the fixed point is q.
    """
    total = alpha * variance + 1 - alpha
    k = np.sqrt(alpha) * variance / total
    if k >= 1:
        return None
    shift, noise = (1 - alpha) * mean / total, (1 - alpha) * variance / total
    return float(shift / (1 - k)), float(noise / (1 - k**2))


def closed_form(grid: Grid, log_q: Array, alpha: float) -> Array:
    """The closed form of the fixed point, q q_t / N(0, 1) normalised on the grid, [n]."""
    log_pi = log_q + kernels.diffuse(grid, log_q, alpha) + 0.5 * np.square(grid.points)
    return np.exp(grid.normalise(log_pi))


def invariant(grid: Grid, kernel: Array) -> Array:
    """The density p [n] with K p = p on this grid, where there always is one; see `fixed_point`.

    It uses the elimination of Grassmann, Taksar and Heyman, which has no subtractions. For two
    bumps without mass between them the second eigenvalue is 1 - 4e-13 at alpha = 0.99, and solving
    (K - 1) p = 0 would be 4e-5 off.
    """
    # Only points that K can reach take part; the most visited one is eliminated last.
    reached = np.max(kernel, axis=1)
    order = np.argsort(-reached, kind="stable")[: np.count_nonzero(reached)]
    moves = (kernel * grid.spacing)[np.ix_(order, order)].T.copy()  # row: from, column: to
    for last in range(len(order) - 1, 0, -1):
        leaving = np.sum(moves[last, :last])
        moves[:last, last] /= leaving
        moves[:last, :last] += np.outer(moves[:last, last], moves[last, :last])
    p = np.zeros(len(order))
    p[0] = 1.0
    for last in range(1, len(order)):
        p[last] = p[:last] @ moves[:last, last]
    density = np.zeros(len(grid.points))
    density[order] = p / (np.sum(p) * grid.spacing)
    return density


@dataclasses.dataclass(frozen=True)
class FixedPoint:
    """A fixed point. density: [n] on the narrow grid; moved: its total variation from the one on
    the grid twice as wide."""

    density: Array
    moved: float

    @property
    def exists(self) -> bool:
        """Whether the wider grid gives the same density; if not, it is an artefact of the grid's
        ends."""
        return self.moved < 1e-6


def fixed_point(grid: Grid, log_density: LogDensity, alpha: float) -> FixedPoint:
    """Solves for the density that K leaves unchanged, on this grid and on one twice as wide."""
    solutions = []
    for each in (grid, grid.twice_as_wide()):
        log_q = each.normalise(log_density(each.points))
        solutions.append(invariant(each, kernels.reverse(each, log_q, alpha)))
    inside = grid.restrict(solutions[1])
    outside = 1 - float(grid.integrate(inside))
    moved = float(total_variation(grid, solutions[0], inside)) + 0.5 * abs(outside)
    return FixedPoint(solutions[0], moved)


def second_eigenvalue(grid: Grid, log_q: Array, alpha: float) -> float:
    """The second eigenvalue of K as a map of the line into itself: the factor by which the iterates
    finally approach the fixed point. As K is in detailed balance, it is similar to the symmetric
    sqrt(K(z'|z) K(z|z'))."""
    log_kernel = kernels.log_reverse(grid, log_q, alpha)
    symmetric = np.exp(0.5 * (log_kernel + log_kernel.T)) * grid.spacing
    return float(np.linalg.eigvalsh(symmetric)[-2])
