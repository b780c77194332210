"""Samples from trained parameters."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from vdm import sharding
from vdm.diffusion.samplers import Step
from vdm.model import VDM
from vdm.typing import Params

KEY_STREAM = 1_000_002
"""Keeps the noise of samples apart from that of training and evaluation of the same seed."""


def draw_samples(
    model: VDM,
    params: Params,
    num_samples: int,
    mesh: Mesh,
    *,
    step: Step,
    num_steps: int,
    batch_size: int = 256,
    seed: int = 0,
    labels: np.ndarray | None = None,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """[num_samples, *dims] data (codes, or real numbers) from the model.

    Sample i depends on (seed, i) alone, not on the batch size. labels [num_samples] are those
    of a conditional model; None takes the classes in turn. params live on the mesh.
    """
    if num_samples < 1 or num_steps < 1:
        raise ValueError(
            f"sample.num_images = {num_samples} in sample.num_steps = {num_steps}: "
            "both must be positive"
        )
    if labels is None:
        labels = np.arange(num_samples, dtype=np.int32) % max(1, model.num_classes)

    @jax.jit
    def draw(params: Params, index: jax.Array, labels: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed), KEY_STREAM)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
        return model.sample(params, keys, num_steps, step, labels if model.num_classes else None)

    batch_size = sharding.round_up(min(batch_size, num_samples), mesh)
    samples = []
    for start in range(0, num_samples, batch_size):
        index = np.minimum(np.arange(start, start + batch_size), num_samples - 1)
        batch = sharding.put_batch(
            {"index": index.astype(np.int32), "labels": np.asarray(labels, np.int32)[index]}, mesh
        )
        samples.append(np.asarray(draw(params, batch["index"], batch["labels"])))
        on_batch(min(start + batch_size, num_samples), num_samples)
    return np.concatenate(samples)[:num_samples]
