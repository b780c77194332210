"""Random keys: what a seed stands for.

The generator is named rather than left to `jax_default_prng_impl`: what promises the same numbers
for every batch size and number of devices needs threefry, whatever the process prefers elsewhere.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vdm.typing import PRNGKey

MAX_SEED = 2**64 - 1


def root_key(seed: int, impl: str = "threefry2x32") -> PRNGKey:
    """The key of a seed from 0 to 2^64 - 1; below 2^32 it is that of `jax.random.key`, which
    ignores higher bits.

    "rbg" is faster on TPUs; its numbers depend on how an array is laid out over the devices.

    Raises:
        ValueError: the seed is out of range.
    """
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed = {seed}: it must be from 0 to 2^64 - 1")
    words = np.array([seed >> 32, seed & 0xFFFFFFFF], np.uint32)
    words = jnp.asarray(np.tile(words, 2) if impl == "rbg" else words)
    return jax.random.wrap_key_data(words, impl=impl)
