"""Shows on a trained model how the ends of the schedule collapse if only the denoising term trains
them.

The source that introduces the learned SNR trains it on the denoising term. This term is an integral
over [omega_0, omega_1] of a loss density that is never negative, so its minimum is at
omega_0 = omega_1: nothing is denoised, and the reconstruction or the prior term grows. The ends
need all three terms.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.results import Row
from vdm.diffusion import timesteps
from vdm.diffusion.elbo import draw, to_bpd
from vdm.runs.run import Run
from vdm.typing import Params

SHOWN = (0, 25, 50, 100, 200)
LEARNING_RATE = 0.1


def collapse(run: Run, params: Params) -> list[Row]:
    """The terms in bits/dim and the ends, at steps of Adam on the denoising term with the network
    fixed."""
    model, num_dims = run.vdm, int(np.prod(run.model.dims))
    data = jnp.asarray(run.source.load("train").examples[:256])
    optimizer = optax.adam(LEARNING_RATE)

    def terms(ends: Params, key: jax.Array) -> tuple[jax.Array, Any]:
        key_t, key_noise = jax.random.split(key)
        draws = draw(key_noise, timesteps.low_discrepancy(key_t, len(data)), model.dims)
        schedule = params["schedule"] | {"ends": ends}
        estimate = model.elbo(params | {"schedule": schedule}, data, draws)
        means = [to_bpd(jnp.mean(nats), num_dims) for nats in jax.tree.leaves(estimate.terms)]
        return means[2], (means, estimate.levels.omega_0, estimate.levels.omega_1)

    @jax.jit
    def step(ends: Params, state: Any, key: jax.Array) -> tuple[Params, Any, Any]:
        gradient, seen = jax.grad(terms, has_aux=True)(ends, key)
        updates, state = optimizer.update(gradient, state, ends)
        return optax.apply_updates(ends, updates), state, seen

    ends, rows = params["schedule"]["ends"], []
    state = optimizer.init(ends)
    for index in range(SHOWN[-1] + 1):
        ends, state, seen = step(ends, state, jax.random.fold_in(jax.random.key(0), index))
        (reconstruction, prior, denoising), omega_0, omega_1 = jax.device_get(seen)
        if index in SHOWN:
            rows.append({
                "name": f"denoising term alone, step {index}",
                "bpd_reconstruction": float(reconstruction),
                "bpd_prior": float(prior),
                "bpd_denoising": float(denoising),
                "sum_of_terms_bpd": float(reconstruction + prior + denoising),
                "omega_0": float(omega_0),
                "omega_1": float(omega_1),
            })  # fmt: skip
    return rows
