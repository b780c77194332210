"""Samplers of score-based models: Langevin dynamics, annealed or as a corrector.

A step z <- z + c score(z) + sqrt(2 c) noise leaves q(z_t) unchanged for small c; the score is
-eps_hat / sigma. Step sizes are given as a share of sigma^2, the variance of the narrowest possible
q(z_t), so that one number suits every noise level.
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
    """Takes num_steps Langevin steps with c = step_size sigma^2 at one noise level.

    If q(z_t) is N(0, sigma^2), the narrowest case, their stationary variance is
    sigma^2 / (1 - step_size / 2): the bias that a finite step size costs.
    """
    s = sigma(omega)

    def body(k: Array, z: Array) -> Array:
        drift = -step_size * s * evaluate(denoiser, z, omega)
        return z + drift + jnp.sqrt(2 * step_size) * s * noise(k)

    return jax.lax.fori_loop(0, num_steps, body, z)


@interned
def annealed_langevin(corrections: int = 5, step_size: float = 0.1) -> Sampler:
    """A sampler that runs `corrections` Langevin steps at each level of the grid in turn (Song &
    Ermon 2019, arXiv:1907.05600, algorithm 1); from one level to the next it keeps z / alpha, which
    is their x.

    For plain Langevin dynamics use a grid of two equal levels.
    """
    _check(corrections, step_size, "step_size")

    def step(denoiser: Denoiser, z_t: Array, memory: PyTree, i: Interval) -> tuple[Array, PyTree]:
        z = alpha(i.omega_s) / alpha(i.omega_t) * z_t
        return langevin_steps(denoiser, z, i.omega_s, i.noise, corrections, step_size), memory

    return Sampler(step, evaluations=corrections)


@interned
def predictor_corrector(corrections: int = 1, snr: float = 0.16) -> Sampler:
    """A sampler whose every step is an ancestral step followed by Langevin steps at the level it
    reached (Song et al. 2021, arXiv:2011.13456, algorithm 1 and appendix G).

    The step size is c = 2 snr^2 sigma^2. This is their 2 (snr ||noise|| / ||score||)^2 with the
    norms replaced by sqrt(D) and sqrt(D) / sigma, so that no sample depends on the others of its
    batch, and without the factor alpha_i of a single step, near 1, that they use for this process.
    """
    _check(corrections, snr, "snr")
    predictor = ancestral()

    def step(denoiser: Denoiser, z_t: Array, memory: PyTree, i: Interval) -> tuple[Array, PyTree]:
        z_s, memory = predictor.step(denoiser, z_t, memory, i)

        def noise(k: Array) -> Array:
            return i.noise(k + 1)  # The predictor uses the first.

        z_s = langevin_steps(denoiser, z_s, i.omega_s, noise, corrections, 2 * snr**2)
        return z_s, memory

    return Sampler(step, evaluations=1 + corrections)


def _check(corrections: int, size: float, name: str) -> None:
    if corrections < 1:
        raise ValueError(
            f"corrections = {corrections}: there must be at least 1 Langevin step at each level"
        )
    if not size > 0:
        raise ValueError(f"{name} = {size}: it must be positive")
