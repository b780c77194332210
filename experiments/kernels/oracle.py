"""The oracle: independent codes of known probabilities, whose bound is their entropy."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.results import Row, settings_hash
from vdm.diffusion.bounds import path_log_weight
from vdm.diffusion.codes import CodesDenoiser, code_log_probs, mean_eps
from vdm.diffusion.kernels import GAUSSIAN, MIXTURE
from vdm.diffusion.likelihood import Discretised

NUM_CODES, NUM_PATHS = 5, 200_000
CASES = (
    ("gaussian", "bayes", -8.0),
    ("mixture", "bayes", -8.0),
    ("mixture", "network", -1.0),
)


def oracle_rows() -> list[Row]:
    """The negative mean log weight of paths, nats per code, with its difference from -log p(x) of
    the same codes, for 1, 2, 5, 10 and 20 steps of omega from omega_0 to 30, float64."""
    probabilities = np.random.default_rng(1).dirichlet(np.full(NUM_CODES, 0.7))
    entropy = -float(np.sum(probabilities * np.log(probabilities)))
    with jax.enable_x64(True):
        codes = np.random.default_rng(0).choice(NUM_CODES, (NUM_PATHS, 1), p=probabilities)
        logits = jnp.log(jnp.asarray(probabilities))

        def log_probs(z: jax.Array, omega: jax.Array) -> jax.Array:
            return code_log_probs(jnp.broadcast_to(logits, (*z.shape, NUM_CODES)), z, omega)

        denoiser = CodesDenoiser(lambda z, o: mean_eps(log_probs(z, o), z, o), log_probs)
        exact = -np.log(probabilities)[codes[:, 0]]
        keys = jax.random.split(jax.random.key(0), NUM_PATHS)
        rows = []
        for name, decoder, omega_0 in CASES:
            kernel = MIXTURE if name == "mixture" else GAUSSIAN
            for num_steps in (1, 2, 5, 10, 20):
                start = time.monotonic()
                omegas = jnp.linspace(omega_0, 30.0, num_steps + 1)
                nats = -np.asarray(
                    path_log_weight(
                        keys, jnp.asarray(codes), omegas, denoiser, Discretised(NUM_CODES), kernel,
                        decoder == "network",
                    )
                )  # fmt: skip
                excess = nats - exact
                rows.append({
                    "name": f"oracle {name}, {decoder}, omega_0 {omega_0:g} T={num_steps}",
                    "config_hash": settings_hash({"codes": NUM_CODES, "paths": NUM_PATHS}),
                    "num_steps": num_steps,
                    "entropy_nats": entropy,
                    "excess_nats": float(excess.mean()),
                    "excess_stderr": float(excess.std() / NUM_PATHS**0.5),
                    "seconds": time.monotonic() - start,
                })  # fmt: skip
    return rows
