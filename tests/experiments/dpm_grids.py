"""Grids and Gaussians of the tests of experiments/dpm_lab."""

import math

import jax.numpy as jnp

from experiments.dpm_lab.densities import mixture
from experiments.dpm_lab.grid import Grid

GRID = Grid(7.0, 0.05)
NARROW = Grid(4.0, 0.05)
COARSE = Grid(5.0, 0.1)


def normal(mean=0.0, std=1.0, grid=GRID):
    return grid.normalise(mixture([1.0], [mean], [std])(grid.points))


def omega_of(alpha_bar):
    """The source's alpha_bar is alpha_t^2 = sigmoid(-omega)."""
    return jnp.log1p(-alpha_bar) - jnp.log(alpha_bar)


def gaussian_conditional(variance, alpha):
    """k and v of K(. | z) = N(k z, v) for q(z_{t-1}) = N(0, variance)."""
    total = alpha * variance + 1 - alpha
    return math.sqrt(alpha) * variance / total, variance * (1 - alpha) / total
