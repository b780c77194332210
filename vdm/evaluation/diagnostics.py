"""Which noise levels the bits of the denoising term and the variance of its estimate come from.

A draw of the continuous-time bound is l = omega'(t) d with the loss density
d = 1/2 ||eps - eps_hat||^2 at omega(t), where t is uniform. From the draws (omega, d, l) of an
evaluation, in bins of omega with equally many draws, this module computes E[d | omega] and its
integral, which is the denoising term; the share of each bin in Var(l); and the schedule with the
least variance, whose density in omega is proportional to sqrt(E[d^2 | omega])
(`vdm.diffusion.schedule_algebra.optimal`).
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from vdm.evaluation.statistics import student_quantile


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """Statistics of the draws in bins of omega, from clean to noisy.

    l is in bits/dim, and d in bits/dim per nat of omega.

    edges: [bins + 1], of the bins in omega.
    centre, density, stderr, half_width: [bins], the mean omega, the mean d, its standard error and
    half the width of its 95% interval; the last two are NaN for a bin of one draw.
    variance_share: [bins], the share of each bin in the variance of l; they sum to 1.
    optimal_t: [bins + 1], times at which the schedule with the least variance passes the edges.
    integral, integral_stderr: the integral of the density over omega, which is the mean of l, and
    its standard error for independent draws; with stratified times the true error is smaller.
    variance: of l, for one t ~ U(0, 1) and one example. optimal_variance: the same under the best
    schedule, as far as bins can tell.
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
"""The least number of draws for a diagnosis."""


def can_diagnose(omega: ArrayLike) -> bool:
    """Returns whether there are enough draws, at different omega, for a diagnosis."""
    omega = np.asarray(omega)
    return omega.size >= MIN_DRAWS and bool(np.ptp(omega))


def diagnose(
    omega: ArrayLike, density: ArrayLike, denoising: ArrayLike, bins: int = 40
) -> Diagnosis:
    """Diagnoses draws (omega, d, l), three arrays of equal shape.

    bins: their largest number; each has at least 8 draws on average. ValueError for fewer than 16
    draws, or if all have the same omega.
    """
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
    """Returns the edges of fine bins in omega, and the integral of sqrt(E[d^2 | omega]) in each."""
    # Computed from l in time, as sqrt(E[l^2 | t]) dt, which is exact in bins of any width if the
    # schedule is near the best one. Computed from d times the width of a bin, the variance of the
    # best schedule itself came out 1.45 times too large at D = 64 with 40 bins.
    edges, index = bins_of(omega, max(1, min(400, omega.size // 200)))
    count = np.bincount(index)
    return edges, np.sqrt(np.bincount(index, np.square(denoising)) / count) * count / omega.size


def bins_of(x: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Divides n values into bins with about equally many each.

    Returns (edges [bins + 1], index [n]). There are fewer bins where equal values would fill
    several. No bin is empty, and together they cover the range of the values.
    """
    edges = np.unique(np.quantile(x, np.linspace(0.0, 1.0, bins + 1)))
    index = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
    filled, index = np.unique(index, return_inverse=True)  # bins between equal values are empty
    return np.append(edges[filled], edges[-1]), index


def bin_means(y: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean of y in each bin, and its standard error: NaN for a bin of one value."""
    count = np.bincount(index)
    mean = np.bincount(index, y) / count
    # Two passes, because a difference of squares loses its digits where the mean is large.
    squares = np.bincount(index, (y - mean[index]) ** 2)
    variance = np.where(count > 1, squares / np.maximum(count - 1, 1), np.nan)
    return mean, np.sqrt(variance / count)
