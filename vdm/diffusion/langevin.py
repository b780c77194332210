"""Samplers of score-based models: Langevin dynamics, annealed, and as a corrector.

z <- z + c score(z) + sqrt(2 c) noise leaves q(z_t) as it is for small c; the score is -eps_hat /
sigma. Step sizes are a share of sigma^2, the variance of the narrowest thing that q(z_t) can hold,
so that one number serves every noise level.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm.diffusion.interning import interned
from vdm.diffusion.noise import NoiseFn, alpha, sigma
from vdm.diffusion.samplers import Interval, Sampler, ancestral, evaluate
from vdm.typing import Denoiser, EndPoint, PyTree


def langevin_steps(
    denoiser: Denoiser,
    z: Float[Array, "batch *dims"],
    omega: EndPoint,
    noise: NoiseFn,
    num_steps: int,
    step_size: float,
) -> Float[Array, "batch *dims"]:
    """num_steps steps of c = step_size sigma^2 at one noise level.

    Where q(z_t) is N(0, sigma^2), the narrowest case, their stationary variance is sigma^2 / (1 -
    step_size / 2): the price of a step of finite size.
    """
    s = sigma(omega)

    def body(k: Array, z: Array) -> Array:
        drift = -step_size * s * evaluate(denoiser, z, omega)
        return z + drift + jnp.sqrt(2 * step_size) * s * noise(k)

    return jax.lax.fori_loop(0, num_steps, body, z)


@interned
def annealed_langevin(corrections: int = 5, step_size: float = 0.1) -> Sampler:
    """Langevin dynamics at each level of the grid in turn (Song & Ermon 2019, arXiv:1907.05600,
    algorithm 1): between levels z / alpha stays, as their x does.

    Plain Langevin dynamics is a grid of two equal levels.
    """
    _check(corrections, step_size, "step_size")

    def step(denoiser: Denoiser, z_t: Array, memory: PyTree, i: Interval) -> tuple[Array, PyTree]:
        z = alpha(i.omega_s) / alpha(i.omega_t) * z_t
        return langevin_steps(denoiser, z, i.omega_s, i.noise, corrections, step_size), memory

    return Sampler(step, evaluations=corrections)


@interned
def predictor_corrector(corrections: int = 1, snr: float = 0.16) -> Sampler:
    """An ancestral step, then Langevin steps at its end (Song et al. 2021, arXiv:2011.13456,
    algorithm 1 and appendix G).

    c = 2 snr^2 sigma^2: their 2 (snr ||noise|| / ||score||)^2 with the norms at sqrt(D) and
    sqrt(D) / sigma, so that no sample depends on the others of its batch, and without the factor
    alpha_i of a single step, near 1, that they have for this process.
    """
    _check(corrections, snr, "snr")
    predictor = ancestral()

    def step(denoiser: Denoiser, z_t: Array, memory: PyTree, i: Interval) -> tuple[Array, PyTree]:
        z_s, memory = predictor.step(denoiser, z_t, memory, i)

        def noise(k: Array) -> Array:
            return i.noise(k + 1)  # the predictor has the first

        z_s = langevin_steps(denoiser, z_s, i.omega_s, noise, corrections, 2 * snr**2)
        return z_s, memory

    return Sampler(step, evaluations=1 + corrections)


def _check(corrections: int, size: float, name: str) -> None:
    if corrections < 1:
        raise ValueError(f"corrections = {corrections}: at least 1 Langevin step at each level")
    if not size > 0:
        raise ValueError(f"{name} = {size}: it must be positive")
