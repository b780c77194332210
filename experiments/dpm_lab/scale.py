"""The amount of computation, and the values of alpha and z at which things are computed."""

import dataclasses

from experiments.dpm_lab.grid import Grid

CHAINS = {0.6: 5, 0.9: 9}  # alpha: steps, as in S4's figures 17 and 18
SHAPES = (0.6, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
STRENGTHS = (0.001, 0.90, 0.95, 0.98, 0.99)
FIXED = (0.90, 0.99)
CHAINED = (1, 2, 4, 8, 16, 32, 64)  # numbers of kernels of alpha = 0.9
HALVINGS = (1, 2, 4, 8, 16, 32, 64)  # numbers of steps whose alphas have the product 1/2
DECONVOLVED = (0.90, 0.95, 0.98, 0.99, 0.995)
WAVELENGTHS = (1.0, 0.5, 0.25)
DECAYED = (1, 2, 4, 8, 16, 32, 64)  # numbers of kernels of alpha = 0.9
NOISE_LENGTH = 0.2
INTERVAL = 0.5


@dataclasses.dataclass(frozen=True)
class Scale:
    """The amount of computation."""

    grid: Grid
    fine: Grid  # for fits, which depend on the spacing at the edges of q; see spacing_rows
    pairs: int  # pairs of random densities for each kernel
    noises: int


SCALES = {
    "small": Scale(Grid(7.0, 0.05), Grid(5.0, 0.025), pairs=200, noises=20),
    "full": Scale(Grid(10.0, 0.02), Grid(6.0, 0.01), pairs=2000, noises=200),
}
