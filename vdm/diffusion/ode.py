"""The probability-flow ODE and the log density that it carries.

With omega = -log SNR as the time,

    dz / domega = 1/2 sigma (eps_hat(z, omega) - sigma z)

moves q(z_0) to q(z_1) when eps_hat = E[eps | z_t] (Song et al. 2021, arXiv:2011.13456, Eq. 13,
written in omega): the schedule enters through its two ends alone. Whatever the denoiser, the
flow makes a density of its own at omega_0 out of N(0, I) at omega_1,

    log p_0(z_0) = log N(z_1; 0, I) + integral over omega of 1/2 sigma (div eps_hat - sigma D),

their Eq. 39. It is the density of this flow, not of the ancestral sampler.
"""

import dataclasses
import math
from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vdm.diffusion.noise import sigma
from vdm.typing import Denoiser, PRNGKey

DIVERGENCES = ("exact", "hutchinson")

MAX_STEPS = 4096
"""Of the adaptive solver, rejected ones included; a path that needs more has failed (NaN)."""

FIRST_STEP = 0.01
"""Of the adaptive solver, as a share of the path; a step too long is tried again shorter."""

EVALUATIONS_PER_STEP = 6  # Tsit5 has seven stages, the first is the last of the step before


@dataclasses.dataclass(frozen=True)
class Solver:
    """How the ODE is solved: Tsitouras' 5(4) Runge-Kutta method, six evaluations a step.

    num_steps: steps between the points of a given grid; 0: adaptive, each path with steps of its
        own. Which it takes turns on rounding: in float32, where rounding changes with the batch,
        the result changes by as much as the tolerance leaves open.
    rtol, atol: of the adaptive steps. They hold for the root mean square over z and for the log
        density in nats *per dimension*, each by itself.
    divergence: "exact" (one directional derivative for each dimension) or "hutchinson".
    probes: random directions of Hutchinson's estimate; two or more tell its error.
    """

    num_steps: int = 0
    rtol: float = 1e-5
    atol: float = 1e-5
    divergence: str = "hutchinson"
    probes: int = 2

    def __post_init__(self) -> None:
        if self.divergence not in DIVERGENCES:
            raise ValueError(
                f"unknown divergence {self.divergence!r}; known: {', '.join(DIVERGENCES)}"
            )
        if self.num_steps < 0:
            raise ValueError(f"num_steps = {self.num_steps}: 0 is adaptive, N > 0 is N steps")
        if self.probes < 1:
            raise ValueError(f"probes = {self.probes}: Hutchinson's estimate needs at least 1")
        if not (self.rtol > 0 and self.atol > 0):
            raise ValueError(f"rtol = {self.rtol}, atol = {self.atol}: both must be positive")


class FlowDensity(NamedTuple):
    """log p_0(z_0) in nats, one estimate for each probe (one in all when exact), and the calls
    of the denoiser that it took. NaN where the solver failed."""

    log_prob: Float[Array, " probes"]
    num_evaluations: Int[Array, ""]


def flow_log_density(
    key: PRNGKey,
    z_0: Float[Array, "*dims"],
    omegas: Float[Array, " points"],
    denoiser: Denoiser,
    solver: Solver,
) -> FlowDensity:
    """log p_0(z_0) of one example, without a batch axis: jax.vmap gives each its own steps.

    omegas increases from omega_0 to omega_1; the points between matter to fixed steps only, of
    which there is one for each interval. The key is for the probes, fixed along the path.
    """
    if solver.num_steps and omegas.shape[0] != solver.num_steps + 1:
        raise ValueError(
            f"a grid of {omegas.shape[0]} points for num_steps = {solver.num_steps}: "
            "give num_steps + 1 points, or num_steps = 0 for adaptive steps"
        )
    directions = _directions(key, z_0, solver)
    num_dims = z_0.size

    def velocity(omega: Array, state: tuple[Array, Array], args: None) -> tuple[Array, Array]:
        del args
        z, _ = state

        def eps_of(z: Array) -> Array:
            return denoiser(z[None], omega[None])[0]

        # Forward mode: on the CPU a convolution's backward pass in a loop is 20-36 times slower.
        # linearize computes the primal once for all directions.
        eps_hat, directional = jax.linearize(eps_of, z)
        quadratic = jax.vmap(lambda v: jnp.sum(v * directional(v)))(directions)
        trace = quadratic if solver.divergence == "hutchinson" else jnp.sum(quadratic)[None]
        s = sigma(omega)
        # Per dimension, so that tolerances mean the same whatever D.
        return 0.5 * s * (eps_hat - s * z), 0.5 * s * (trace / num_dims - s)

    growth = jnp.zeros(solver.probes if solver.divergence == "hutchinson" else 1, z_0.dtype)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(velocity),  # pyrefly: ignore[bad-argument-type]
        diffrax.Tsit5(),
        t0=omegas[0],
        t1=omegas[-1],
        dt0=None if solver.num_steps else FIRST_STEP * (omegas[-1] - omegas[0]),
        y0=(z_0, growth),
        stepsize_controller=_controller(omegas, solver),
        adjoint=diffrax.ForwardMode(),
        max_steps=solver.num_steps or MAX_STEPS,
        throw=False,
    )
    z_1, growth = (y[0] for y in solution.ys)
    log_prior = -0.5 * (jnp.sum(jnp.square(z_1)) + num_dims * math.log(2 * math.pi))
    log_prob = log_prior + num_dims * growth
    succeeded = (solution.result == diffrax.RESULTS.successful) & jnp.isfinite(log_prob)
    num_evaluations = 1 + EVALUATIONS_PER_STEP * jnp.asarray(solution.stats["num_steps"])
    return FlowDensity(jnp.where(succeeded, log_prob, jnp.nan), num_evaluations)


def _directions(key: PRNGKey, z_0: Array, solver: Solver) -> Array:
    """[directions, *dims]: random signs (Hutchinson), or every unit vector."""
    if solver.divergence == "hutchinson":
        return jax.random.rademacher(key, (solver.probes, *z_0.shape), z_0.dtype)
    return jnp.eye(z_0.size, dtype=z_0.dtype).reshape(z_0.size, *z_0.shape)


def _controller(omegas: Array, solver: Solver) -> diffrax.AbstractStepSizeController:
    if solver.num_steps:
        return diffrax.StepTo(omegas)

    def norm(scaled: tuple[Array, Array]) -> Array:
        # The larger of the two parts: in a mean over all D + P numbers the log density counts
        # 1/D, and with its error left out entirely the steps know nothing of it.
        rms = [jnp.sqrt(jnp.mean(jnp.square(part))) for part in scaled]
        error = jnp.maximum(*rms)
        # To diffrax a step into NaN has an infinite error and is made smaller, MAX_STEPS times. A
        # denoiser's NaN stays: let through, it ends the path at once.
        return jnp.where(jnp.isfinite(error), error, 0.0)

    return diffrax.PIDController(rtol=solver.rtol, atol=solver.atol, norm=norm)
