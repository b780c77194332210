"""The example of four noise levels in the notation of the source S4, in NumPy.

alpha_t of a step is 0.9, 0.8, 0.6, 0.3 and alpha-bar_t, BAR[t - 1], is their product. The levels
z_1 .. z_4 of S4 are z_0 .. z_3 in the library, at OMEGAS. The data are the one number X, and the
model predicts x from z_t by `x_hat_of`, as `experiments.elbo_forms.four_steps` does.
"""

import jax.numpy as jnp
import numpy as np

from tests.closed_forms import gauss_hermite

ALPHA = np.array([0.9, 0.8, 0.6, 0.3])
BAR = np.cumprod(ALPHA)
OMEGAS = np.log(1 - BAR) - np.log(BAR)
X = 0.7


def level(t):
    """omega of z_t as an array of the library."""
    return jnp.float64(OMEGAS[t - 1])


def next_mean(t, z, x):
    """m_t of S4 84, 86 and 90: the mean of q(z_{t-1}|z_t, x); at t = 1 alpha-bar_0 is 1."""
    a, bar, before = ALPHA[t - 1], BAR[t - 1], BAR[t - 2] if t > 1 else 1.0
    return (np.sqrt(a) * (1 - before) * z + np.sqrt(before) * (1 - a) * x) / (1 - bar)


def next_variance(t):
    """The variance of q(z_{t-1}|z_t, x), S4 84 and 86."""
    return (1 - BAR[t - 2]) * (1 - ALPHA[t - 1]) / (1 - BAR[t - 1])


def x_hat_of(z, t):
    """The example's prediction of x."""
    return 0.5 * np.sqrt(BAR[t - 1]) * z + 0.1


def z_nodes(t):
    """Nodes of q(z_t|x) and their weights."""
    nodes, weights = gauss_hermite(12)
    return np.sqrt(BAR[t - 1]) * X + np.sqrt(1 - BAR[t - 1]) * nodes, weights
