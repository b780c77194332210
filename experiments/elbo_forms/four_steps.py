"""A small example on which the forms differ: one dimension, four levels.

In the notation of the sources alpha_t = 0.9, 0.8, 0.6, 0.3 for the steps (alpha_t^2 / alpha_{t-1}^2
here), x_0 = 0.7, x_hat(x_t, t) = 1/2 sqrt(alpha_bar_t) x_t + 0.1, p(x_0 | x_1) =
N(x_hat(x_1, 1), 0.05), and the variances are those of q. Every term is quadratic in the four normal
draws of a path, so Gauss-Hermite quadrature is exact, also for variances.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from vdm.diffusion.consistency import PathTerms, path_terms
from vdm.diffusion.likelihood import Gaussian
from vdm.diffusion.noise import alpha, fresh_noise, sigma

ALPHA_BAR = np.cumprod([0.9, 0.8, 0.6, 0.3])
OMEGAS = np.log(1 - ALPHA_BAR) - np.log(ALPHA_BAR)
DATUM = 0.7


def denoiser(z: jax.Array, omega: jax.Array) -> jax.Array:
    """The eps_hat that corresponds to the example's x_hat."""
    omega = omega[:, None]
    return (z - alpha(omega) * (0.5 * alpha(omega) * z + 0.1)) / sigma(omega)


class Decoder(Gaussian):
    """The example's likelihood p(x | z_0) = N(x_hat(z_0), 0.05)."""

    def reconstruction(self, data: jax.Array, eps_0: jax.Array, omega_0: jax.Array) -> jax.Array:
        """Computes -log p(x | z_0), nats [batch]."""
        z_0 = alpha(omega_0) * data + sigma(omega_0) * eps_0
        squares = jnp.square(data - 0.5 * alpha(omega_0) * z_0 - 0.1) / 0.05
        return 0.5 * jnp.sum(squares + jnp.log(2 * jnp.pi * 0.05), axis=1)


def by_quadrature() -> tuple[PathTerms, np.ndarray]:
    """Computes the terms along every path of the quadrature in float64, [paths, (T,) 1], and the
    weights of the paths."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(6)
    grid = np.array(list(itertools.product(range(6), repeat=4)))
    with jax.enable_x64(True):
        noise = jnp.asarray(nodes[grid].T[..., None])
        terms = path_terms(
            jnp.full((len(grid), 1), DATUM), lambda i: noise[i], jnp.asarray(OMEGAS), denoiser,
            Decoder(),
        )  # fmt: skip
        return paths_first(terms), (weights / weights.sum())[grid].prod(axis=1)


def by_monte_carlo(num_paths: int, seed: int = 0) -> PathTerms:
    """Computes the terms along random paths, [paths, (T,) 1], as float64."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(num_paths))
    omegas = jnp.asarray(OMEGAS, jnp.float32)

    @jax.jit
    def terms(keys: jax.Array) -> PathTerms:
        x = jnp.full((num_paths, 1), DATUM)
        return path_terms(x, fresh_noise(keys, (1,)), omegas, denoiser, Decoder())

    return paths_first(terms(keys))


def paths_first(terms: PathTerms) -> PathTerms:
    """Moves the axis of paths to the front, [(T,) paths] -> [paths, (T,) 1], in numpy float64."""
    return jax.tree.map(lambda a: np.asarray(a, np.float64).T[..., None], terms)
