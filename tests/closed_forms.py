"""What many tests compare with: normal densities and divergences, quadrature, exact second moments.

NumPy alone, so that these numbers do not come from the library under test.
"""

import functools
import itertools

import jax
import numpy as np


def log_normal(value, mean, variance):
    """log N(value; mean, variance) for each element, in nats."""
    return -0.5 * np.log(2 * np.pi * variance) - (value - mean) ** 2 / (2 * variance)


def gaussian_kl(mean_p, covariance_p, mean_q, covariance_q):
    """KL(p || q) in nats of two normal distributions, for mean vectors and covariance matrices."""
    inverse, shift = np.linalg.inv(covariance_q), mean_q - mean_p
    log_ratio = np.linalg.slogdet(covariance_q)[1] - np.linalg.slogdet(covariance_p)[1]
    return 0.5 * (
        np.trace(inverse @ covariance_p) - len(shift) + shift @ inverse @ shift + log_ratio
    )


def _constant(array):
    """The array, made read-only, because every caller gets the same one."""
    array.setflags(write=False)
    return array


@functools.cache
def gauss_legendre(order, panels=1):
    """Nodes in [0, 1] and weights that sum to 1: `order` nodes on each of `panels` equal panels."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    nodes = ((nodes + 1) / 2 + np.arange(panels)[:, None]) / panels
    return _constant(nodes.ravel()), _constant(np.tile(weights / 2 / panels, panels))


@functools.cache
def gauss_hermite(order):
    """Nodes and weights (of sum 1) of the standard normal distribution: exact for polynomials of
    degree 2 order - 1."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    return _constant(nodes), _constant(weights / weights.sum())


@functools.cache
def gauss_hermite_grid(dimensions, order):
    """The product rule in several dimensions: nodes [order^dimensions, dimensions], weights."""
    nodes, weights = gauss_hermite(order)
    grid = np.array(list(itertools.product(range(order), repeat=dimensions)))
    return _constant(nodes[grid]), _constant(weights[grid].prod(axis=1))


@functools.cache
def signs(dimensions):
    """All [2^dimensions, dimensions] patterns of +-1. Their second moments are those of independent
    standard normal variables, so they stand for these wherever a function is quadratic."""
    return _constant(np.array(list(itertools.product((1.0, -1.0), repeat=dimensions))))


def shaken(params, scale, seed=7):
    """Parameters plus normal noise of that size: away from initial values at which outputs are 0.
    By NumPy, because each shape that jax.random draws compiles a program."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: leaf + np.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype), params
    )


def alpha(omega):
    """The signal's share alpha of z_t = alpha x + sigma eps: the root of sigmoid(-omega)."""
    return np.sqrt(1 / (1 + np.exp(omega)))


def sigma(omega):
    """The noise's share sigma of z_t = alpha x + sigma eps: the root of sigmoid(omega)."""
    return np.sqrt(1 / (1 + np.exp(-omega)))
