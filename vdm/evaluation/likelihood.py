"""Bits/dim of a whole split: every example once per draw, with two standard errors.

Draw k of K gives every example one time and fresh noise. Within a draw the times are
low-discrepancy over the split; over the draws every example has one time in each of K equal
parts of [0, 1). Draws are independent, so the spread of their means is a Monte-Carlo error (a
little too large, as the parts differ). The error over images contains what noise is left in the
mean of each image. Times and noise depend on (seed, draw, example) alone, not on the batch size
or the devices, and are the same for every checkpoint.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vdm import sharding
from vdm.data.pipeline import evaluation_batches
from vdm.data.sources import Split
from vdm.diffusion.elbo import Draws, Estimate
from vdm.model import VDM
from vdm.typing import Params

KEY_STREAM = 1_000_001
"""Keeps the noise of evaluation apart from that of a training run of the same seed."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Every draw of every example, in the order of the split. numpy float64, [draws, examples].

    The three terms of the negative bound: nats. omega_t: where the denoising term was taken;
    loss_density: 1/2 ||eps - eps_hat||^2 there, nats per unit of omega. omega_0, omega_1: the ends.
    """

    reconstruction: np.ndarray
    prior_matching: np.ndarray
    denoising_matching: np.ndarray
    omega_t: np.ndarray
    loss_density: np.ndarray
    omega_0: float
    omega_1: float
    num_dims: int

    @property
    def total(self) -> np.ndarray:
        """The negative bound, nats."""
        return self.reconstruction + self.prior_matching + self.denoising_matching

    def bpd(self, nats: np.ndarray) -> np.ndarray:
        """Nats -> bits/dim."""
        return nats / (self.num_dims * math.log(2))

    def summary(self) -> dict[str, float]:
        """bpd, its terms, and its standard errors over images and over Monte-Carlo noise."""
        total = self.bpd(self.total)
        draws, examples = total.shape
        return {
            "bpd": float(total.mean()),
            "bpd_reconstruction": float(self.bpd(self.reconstruction).mean()),
            "bpd_prior": float(self.bpd(self.prior_matching).mean()),
            "bpd_denoising": float(self.bpd(self.denoising_matching).mean()),
            "stderr_images": standard_error(total.mean(axis=0)),
            "stderr_monte_carlo": standard_error(total.mean(axis=1)),
            "num_examples": examples,
            "draws_per_example": draws,
        }


def standard_error(values: np.ndarray) -> float:
    """Of the mean of independent values; NaN (unknown) for a single one."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


@functools.lru_cache(maxsize=8)  # compiled once for the evaluations of a run
def make_evaluate_batch(
    model: VDM, num_steps: int, num_examples: int, num_draws: int
) -> Callable[[Params, dict, jax.Array, jax.Array], Estimate]:
    """A compiled (params, batch, key, index of the draw) -> one estimate for each example."""

    def evaluate_batch(params: Params, batch: dict, key: jax.Array, draw: jax.Array) -> Estimate:
        data, index = batch["examples"], batch["index"]
        key_t, key_noise = jax.random.split(jax.random.fold_in(key, draw))
        u = (draw + jax.random.uniform(key_t, (), jnp.float32)) / num_draws
        t = jnp.mod(u + index.astype(jnp.float32) / num_examples, 1.0)

        def noise(i: jax.Array) -> jax.Array:
            return jax.random.normal(jax.random.fold_in(key_noise, i), (2, *model.dims))

        eps, eps_0 = jnp.moveaxis(jax.vmap(noise)(index), 1, 0)
        labels = batch["labels"] if model.num_classes else None
        return model.elbo(params, data, Draws(t, eps, eps_0), num_steps, labels)

    return jax.jit(evaluate_batch)


def evaluate(
    model: VDM,
    params: Params,
    split: Split,
    mesh: Mesh,
    *,
    num_steps: int = 0,
    draws: int = 20,
    batch_size: int = 256,
    seed: int = 0,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """The bound at num_steps steps (0: continuous time) on every example of the split.

    params live on the mesh. Any batch size works: the last batch is filled up and the filling
    masked. on_batch(done, total) is called as batches finish.
    """
    num_examples = len(split.examples)
    if draws < 1 or num_examples < 1:
        raise ValueError(f"{draws} draws of {num_examples} examples: both must be positive")
    if num_steps < 0:
        raise ValueError(f"num_steps = {num_steps}: 0 is continuous time, T > 0 is T steps")
    batch_size = sharding.round_up(min(batch_size, num_examples), mesh)
    evaluate_batch = make_evaluate_batch(model, num_steps, num_examples, draws)
    key = jax.random.fold_in(jax.random.key(seed), KEY_STREAM)
    rows: list[np.ndarray] = []  # [three terms, omega_t, density; draws; batch]
    total = draws * math.ceil(num_examples / batch_size)
    for batch in evaluation_batches(split, batch_size):
        mask = batch.pop("mask")
        on_device = sharding.put_batch(batch, mesh)
        results = []
        for k in range(draws):
            estimate = evaluate_batch(params, on_device, key, jnp.int32(k))
            columns = (*estimate.terms, estimate.levels.omega_t, estimate.loss_density)
            results.append(jnp.stack(columns))
            on_batch(len(rows) * draws + k + 1, total)
        rows.append(np.asarray(jnp.stack(results, axis=1), np.float64)[..., mask])
    ends = model.schedule_fn(params)(jnp.array([0.0, 1.0]))
    return Evaluation(
        *np.concatenate(rows, axis=-1),
        omega_0=float(ends[0]),
        omega_1=float(ends[1]),
        num_dims=math.prod(model.dims),
    )
