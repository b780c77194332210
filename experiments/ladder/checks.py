"""What makes one rung the special case of another, checked on the trained models of the table.

Each is a row {name, value, limit, holds} of checks.json: a largest difference, or a difference in
standard errors.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ladder import ddpm, mixture
from experiments.ladder.hvae import HierarchicalVAE
from experiments.ladder.latent_vdm import LatentLikelihood
from experiments.ladder.vae import VAE
from experiments.results import Row
from vdm.diffusion import elbo, hierarchy
from vdm.diffusion.hierarchy import Normal
from vdm.evaluation.statistics import standard_error
from vdm.run import Run

NUM_IMAGES = 16
NUM_PATHS = 4
NUM_STEPS = 100  # of the chain that is the DDPM and a hierarchy; of its network any will do


def claim(name: str, value: float, limit: float) -> Row:
    """value <= limit."""
    return {"name": name, "value": value, "limit": limit, "holds": bool(value <= limit)}


def checks(runs: dict[str, Run]) -> Iterator[Row]:
    """All of them, for one run of each rung."""
    codes = jnp.asarray(runs["vae"].source.load("test").examples[:NUM_IMAGES])
    yield from mixture_checks(np.asarray(codes, np.float64).reshape(len(codes), -1))
    yield one_level_is_the_vae(runs["vae"], codes)
    with jax.enable_x64(True):
        yield from fixed_encoder_is_the_ddpm(runs["ddpm, T = 1000"], codes)
        yield identity_is_the_vdm(runs["vdm, T = inf, learned SNR"], codes)


def mixture_checks(x: np.ndarray) -> Iterator[Row]:
    """Over 20 EM steps from random seeds: log p never falls, and the E-step closes the gap."""
    rng = np.random.default_rng(0)
    x = x[:, 20:28] + rng.random((len(x), 8))
    params, history = mixture.fit(x, 3, 0, floor=1 / 12, num_steps=20, tolerance=0.0)
    falls = np.maximum(-np.diff(history), 0).max()
    yield claim("mixture: no EM step lowers log p, nats", float(falls), 1e-9)
    bound = mixture.lower_bound(x, params, mixture.responsibilities(x, params))
    gap = np.abs(bound - mixture.log_likelihood(x, params)).max()
    yield claim("mixture: L = log p after the E-step, nats", float(gap), 1e-9)


def one_level_is_the_vae(run: Run, codes: jax.Array) -> Row:
    """The relative difference of the two bounds for the same parameters and noise."""
    _, params = run.trained_params()
    assert isinstance(run.model, VAE)
    fields = {f.name: getattr(run.model, f.name) for f in dataclasses.fields(run.model)}
    lists = {"network": {name: [value] for name, value in params["network"].items()}}
    keys = jax.random.split(jax.random.key(0), len(codes))
    ours = run.model.elbo(params, codes, keys).total
    theirs = HierarchicalVAE(**fields, num_levels=1).elbo(lists, codes, keys).total
    value = float(jnp.max(jnp.abs(theirs / ours - 1)))
    return claim("hvae with one level = vae, relative", value, 1e-6)


def fixed_encoder_is_the_ddpm(run: Run, codes: jax.Array) -> Iterator[Row]:
    """The trained DDPM in NUM_STEPS steps as a hierarchical VAE, float64."""
    model = run.vdm
    params = _float64(run.trained_params()[1])
    omegas = model.schedule_fn(params)(jnp.linspace(0.0, 1.0, NUM_STEPS + 1, dtype=jnp.float64))
    denoiser = jax.jit(model.denoiser(params))
    encoders, decoders = ddpm.as_hierarchy(omegas, denoiser)
    codes = jnp.tile(codes, (NUM_PATHS, 1, 1, 1))
    x = model.likelihood.encode(codes)
    rng = np.random.default_rng(0)
    noise = [jnp.asarray(rng.standard_normal(x.shape)) for _ in range(len(omegas))]
    path = hierarchy.encode_path(x, encoders, noise)
    log_likelihood = model.likelihood.log_prob(codes, path.latents[0], omegas[0])
    weight = hierarchy.log_weight(path, decoders, log_likelihood)
    expected = ddpm.log_weight(x, path.latents, omegas, denoiser, log_likelihood)
    value = float(jnp.max(jnp.abs(weight / expected - 1)))
    yield claim("hvae with the linear encoder = ddpm along a path, relative", value, 1e-5)
    # Two expectations: of paths through all levels, and of the DDPM's bound at one level each.
    t = jnp.asarray((rng.random() + np.arange(len(codes) * 50) / (len(codes) * 50)) % 1.0)
    drawn = elbo.Draws(t, *jnp.asarray(rng.standard_normal((2, len(t), *x.shape[1:]))))
    many = jnp.tile(codes, (50, 1, 1, 1))
    bound = jax.jit(lambda d: model.elbo(params, many, d, NUM_STEPS).terms.total)(drawn)
    of_paths = np.asarray(-weight).reshape(NUM_PATHS, -1).mean(axis=1)
    of_bound = np.asarray(bound).reshape(-1, NUM_IMAGES).mean(axis=1)
    error = np.hypot(standard_error(of_paths), standard_error(of_bound))
    value = float(abs(of_paths.mean() - of_bound.mean()) / error)
    yield claim("... and their expectations, standard errors apart", value, 3.0)


def identity_is_the_vdm(run: Run, codes: jax.Array) -> Row:
    """The fused bound with encoder and decoder the identity, float64, relative."""
    model = run.vdm
    params = _float64(run.trained_params()[1])
    rng = np.random.default_rng(1)
    t = jnp.asarray(rng.random(len(codes)))
    drawn = elbo.Draws(t, *jnp.asarray(rng.standard_normal((2, *codes.shape))))
    levels = elbo.noise_levels(model.schedule_fn(params), t, 0)
    fused = LatentLikelihood(
        model.likelihood,
        lambda x: x,
        lambda x, omega_0: Normal(x, jnp.broadcast_to(omega_0, x.shape)),
    )
    denoiser = jax.jit(model.denoiser(params))
    ours, theirs = (
        elbo.estimate_elbo(codes, drawn, levels, denoiser, likelihood).terms.total
        for likelihood in (fused, model.likelihood)
    )
    value = float(jnp.max(jnp.abs(ours / theirs - 1)))
    return claim("latent_vdm with the identity = vdm, relative", value, 1e-5)


def _float64(params: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), params)
