"""Inverts the forward step without a reverse kernel, by dividing by the Gaussian's Fourier
transform, S4 (128).

In y = sqrt(alpha) z_{t-1} the forward step is a convolution with N(0, 1 - alpha). Its transform
exp(-(1 - alpha) w^2 / 2) is nowhere zero, so the inverse exists; it multiplies the component at
frequency w by exp((1 - alpha) w^2 / 2).
"""

import numpy as np

from experiments.dpm_lab import kernels
from experiments.dpm_lab.grid import Array, Grid


def amplification(alpha: float, frequency: float) -> float:
    """The factor exp((1 - alpha) w^2 / 2) at frequency w, in radians per unit of z_t."""
    return float(np.exp(0.5 * (1 - alpha) * frequency**2))


def deconvolve(grid: Grid, density: Array, alpha: float, cutoff: float | None = None) -> Array:
    """Computes the density of y = sqrt(alpha) z_{t-1}, [n], from that of z_t by S4 (128).

    cutoff: the highest frequency to keep; without it all frequencies of the grid are kept.
    """
    frequencies = 2 * np.pi * np.fft.rfftfreq(density.size, grid.spacing)
    log_gain = 0.5 * (1 - alpha) * np.square(frequencies)
    kept = frequencies <= (np.inf if cutoff is None else cutoff)
    gain = np.where(kept, np.exp(np.minimum(log_gain, 700.0)), 0.0)
    return np.fft.irfft(np.fft.rfft(density) * gain, density.size)


def band_noise(rng: np.random.Generator, grid: Grid, cutoff: float) -> Array:
    """Makes white noise [n] up to a frequency, times a window exp(-z^2 / 2), whose absolute value
    integrates to one. The window widens the band by one radian per unit."""
    frequencies = 2 * np.pi * np.fft.rfftfreq(len(grid.points), grid.spacing)
    spectrum = np.fft.rfft(rng.standard_normal(len(grid.points)))
    noise = np.fft.irfft(np.where(frequencies <= cutoff, spectrum, 0.0), len(grid.points))
    noise *= np.exp(-0.5 * np.square(grid.points))
    return noise / grid.integrate(np.abs(noise))


def band_noises(grid: Grid, cutoff: float, rng: np.random.Generator, num: int) -> Array:
    """Makes `num` samples of `band_noise`, [num, n]."""
    return np.array([band_noise(rng, grid, cutoff) for _ in range(num)])


def gain_deconvolution(grid: Grid, noises: Array, alpha: float, cutoff: float) -> float:
    """The factor by which deconvolution increases the absolute integral of noise in q(z_t) up to
    `cutoff`, for any q; the geometric mean over noises [num, n]."""
    back = [deconvolve(grid, noise, alpha, 1.2 * cutoff) for noise in noises]
    return _gain(grid, noises, np.array(back))


def gain_kernel(grid: Grid, log_q: Array, noises: Array, alpha: float) -> float:
    """The same factor for the reverse kernel of q, which is also linear; at most 1."""
    kernel = kernels.reverse(grid, log_q, alpha)
    return _gain(grid, noises, kernels.push(grid, kernel, noises))


def _gain(grid: Grid, before: Array, after: Array) -> float:
    ratios = grid.integrate(np.abs(after)) / grid.integrate(np.abs(before))
    return float(np.exp(np.mean(np.log(ratios))))


def condition_number(grid: Grid, alpha: float) -> float:
    """The condition number of the forward step as a matrix on the grid; in float64 it is
    meaningless beyond about 1e16."""
    forward = np.exp(kernels.log_forward(grid, alpha)) * grid.spacing
    return float(np.linalg.cond(forward))
