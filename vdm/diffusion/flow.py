"""The probability-flow ODE as a sampler, with steps as long as a tolerance allows.

It solves dz/domega = 1/2 sigma (eps_hat - sigma z); `vdm.diffusion.ode` computes its density.
"""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from vdm.diffusion.interning import interned
from vdm.diffusion.noise import expand, sigma
from vdm.diffusion.ode import EVALUATIONS_PER_STEP, MAX_STEPS
from vdm.diffusion.samplers import Interval, Sampler
from vdm.typing import Denoiser, PyTree

_FIRST_STEP = 0.05  # As a share of the interval; a step that is too long is retried shorter.


@interned
def flow(tolerance: float = 1e-3) -> Sampler:
    """A sampler that solves the ODE by Tsitouras' 5(4) method between the points of the grid; a
    grid of one step leaves the whole way to the solver.

    Every example has its own steps, so its result does not depend on the batch. An example that
    does not reach the end in 4096 steps becomes NaN.

    Args:
        tolerance: both the relative and the absolute tolerance of a step, for the root mean square
            error over an example.
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance = {tolerance}: it must be in (0, 1)")

    def init(z_1: Array) -> PyTree:
        return jnp.zeros(z_1.shape[0], jnp.int32)

    def step(denoiser: Denoiser, z_t: Array, memory: PyTree, i: Interval) -> tuple[Array, PyTree]:
        span = i.omega_s - i.omega_t

        def eps_hat_at(z: Array, time: Array) -> Array:
            if not span.ndim:
                return denoiser(z, i.omega_t + time * span)
            return denoiser(z, jnp.broadcast_to(i.omega_t + expand(time, z) * span, z.shape))

        # Each example is solved separately, but the denoiser is called with the whole batch, as it
        # may hold the batch's labels: under vmap one call of eps_hat_of_one becomes one such call.
        converted = eqx.filter_closure_convert(eps_hat_at, z_t, jnp.zeros(len(z_t), z_t.dtype))
        held, function = eqx.partition(converted, eqx.is_array)

        @jax.custom_batching.custom_vmap
        def eps_hat_of_one(held: PyTree, z: Array, time: Array) -> Array:
            del held, time
            return jnp.full_like(z, jnp.nan)  # Only its shape is used.

        @eps_hat_of_one.def_vmap
        def eps_hat_of_all(size: int, mapped: list, held: PyTree, z: Array, time: Array) -> tuple:
            del mapped
            return eqx.combine(held, function)(z, jnp.broadcast_to(time, (size,))), True

        def velocity(time: Array, z: Array, args: None) -> Array:
            del args
            omega, width = (w[0] if w.ndim else w for w in (i.omega_t + time * span, span))
            s = sigma(omega)
            return 0.5 * width * s * (eps_hat_of_one(held, z, time) - s * z)

        def solve(z: Array) -> tuple[Array, Array]:
            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(velocity),  # pyrefly: ignore[bad-argument-type]
                diffrax.Tsit5(),
                t0=0.0,
                t1=1.0,
                dt0=_FIRST_STEP,
                y0=z,
                stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
                max_steps=MAX_STEPS,
                throw=False,
            )
            succeeded = solution.result == diffrax.RESULTS.successful
            calls = 1 + EVALUATIONS_PER_STEP * jnp.asarray(solution.stats["num_steps"], jnp.int32)
            return jnp.where(succeeded, solution.ys[0], jnp.nan), calls

        z_s, calls = jax.vmap(solve)(z_t)
        return z_s, memory + calls

    return Sampler(step, init, evaluations=0, deterministic=True)
