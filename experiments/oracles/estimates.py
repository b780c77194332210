"""The rows of one oracle between given ends, for every bound that applies."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments.oracles.oracles import Oracle, elbo_of_steps, exact_nats_of_steps
from experiments.results import Row
from vdm.diffusion.bounds import (
    DEQUANTISATIONS,
    importance_bound,
    path_log_weight,
    probability_flow_bound,
)
from vdm.diffusion.exact import GaussianData
from vdm.diffusion.ode import Solver

MOST_STEPS = 4096
FITTED = (256, 512, 1024, 2048, 4096)
IW_STEPS, IW_PATHS = 10, 64
SOLVER = Solver(rtol=1e-9, atol=1e-9, divergence="exact")


def elbo_rows(oracle: Oracle, ends: tuple[float, float], num: int) -> Iterator[Row]:
    """The rows of the ELBO L_T by quadrature for T = 1 ... 4096 and infinity (num_steps = 0), and
    of the slope of log(L_T - L_inf) against log T; for the Gaussian also of the closed form."""
    del num
    elbo = elbo_of_steps(oracle, *ends, MOST_STEPS)
    for num_steps, nats in elbo.items():
        yield {"bound": "elbo", "num_steps": num_steps, "nats": nats, "stderr": 0.0}
    excess = [elbo[steps] - elbo[0] for steps in FITTED]
    slope = float(np.polyfit(np.log(FITTED), np.log(excess), 1)[0])
    yield {"bound": "elbo-slope", "slope": slope, "fitted_steps": list(FITTED)}
    if isinstance(oracle.data, GaussianData):  # Independent of the quadrature above.
        closed = {0: oracle.data.denoising_term(*map(jnp.float64, ends))}
        for steps in FITTED:
            grid = jnp.linspace(*ends, steps + 1)
            closed[steps] = oracle.data.denoising_term_of_steps(grid)
        for num_steps, denoising in closed.items():
            nats = sum(oracle.end_terms(*ends)) + oracle.dim * float(denoising)
            yield {"bound": "elbo-closed-form", "num_steps": num_steps, "nats": nats, "stderr": 0.0}


def iw_rows(oracle: Oracle, ends: tuple[float, float], num: int) -> Iterator[Row]:
    """The rows of IW-K for K = 1 ... 64 at T = 10, with the ELBO of T = 10 by quadrature and, if it
    is known, the exact value of the T-step model.

    step_nats: IW-K minus IW-K/2 with other paths; with the same paths it could never be positive,
    whatever the weights.
    """
    omegas = jnp.linspace(*ends, IW_STEPS + 1)
    key_data, key_paths = jax.random.split(jax.random.key(1))
    data, exact = oracle.draw(key_data, num)
    weigh = jax.jit(
        lambda keys: path_log_weight(keys, data, omegas, oracle.data.eps_hat, oracle.likelihood)
    )
    keys = jax.random.split(key_paths, (2, IW_PATHS, num))
    ours, others = (jnp.stack([weigh(k) for k in half]) for half in keys)

    def grouped(log_weights: jax.Array, k: int) -> jax.Array:
        groups = log_weights.reshape(IW_PATHS // k, k, num)
        return jnp.mean(jax.vmap(importance_bound)(groups), axis=0)

    for k in (2**i for i in range(IW_PATHS.bit_length())):
        bound = grouped(ours, k)
        row = {"bound": f"iw-{k}", "num_steps": IW_STEPS, "K": k, **estimate(oracle, bound, exact)}
        if k > 1:
            row["step_nats"], row["step_stderr"] = mean_and_error(bound - grouped(others, k // 2))
        yield row
    grid = np.asarray(omegas)
    ends_terms = sum(oracle.end_terms(*ends))
    denoising = np.sum(np.expm1(np.diff(grid)) * oracle.loss_density(grid[1:]))
    common: Row = {"num_steps": IW_STEPS, "stderr": 0.0}
    yield {"bound": "elbo", "nats": float(ends_terms + denoising), **common}
    exact_of_model = exact_nats_of_steps(oracle, grid)
    if exact_of_model is not None:
        yield {"bound": "exact-of-steps", "nats": exact_of_model, **common}


def ode_rows(oracle: Oracle, ends: tuple[float, float], num: int) -> Iterator[Row]:
    """The rows of each ODE bound that applies, with the exact divergence."""
    names = DEQUANTISATIONS if oracle.discrete else DEQUANTISATIONS[:1]
    if ends[0] < -10:  # a bin is hundreds of standard deviations wide: most paths do not converge
        names = [name for name in names if name != "uniform"]
    key_data, key_noise = jax.random.split(jax.random.key(2))
    data, exact = oracle.draw(key_data, num)
    for dequantisation in names:

        def bound(key: jax.Array, x: jax.Array, name: str = dequantisation) -> tuple:
            denoiser, omegas = oracle.data.eps_hat, jnp.array(ends)
            return probability_flow_bound(key, x, omegas, denoiser, oracle.likelihood, name, SOLVER)

        estimates = jax.jit(jax.vmap(bound))(jax.random.split(key_noise, num), data)
        yield {
            "bound": f"ode-{dequantisation}",
            **estimate(oracle, estimates.total, exact),
            "num_evaluations": float(jnp.mean(estimates.num_evaluations)),
        }


def estimate(oracle: Oracle, bound: jax.Array, exact: jax.Array) -> Row:
    """The mean over the data of bound + log p(x), which has only the noise of the bound, plus the
    exact mean of -log p(x)."""
    gap, stderr = mean_and_error(bound - exact)
    return {"nats": oracle.exact_nats() + gap, "stderr": stderr}


def mean_and_error(values: jax.Array) -> tuple[float, float]:
    """The mean of independent values and its standard error."""
    return float(jnp.mean(values)), float(jnp.std(values, ddof=1) / np.sqrt(values.size))
