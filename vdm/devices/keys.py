"""Makes random keys from seeds.

The generator is named explicitly, independently of `jax_default_prng_impl`: results that must not
depend on the batch size or the number of devices need threefry.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vdm.typing import PRNGKey

MAX_SEED = 2**64 - 1


def root_key(seed: int, impl: str = "threefry2x32") -> PRNGKey:
    """The random key of a seed from 0 to 2^64 - 1.

    For seeds below 2^32 it equals `jax.random.key(seed)`, which ignores higher bits.

    Args:
        impl: the generator. "rbg" is faster on TPUs, but its numbers depend on how an array is
            distributed over the devices.

    Raises:
        ValueError: the seed is out of range.
    """
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed = {seed}: it must be from 0 to 2^64 - 1")
    words = np.array([seed >> 32, seed & 0xFFFFFFFF], np.uint32)
    words = jnp.asarray(np.tile(words, 2) if impl == "rbg" else words)
    return jax.random.wrap_key_data(words, impl=impl)
