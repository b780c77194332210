"""Recomputes the contents of a golden file of the whole model with this library: bound, gradients,
sampling.

Gamma is the published name of omega.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.parity.golden import CONFIG, Arrays, below, flat, nested
from experiments.parity.parts import with_slope
from vdm.api import load_config
from vdm.config.build import build_model, build_source
from vdm.diffusion.elbo import Draws, to_bpd
from vdm.diffusion.noise import diffuse, sigma
from vdm.diffusion.samplers import Interval, ancestral
from vdm.diffusion.timesteps import step_interval
from vdm.io import interop
from vdm.models.vdm import VDM
from vdm.nn.embeddings import fourier_features, omega_embedding

SCHEDULES = {"fixed": "linear", "learnable_scalar": "vdm_scalar", "learnable_nnet": "vdm_nnet"}


def config_of(published: dict[str, Any], shape: tuple[int, ...]) -> ConfigDict:
    """Converts a published configuration to a config: configs/cifar10.py:published with its
    settings."""
    config = load_config(CONFIG, "published")
    config.data = {
        "name": "synthetic",
        "kwargs": {"shape": shape, "num_codes": published["vocab_size"]},
        "data_dir": "",
        "holdout": 0,
    }
    low, high = published["gamma_min"], published["gamma_max"]
    config.schedule.name = SCHEDULES[published["gamma_type"]]
    config.schedule.kwargs.update(omega_0=low, omega_1=high, learn_ends=False)
    config.network.kwargs.update(
        width=published["sm_n_embd"],
        num_blocks=published["sm_n_layer"],
        dropout=published["sm_pdrop"],
        fourier=published["with_fourier_features"],
        attention="all" if published["with_attention"] else "middle",
        omega_low=low,
        omega_range=high - low,
    )
    config.model.num_steps = published["sm_n_timesteps"]
    return config


def recompute_model(arrays: Arrays, dtype: Any) -> dict[str, Any]:
    """Recomputes the bound with its gradients, the quantities that it is made of, ancestral steps
    and decoding, under the names of the golden file."""
    published = json.loads(str(arrays["config_json"]))
    config = config_of(published, arrays["images"].shape[1:])
    num_steps = config.model.num_steps
    model = build_model(config, build_source(config.data))
    assert isinstance(model, VDM)
    like = jax.eval_shape(model.init, jax.random.key(0))
    params = interop.from_published(nested(below(arrays, "params"), dtype), like)
    codes = jnp.asarray(arrays["images"])
    labels = jnp.asarray(arrays["conditioning"], dtype)
    draws = published_draws(arrays, num_steps, dtype)

    def bound(params: Any) -> tuple[jax.Array, Any]:
        estimate = model.elbo(params, codes, draws, num_steps, labels)
        bits = [
            to_bpd(jnp.mean(nats), math.prod(model.dims))
            for nats in jax.tree.leaves(estimate.terms)
        ]
        return sum(bits, start=jnp.zeros((), dtype)), (jnp.stack(bits), estimate)

    with_gradient = any(re.match("out64/grad", name) for name in arrays)
    if with_gradient:
        valued = jax.jit(jax.value_and_grad(bound, has_aux=True))
        (total, (bits, estimate)), gradient = valued(params)
    else:
        (total, (bits, estimate)), gradient = jax.jit(bound)(params), {}
    terms, levels = estimate.terms, estimate.levels
    omega = model.schedule_fn(params)
    out = schedule_outputs(omega, draws.t, num_steps, jnp.asarray(arrays["t_grid"], dtype))
    out |= {
        "gamma_0": levels.omega_0,
        "gamma_1": levels.omega_1,
        "var_0": jnp.square(sigma(levels.omega_0)),
        "var_1": jnp.square(sigma(levels.omega_1)),
        "f": model.likelihood.encode(codes),
        "loss_recon": terms.reconstruction,
        "loss_klz": terms.prior_matching,
        "loss_diff": terms.denoising_matching,
        "bpd_terms": bits,
        "bpd_total": total,
    }
    out["z_t"] = diffuse(out["f"], draws.eps, levels.omega_t)
    network = config.network.kwargs
    out["temb"] = omega_embedding(
        levels.omega_t, network.width, network.omega_scale, network.omega_low, network.omega_range
    )
    denoise = jax.jit(model.denoiser(params, labels))
    out["eps_hat"] = denoise(out["z_t"], levels.omega_t)
    if with_gradient:
        gradients = flat(interop.to_published(gradient))
        out |= {f"grad/{name}": array for name, array in gradients.items()} | summaries(gradients)
    for step in sorted({name.split("/")[0] for name in arrays if re.match(r"step\d+/", name)}):
        out |= one_step(omega, denoise, step, below(arrays, step), dtype)
    z_0 = jnp.asarray(arrays["gen/z_0"], dtype)
    out["gen/x"] = model.likelihood.decode(z_0, levels.omega_0)
    if any(name.startswith("out64/inter/") for name in arrays):
        out |= inner_outputs(model, params, out["z_t"], levels.omega_t, labels)
    return out


def published_draws(arrays: Arrays, num_steps: int, dtype: Any) -> Draws:
    """The times and noise of the published run."""
    batch = len(arrays["images"])
    t = jnp.mod(jnp.asarray(arrays["t0"], dtype) + jnp.arange(batch, dtype=dtype) / batch, 1.0)
    if num_steps:
        # The published ceil(t T)/T assigns a t between two steps to the lower one.
        on_edge = (t > 0) & (t * num_steps == jnp.round(t * num_steps))
        t = jnp.where(on_edge, t - 0.5 / num_steps, t)
    return Draws(t, jnp.asarray(arrays["eps"], dtype), jnp.asarray(arrays["eps_0"], dtype))


def schedule_outputs(
    omega: Callable, t: jax.Array, num_steps: int, t_grid: jax.Array
) -> dict[str, Any]:
    """omega and its slope at the times of the bound and on the file's grid of times."""
    out: dict[str, Any] = {"t": t}
    if num_steps:
        s, out["t"] = step_interval(t, num_steps)
        out["gamma_s"] = omega(s)
    out["gamma_t"], out["dgamma_dt_at_t"] = with_slope(omega, out["t"])
    out["gamma_grid"], out["dgamma_dt_grid"] = with_slope(omega, t_grid)
    return out


