"""The terms of a trained model along many paths, and the mean and variance of each form."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments.results import Row
from vdm.api import Model
from vdm.data.pipeline import evaluation_batches
from vdm.data.sources import Split
from vdm.devices import sharding
from vdm.diffusion.consistency import (
    LevelTerms,
    PathTerms,
    path_terms,
    random_level_terms,
)
from vdm.diffusion.noise import fresh_noise
from vdm.evaluation.statistics import standard_error

PRIORS = {
    "denoising": "prior_matching",
    "consistency": "last_step_prior",
    "printed": "last_step_prior",
}
"""The prior term that goes with each form's matching term."""


def on_examples(
    model: Model, split: Split, num_steps: int, paths: int, levels: int, seed: int = 0
) -> tuple[PathTerms, LevelTerms]:
    """Computes the terms in nats along whole paths [paths, (T,) N], and from `levels` single random
    levels [levels, N], with independent noise for every example."""
    vdm, params, mesh = model.vdm, model.params, model.run.mesh
    batch = next(evaluation_batches(split, sharding.round_up(len(split.examples), mesh)))
    mask = batch.pop("mask")
    batch = sharding.put_batch(batch, mesh)
    omegas = jnp.asarray(model.omega(np.linspace(0.0, 1.0, num_steps + 1)))
    labels = batch["labels"] if vdm.num_classes else None

    def keys(key: jax.Array) -> jax.Array:
        return jax.vmap(jax.random.fold_in, (None, 0))(key, batch["index"])

    @jax.jit
    def path(params: dict, key: jax.Array) -> PathTerms:
        denoiser = vdm.denoiser(params, labels)
        noise_at = fresh_noise(keys(key), vdm.dims)
        return path_terms(batch["examples"], noise_at, omegas, denoiser, vdm.likelihood)

    @jax.jit
    def level(params: dict, key: jax.Array) -> LevelTerms:
        noise_at = fresh_noise(keys(key), vdm.dims)
        noise = jnp.stack([noise_at(jnp.int32(i)) for i in range(3)])
        x = vdm.likelihood.encode(batch["examples"])
        index = jax.random.randint(jax.random.fold_in(key, len(mask)), mask.shape, 0, num_steps)
        return random_level_terms(x, index, noise, omegas, vdm.denoiser(params, labels))

    def repeat(draw, key: jax.Array, times: int):
        rows = [jax.device_get(draw(params, k)) for k in jax.random.split(key, times)]
        return jax.tree.map(lambda *a: np.stack(a).astype(np.float64)[..., mask], *rows)

    path_key, level_key = jax.random.split(jax.random.key(seed))
    return repeat(path, path_key, paths), repeat(level, level_key, levels)


def moments(values: np.ndarray, weights: np.ndarray | None = None) -> tuple[float, float]:
    """The mean of values [draws, N], and their variance for a fixed example, averaged over
    examples. With weights [draws] both are exact sums of a quadrature, otherwise estimates from
    independent draws."""
    if weights is None:
        return float(values.mean()), float(values.var(axis=0, ddof=1).mean())
    mean = weights @ values
    return float(mean.mean()), float((weights @ (values - mean) ** 2).mean())


def bound(terms: PathTerms, form: str) -> np.ndarray:
    """The negative bound in one form, nats [paths, N]; "printed" gives the value of the printed
    formula."""
    matching = getattr(terms.levels, form).sum(axis=1)
    return terms.reconstruction + getattr(terms, PRIORS[form]) + matching


def describe(terms: PathTerms, form: str, weights: np.ndarray | None = None) -> Row:
    """The means of a form's terms (nats per example) and the variances along a path (nats^2)."""
    levels = getattr(terms.levels, form)
    nats, variance_bound = moments(bound(terms, form), weights)
    matching, variance_path = moments(levels.sum(axis=1), weights)
    return {
        "form": form,
        "bound": "none" if form == "printed" else "elbo",
        "nats": nats,
        "reconstruction": moments(np.asarray(terms.reconstruction), weights)[0],
        "prior": moments(getattr(terms, PRIORS[form]), weights)[0],
        "matching": matching,
        "matching_of_levels": [moments(level, weights)[0] for level in np.moveaxis(levels, 1, 0)],
        "variance_path": variance_path,
        "variance_bound": variance_bound,
    }


def monte_carlo_error(values: np.ndarray) -> float:
    """The standard error of the mean of values [draws, N] over new noise, for N fixed examples."""
    return math.sqrt(moments(values)[1] / values.size)


def variance_error(values: np.ndarray) -> float:
    """The standard error over examples of the variance that `moments` gives."""
    return standard_error(values.var(axis=0, ddof=1))
