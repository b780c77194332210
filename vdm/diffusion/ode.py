"""The probability-flow ODE and the log density that it carries.

With omega = -log SNR as the time,

    dz / domega = 1/2 sigma (eps_hat(z, omega) - sigma z)

moves q(z_0) to q(z_1) when eps_hat = E[eps | z_t] (Song et al. 2021, arXiv:2011.13456, Eq. 13,
written in omega); the schedule enters only through its two ends. For any denoiser, the flow turns
N(0, I) at omega_1 into a density of its own at omega_0,

    log p_0(z_0) = log N(z_1; 0, I) + integral over omega of 1/2 sigma (div eps_hat - sigma D),

(their Eq. 39). This is the density of the flow, not of the ancestral sampler.
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
"""Most steps of the adaptive solver, rejected ones included; a path that needs more fails (NaN)."""

FIRST_STEP = 0.01
"""First step of the adaptive solver, as a share of the path; a step that is too long is retried
shorter."""

EVALUATIONS_PER_STEP = 6  # Tsit5 has seven stages, but the first repeats the previous step's last.


@dataclasses.dataclass(frozen=True)
class Solver:
    """Settings of the ODE solver: Tsitouras' 5(4) Runge-Kutta method, six evaluations per step.

    num_steps: number of steps on a given grid; 0 means adaptive steps, chosen for each path. The
        choice depends on rounding: in float32, where rounding changes with the batch, the result
        may change by as much as the tolerance allows.
    rtol, atol: tolerances of the adaptive steps. They apply separately to the root mean square
        over z and to the log density in nats *per dimension*.
    divergence: "exact" (one directional derivative for each dimension) or "hutchinson".
    probes: number of random directions of Hutchinson's estimate; with two or more its error can be
        estimated.
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
    """log p_0(z_0) in nats, one estimate for each probe (a single one if the divergence is exact),
    and the number of denoiser calls. log_prob is NaN where the solver failed."""

    log_prob: Float[Array, " probes"]
    num_evaluations: Int[Array, ""]


def flow_log_density(
    key: PRNGKey,
    z_0: Float[Array, "*dims"],
    omegas: Float[Array, " points"],
    denoiser: Denoiser,
    solver: Solver,
) -> FlowDensity:
    """Computes log p_0(z_0) of one example (no batch axis): under jax.vmap each example has its own
    steps.

    Args:
        key: for the probes, which stay fixed along the path.
        z_0: the example.
        omegas: increasing values from omega_0 to omega_1. A fixed number of steps takes one step
            per interval; adaptive steps use the first and the last value only.
        denoiser: defines the flow.
        solver: settings of the solver.
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

        def eps_hat_at(z: Array) -> Array:
            return denoiser(z[None], omega[None])[0]

        # Forward mode: on the CPU a convolution's backward pass in a loop is 20-36 times slower.
        # linearize computes the primal once for all directions.
        eps_hat, directional = jax.linearize(eps_hat_at, z)
        quadratic = jax.vmap(lambda v: jnp.sum(v * directional(v)))(directions)
        trace = quadratic if solver.divergence == "hutchinson" else jnp.sum(quadratic)[None]
        s = sigma(omega)
        # Per dimension, so that a tolerance means the same for every D.
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
    """The directions [directions, *dims] of the derivatives: random signs (Hutchinson), or every
    unit vector (exact)."""
    if solver.divergence == "hutchinson":
        return jax.random.rademacher(key, (solver.probes, *z_0.shape), z_0.dtype)
    return jnp.eye(z_0.size, dtype=z_0.dtype).reshape(z_0.size, *z_0.shape)


def _controller(omegas: Array, solver: Solver) -> diffrax.AbstractStepSizeController:
    if solver.num_steps:
        return diffrax.StepTo(omegas)

    def norm(scaled: tuple[Array, Array]) -> Array:
        # The larger of the two errors counts. In a mean over all D + P numbers the log density
        # would have weight 1/D, and without its error the steps would ignore it.
        rms = [jnp.sqrt(jnp.mean(jnp.square(part))) for part in scaled]
        error = jnp.maximum(*rms)
        # diffrax gives a step into NaN an infinite error and shortens it, up to MAX_STEPS times.
        # Where the denoiser itself gives NaN that cannot help: with error 0 the path ends at once.
        return jnp.where(jnp.isfinite(error), error, 0.0)

    return diffrax.PIDController(rtol=solver.rtol, atol=solver.atol, norm=norm)