def summaries(gradients: dict[str, Any]) -> dict[str, Any]:
    """Two numbers for each parameter array, sorted by name: the norm of the gradient and its
    product with cos(0, 1, 2, ...)."""
    raveled = [np.ravel(np.asarray(gradients[name], np.float64)) for name in sorted(gradients)]
    return {
        "gradsum_l2": np.array([np.linalg.norm(g) for g in raveled]),
        "gradsum_dotcos": np.array([g @ np.cos(np.arange(g.size)) for g in raveled]),
    }


def one_step(
    omega: Callable, denoise: Callable, name: str, given: Arrays, dtype: Any
) -> dict[str, Any]:
    """Takes the ancestral step from t = (T - i)/T to (T - i - 1)/T."""
    i, num_steps = int(given["i"]), int(given["T"])
    z_t, noise = jnp.asarray(given["z_t"], dtype), jnp.asarray(given["eps"], dtype)
    t, s = ((num_steps - j) / num_steps for j in (i, i + 1))
    omega_t, omega_s = omega(jnp.asarray(t, dtype)), omega(jnp.asarray(s, dtype))
    eps_hat = denoise(z_t, jnp.broadcast_to(omega_t, z_t.shape[:1]))
    interval = Interval(omega_s, omega_t, jnp.bool_(False), lambda k: noise)
    z_s, _ = ancestral().step(denoise, z_t, (), interval)
    return {
        f"{name}/gamma_t": omega_t,
        f"{name}/gamma_s": omega_s,
        f"{name}/eps_hat": eps_hat,
        f"{name}/z_s": z_s,
    }


def inner_outputs(
    model: VDM, params: Any, z: jax.Array, omega: jax.Array, labels: jax.Array
) -> dict[str, Any]:
    """Runs the network and returns the outputs of its modules by their published names."""

    @jax.jit
    def run(params: Any) -> Any:
        variables = {"params": params["network"]}
        return model.network.apply(variables, z, omega, labels, capture_intermediates=True)[1]

    out: dict[str, Any] = {}
    for path, value in flat(run(params)["intermediates"]).items():
        module = interop.to_published_path("network/" + path.removesuffix("/__call__/0"))
        if module is not None:
            out["inter/" + module.removeprefix("score_model/")] = value
    if model.network.fourier:
        out["inter/Base2FourierFeatures_0"] = fourier_features(z, model.network.frequencies)
    return out
