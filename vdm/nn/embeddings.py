"""Features of the noise level and of the latent that networks read."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

OMEGA_LOW = -13.3
OMEGA_RANGE = 18.3
"""Networks read omega as (omega + 13.3) / 18.3, with fixed constants: the VDM paper's end points.

Never use (omega - omega_0) / (omega_1 - omega_0): a moving end point would change the network at
a fixed omega, and the continuous-time bound would no longer be invariant to the schedule.
"""


def omega_embedding(
    omega: Float[Array, " batch"],
    num_features: int,
    scale: float = 1000.0,
    low: float = OMEGA_LOW,
    width: float = OMEGA_RANGE,
) -> Float[Array, "batch n"]:
    """Sines, then cosines, of scale (omega - low) / width at num_features/2 frequencies from 1
    down to 1e-4 in a geometric series (DDPM's embedding of 1000 time steps, which VDM reuses).

    At scale 1000 the fastest sine has a period of 0.11 nats of omega; small data sets are fitted
    better with a smaller scale, which is smoother.
    """
    half = num_features // 2
    if num_features < 4 or num_features % 2:
        raise ValueError(f"an embedding of omega needs an even width >= 4, not {num_features}")
    frequencies = jnp.exp(-math.log(10_000) / (half - 1) * jnp.arange(half, dtype=omega.dtype))
    angles = jnp.outer(scale * (omega - low) / width, frequencies)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def read_omega(
    omega: Float[Array, " batch"] | Float[Array, "batch *dims"], width: float = OMEGA_RANGE
) -> tuple[Float[Array, " batch"], list[Float[Array, "batch *dims"]]]:
    """Splits omega into one number per example for the embedding and a list of further inputs
    beside z. If omega is one number per example, the list is empty; if it has one per dimension,
    the embedding gets their mean and the list holds (omega - mean) / width."""
    if omega.ndim == 1:
        return omega, []
    mean = jnp.mean(omega, axis=tuple(range(1, omega.ndim)))
    return mean, [(omega - mean.reshape(-1, *(1,) * (omega.ndim - 1))) / width]


def fourier_frequencies(num_codes: int) -> tuple[float, ...]:
    """The frequencies of the Fourier features for V codes, in cycles per unit of x: V/4, the finest
    pattern that V codes can carry, and V/2, which tells where between two codes z lies.

    For V = 256 these are the 2^6 and 2^7 of VDM's published code. There are none for continuous
    data (V = 0).
    """
    return (num_codes / 4, num_codes / 2) if num_codes else ()


def fourier_features(
    z: Float[Array, "*dims channels"], frequencies: tuple[float, ...]
) -> Float[Array, "*dims features"]:
    """Computes sin and cos of 2 pi f z for every channel and frequency f, on the last axis."""
    # At least float32: at f = 128 the argument is hundreds of radians, which bfloat16's 8 bits
    # resolve to +-2.
    cycles = jnp.stack([z.astype(jnp.promote_types(z.dtype, jnp.float32)) * f for f in frequencies],
                       axis=-1)  # fmt: skip
    angles = 2 * jnp.pi * cycles.reshape(*z.shape[:-1], z.shape[-1] * len(frequencies))
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
