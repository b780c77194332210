"""Where in omega the bits of the denoising term and the variance of its estimate come from.

A draw of the continuous-time bound is l = omega'(t) d, d = 1/2 ||eps - eps_hat||^2 the loss
density at omega(t), t evenly spread. All from draws (omega, d, l) of an evaluation, in bins of
omega with equally many of them: E[d | omega] and its integral, the denoising term; the share of
Var(l) of every bin; and the schedule with the least variance, whose density of omega is
~ sqrt(E[d^2 | omega]) (`vdm.diffusion.schedule_algebra.optimal`).
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from vdm.evaluation.statistics import student_quantile


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """Per bin of omega, from clean to noisy; d and l in bits/dim, per nat of omega for d.

    edges: [bins + 1], of omega. centre, density, stderr, half_width: [bins], mean omega, mean d,
    its standard error, half the width of its 95% interval, both NaN for a bin of one draw.
    variance_share: [bins], adds up to 1.
    optimal_t: [bins + 1], times at which the schedule with the least variance passes the edges.
    integral, integral_stderr: of the density over omega, the mean of l; the error takes the draws
    as independent, which stratified times improve upon. variance: of l, for one t ~ U(0, 1) and
    one example. optimal_variance: the same under the best schedule, as far as bins can tell.
    """

    edges: np.ndarray
    centre: np.ndarray
    density: np.ndarray
    stderr: np.ndarray
    half_width: np.ndarray
    variance_share: np.ndarray
    optimal_t: np.ndarray
    integral: float
    integral_stderr: float
    variance: float
    optimal_variance: float


MIN_DRAWS = 16
"""Fewer draws say nothing about where in omega they are."""


def can_diagnose(omega: ArrayLike) -> bool:
    """Whether there are enough draws, at different omega."""
    omega = np.asarray(omega)
    return omega.size >= MIN_DRAWS and bool(np.ptp(omega))


def diagnose(
    omega: ArrayLike, density: ArrayLike, denoising: ArrayLike, bins: int = 40
) -> Diagnosis:
    """The diagnosis of draws omega, d, l, of any one shape; fewer bins where there are under 8
    draws for each. ValueError for fewer than 16 draws, or all at one omega."""
    omega, density, denoising = (
        np.asarray(a, np.float64).ravel() for a in (omega, density, denoising)
    )
    if not omega.shape == density.shape == denoising.shape or not can_diagnose(omega):
        raise ValueError(
            f"{omega.size} draws of omega, {density.size} of the density, {denoising.size} of the "
            f"term: at least {MIN_DRAWS} draws at different omega are needed"
        )
    edges, index = bins_of(omega, min(bins, omega.size // 8))
    count = np.bincount(index)
    mean, stderr = bin_means(density, index)
    deviation = np.square(denoising - denoising.mean())
    fine, mass = _root_mass(omega, denoising)
    integral = float(denoising.mean())
    return Diagnosis(
        edges=edges,
        centre=np.bincount(index, omega) / count,
        density=mean,
        stderr=stderr,
        half_width=student_quantile(count - 1) * stderr,
        variance_share=np.bincount(index, deviation) / max(deviation.sum(), 1e-300),
        optimal_t=np.interp(edges, fine, np.append(0.0, np.cumsum(mass)) / mass.sum()),
        integral=integral,
        integral_stderr=float(denoising.std(ddof=1) / np.sqrt(denoising.size)),
        variance=float(denoising.var(ddof=1)),
        optimal_variance=float(mass.sum() ** 2 - integral**2),
    )


def _root_mass(omega: np.ndarray, denoising: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges of fine bins of omega, and the integral of sqrt(E[d^2 | omega]) over each."""
    # From l in the draws' own time, sqrt(E[l^2 | t]) dt: exact in bins of any width where the
    # schedule is near the best. From d, times the width of the bin, the variance of the best one
    # itself came out 1.45 times too large at D = 64, in 40 bins.
    edges, index = bins_of(omega, max(1, min(400, omega.size // 200)))
    count = np.bincount(index)
    return edges, np.sqrt(np.bincount(index, np.square(denoising)) / count) * count / omega.size


def bins_of(x: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """(edges [bins + 1], index [n]) of bins with about equally many of the n values each, fewer
    where equal values fill several; every bin holds one, and together they cover the range."""
    edges = np.unique(np.quantile(x, np.linspace(0.0, 1.0, bins + 1)))
    index = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
    filled, index = np.unique(index, return_inverse=True)  # a bin between equal values is empty
    return np.append(edges[filled], edges[-1]), index


def bin_means(y: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(means of y by bin, their standard errors: NaN, unknown, where a bin has a single one)."""
    count = np.bincount(index)
    mean = np.bincount(index, y) / count
    # Two passes: a difference of squares loses its digits where the mean is large.
    squares = np.bincount(index, (y - mean[index]) ** 2)
    variance = np.where(count > 1, squares / np.maximum(count - 1, 1), np.nan)
    return mean, np.sqrt(variance / count)
