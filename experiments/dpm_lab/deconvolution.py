"""The way back without a reverse kernel: dividing by the Gaussian's Fourier transform, S4 (128).

In y = sqrt(alpha) z_{t-1} the forward step is a convolution with N(0, 1 - alpha), whose transform
exp(-(1 - alpha) w^2 / 2) is nowhere zero: the inverse exists, and multiplies what there is at
frequency w by exp((1 - alpha) w^2 / 2).
"""

import numpy as np

from experiments.dpm_lab import kernels
from experiments.dpm_lab.grid import Array, Grid


def amplification(alpha: float, frequency: float) -> float:
    """exp((1 - alpha) w^2 / 2); w in radians per unit of z_t."""
    return float(np.exp(0.5 * (1 - alpha) * frequency**2))


def deconvolve(grid: Grid, density: Array, alpha: float, cutoff: float | None = None) -> Array:
    """The density of y = sqrt(alpha) z_{t-1}, [n], of that of z_t, by S4 (128).

    cutoff: frequencies above are left out; without it all that the grid has are kept.
    """
    frequencies = 2 * np.pi * np.fft.rfftfreq(density.size, grid.spacing)
    log_gain = 0.5 * (1 - alpha) * np.square(frequencies)
    kept = frequencies <= (np.inf if cutoff is None else cutoff)
    gain = np.where(kept, np.exp(np.minimum(log_gain, 700.0)), 0.0)
    return np.fft.irfft(np.fft.rfft(density) * gain, density.size)


def band_noise(rng: np.random.Generator, grid: Grid, cutoff: float) -> Array:
    """White noise up to a frequency under a window exp(-z^2 / 2), [n], its |.| integrating to
    one. The window spreads the band by one radian per unit."""
    frequencies = 2 * np.pi * np.fft.rfftfreq(len(grid.points), grid.spacing)
    spectrum = np.fft.rfft(rng.standard_normal(len(grid.points)))
    noise = np.fft.irfft(np.where(frequencies <= cutoff, spectrum, 0.0), len(grid.points))
    noise *= np.exp(-0.5 * np.square(grid.points))
    return noise / grid.integrate(np.abs(noise))


def band_noises(grid: Grid, cutoff: float, rng: np.random.Generator, num: int) -> Array:
    """[num, n] of `band_noise`."""
    return np.array([band_noise(rng, grid, cutoff) for _ in range(num)])


def gain_deconvolution(grid: Grid, noises: Array, alpha: float, cutoff: float) -> float:
    """By how much the absolute integral of noise in q(z_t) up to `cutoff` grows by deconvolution,
    whatever q; geometric mean over [num, n]."""
    back = [deconvolve(grid, noise, alpha, 1.2 * cutoff) for noise in noises]
    return _gain(grid, noises, np.array(back))


def gain_kernel(grid: Grid, log_q: Array, noises: Array, alpha: float) -> float:
    """The same by the reverse kernel of q, which is linear too; at most 1."""
    kernel = kernels.reverse(grid, log_q, alpha)
    return _gain(grid, noises, kernels.push(grid, kernel, noises))


def _gain(grid: Grid, before: Array, after: Array) -> float:
    ratios = grid.integrate(np.abs(after)) / grid.integrate(np.abs(before))
    return float(np.exp(np.mean(np.log(ratios))))


def condition_number(grid: Grid, alpha: float) -> float:
    """Of the forward step as a matrix on the grid; float64 cannot tell beyond about 1e16."""
    forward = np.exp(kernels.log_forward(grid, alpha)) * grid.spacing
    return float(np.linalg.cond(forward))
