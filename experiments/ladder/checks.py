"""Checks on the trained networks of the table which rung is a special case of which other.

Each check is a row {name, value, limit, holds} of checks.json, where the value is a largest
difference, or a difference in standard errors.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ladder import ddpm, mixture
from experiments.ladder.hvae import HierarchicalVAE
from experiments.ladder.latent_vdm import LatentLikelihood, LatentVDM
from experiments.ladder.vae import VAE
from experiments.results import Row
from vdm.diffusion import elbo, hierarchy
from vdm.diffusion.consistency import path_terms
from vdm.diffusion.hierarchy import Normal
from vdm.evaluation.statistics import standard_error
from vdm.runs import states
from vdm.runs.run import Run
from vdm.typing import EndPoint, Params, PRNGKey

NUM_IMAGES = 16
NUM_PATHS = 4
NUM_STEPS = 100  # steps of the chain that is compared; the network works with any number


def claim(name: str, value: float, limit: float) -> Row:
    """The row of the claim value <= limit."""
    return {"name": name, "value": value, "limit": limit, "holds": bool(value <= limit)}


def checks(runs: dict[str, Run]) -> Iterator[Row]:
    """Makes all checks, with one run of each rung."""
    codes = jnp.asarray(runs["vae"].source.load("test").examples[:NUM_IMAGES])
    yield e_step_closes_the_gap(codes)
    yield one_level_is_the_vae(runs["vae"], codes)
    with jax.enable_x64(True):
        yield from fixed_encoder_is_the_ddpm(runs["ddpm, T = 1000"], codes)
        yield identity_is_the_vdm(runs["vdm, T = inf, learned SNR"], codes)


def e_step_closes_the_gap(codes: jax.Array) -> Row:
    """Checks that L(theta, q) = log p(x) at q = p(z | x), for a mixture fitted in one step to eight
    pixels."""
    x = np.asarray(codes, np.float64).reshape(len(codes), -1)[:, 20:28]
    x += np.random.default_rng(0).random(x.shape)
    params, _ = mixture.fit(x, 3, 0, floor=1 / 12, num_steps=1)
    bound = mixture.lower_bound(x, params, mixture.responsibilities(x, params))
    gap = np.abs(bound - mixture.log_likelihood(x, params)).max()
    return claim("mixture: L = log p after the E-step, nats", float(gap), 1e-9)


def one_level_is_the_vae(run: Run, codes: jax.Array) -> Row:
    """Checks that the bounds of the VAE and of a hierarchy with one level agree for the same
    parameters and noise."""
    _, params = states.trained_params(run)
    assert isinstance(run.model, VAE)
    fields = {f.name: getattr(run.model, f.name) for f in dataclasses.fields(run.model)}
    lists = {"network": {name: [value] for name, value in params["network"].items()}}
    keys = jax.random.split(jax.random.key(0), len(codes))
    ours = run.model.elbo(params, codes, keys).total
    theirs = HierarchicalVAE(**fields, num_levels=1).elbo(lists, codes, keys).total
    value = float(jnp.max(jnp.abs(theirs / ours - 1)))
    return claim("hvae with one level = vae, relative", value, 1e-6)


def fixed_encoder_is_the_ddpm(run: Run, codes: jax.Array) -> Iterator[Row]:
    """Checks in float64 that the trained DDPM with NUM_STEPS steps is a hierarchical VAE."""
    model = run.vdm
    params = _float64(states.trained_params(run)[1])
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
    # The two means are of these paths, and of the DDPM's bound with its divergences in closed form
    # (S1 1.62) along the same paths, so that their common noise cancels.
    stacked = jnp.stack(noise)
    forms = jax.jit(
        lambda stacked: path_terms(codes, lambda i: stacked[i], omegas, denoiser, model.likelihood)
    )(stacked)
    difference = np.asarray(-weight - forms.denoising_bound)
    value = float(abs(difference.mean()) / standard_error(difference))
    yield claim("... and the means of both bounds, standard errors apart", value, 3.0)
    per_dim = x[0].size * math.log(2)
    yield claim(
        "... that standard error, bits/dim", float(standard_error(difference)) / per_dim, 0.1
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdentityLatents(LatentVDM):
    """The fused model with the identity as encoder and decoder, which is a VDM of the data."""

    @property
    def latent_dims(self) -> tuple[int, ...]:
        """The latents have the dimensions of the data."""
        return self.dims

    def likelihood_of(self, params: Params, dropout_key: PRNGKey | None = None) -> LatentLikelihood:
        """The likelihood whose encoder and decoder leave z_0 / alpha_0 and exp(omega_0)
        unchanged."""

        def decoder(x: jax.Array, omega_0: EndPoint) -> Normal:
            return Normal(x, jnp.broadcast_to(omega_0, x.shape))

        return LatentLikelihood(self.likelihood, lambda x: x, decoder)


def identity_is_the_vdm(run: Run, codes: jax.Array) -> Row:
    """Checks in float64 that the terms of the fused model, with the identity as encoder and
    decoder, are those of the VDM, relative to the VDM's bound."""
    model, params = run.vdm, _float64(states.trained_params(run)[1])
    fields = {f.name: getattr(model, f.name) for f in dataclasses.fields(model)}
    fused, rng = IdentityLatents(**fields), np.random.default_rng(1)
    eps, eps_0 = jnp.asarray(rng.standard_normal((2, *codes.shape)))
    drawn = elbo.Draws(jnp.asarray(rng.random(len(codes))), eps, eps_0)
    lists = params | {"network": {"denoiser": params["network"]}}
    theirs = jax.jit(model.elbo)(params, codes, drawn).terms
    ours = jax.jit(fused.elbo)(lists, codes, drawn).terms
    gaps = [jnp.max(jnp.abs(a - b) / theirs.total) for a, b in zip(ours, theirs, strict=True)]
    return claim("latent_vdm with the identity = vdm, relative", float(max(gaps)), 1e-9)


def _float64(params: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), params)
