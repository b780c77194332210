"""A model of vectors whose network compiles in an instant, for tests of gradients and steps."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vdm.diffusion.likelihood import Gaussian
from vdm.models.vdm import VDM
from vdm.nn.schedules import Polynomial


class Small(nn.Module):
    """A perceptron with four hidden units that reads z, omega and the labels."""

    dropout: float = 0.0

    @nn.compact
    def __call__(self, z, omega, labels=None, train=False):
        inputs = jnp.concatenate([z, omega.reshape(len(z), -1) / 10], axis=-1)
        h = nn.tanh(nn.Dense(4, name="first")(inputs))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        if labels is not None:
            h += labels[:, None] / 10
        return z + nn.Dense(z.shape[-1])(h)


MODEL = VDM(Polynomial(-8.0, 5.0, learn_ends=True), Small(), Gaussian(), (6,))
BATCH = {"examples": jax.random.normal(jax.random.key(3), (32, 6))}
KEY = jax.random.key(5)


@functools.cache
def params_of(model):
    """Parameters away from zeros, and from a schedule that is a straight line."""

    @jax.jit
    def init():
        keys = iter(jax.random.split(jax.random.key(2), 100))
        return jax.tree.map(
            lambda x: x + 0.2 * jax.random.normal(next(keys), x.shape),
            model.init(jax.random.key(1)),
        )

    return init()


def assert_close(tree, other, rtol=2e-5):
    """Compares leaf by leaf, to rtol of the largest number in the leaf, which must not be 0."""
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        assert np.abs(b).max() > 0
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())
