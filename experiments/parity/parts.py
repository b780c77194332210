"""Recomputes the contents of golden files of single parts: schedule, decoder, optimiser.

Gamma is the published name of omega.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.parity.golden import CONFIG, Arrays, below, flat, nested
from vdm.api import load_config
from vdm.config.build import build_optimizer
from vdm.config.registry import SCHEDULES, build
from vdm.diffusion.likelihood import Discretised, discretised_log_prob
from vdm.diffusion.noise import alpha
from vdm.io import interop
from vdm.training.optim import ema_update, learning_rate_schedule


def with_slope(omega: Callable, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Evaluates omega(t) and omega'(t)."""
    return jax.jvp(omega, (t,), (jnp.ones_like(t),))


def recompute_schedule(arrays: Arrays, dtype: Any) -> dict[str, Any]:
    """Recomputes the monotone network alone, and the gradient of a sum of omega and omega'."""
    params = interop.from_published({"gamma": nested(below(arrays, "params"), dtype)})["schedule"]
    config = load_config(CONFIG, "published")
    config.schedule.name = "vdm_nnet"
    config.schedule.kwargs.hidden_features = params["l2"]["bias"].size
    schedule = build("schedule", config.schedule, SCHEDULES)
    t = jnp.asarray(arrays["t"], dtype)
    by_omega, by_slope = (jnp.asarray(arrays[f"cot_{n}"], dtype) for n in ("gamma", "dgamma"))

    @jax.jit
    @jax.grad
    def gradient(params: Any) -> jax.Array:
        omega, slope = with_slope(lambda t: schedule.apply({"params": params}, t), t)
        return jnp.sum(by_omega * omega + by_slope * slope)

    omega, slope = with_slope(lambda t: schedule.apply({"params": params}, t), t)
    gradients = interop.to_published({"schedule": gradient(params)})["gamma"]
    return {"gamma": omega, "dgamma_dt": slope} | {
        f"grad/{name}": value for name, value in flat(gradients).items()
    }


def recompute_decoder(arrays: Arrays, dtype: Any) -> dict[str, Any]:
    """Recomputes log p(codes | z_0) for given z_0/alpha_0, its derivatives, and the most likely
    codes."""
    out: dict[str, Any] = {}
    for case in sorted({name.split("/")[0] for name in arrays if re.match(r"v\d+_g\d+/", name)}):
        given = below(arrays, case)
        num_codes = int(case[1 : case.index("_")])
        likelihood = Discretised(num_codes)
        omega_0, rescaled = (jnp.asarray(given[name], dtype) for name in ("g_0", "z_rescaled"))
        outputs = decode(likelihood, jnp.asarray(given["x"]), rescaled, omega_0)
        out |= {f"{case}/{name}": value for name, value in outputs.items()}
    return out


@functools.partial(jax.jit, static_argnums=0)
def decode(
    likelihood: Discretised, codes: jax.Array, rescaled: jax.Array, omega_0: jax.Array
) -> dict[str, jax.Array]:
    """The outputs of one case of a decoder file."""
    x = likelihood.encode(codes)

    def noise(rescaled: jax.Array, omega_0: jax.Array) -> jax.Array:
        return (rescaled - x) * jnp.exp(-0.5 * omega_0)

    def per_pixel(rescaled: jax.Array, omega_0: jax.Array) -> jax.Array:
        return discretised_log_prob(codes, noise(rescaled, omega_0), omega_0, likelihood.num_codes)

    # Forward mode: large parts of the derivative cancel within a pixel, before pixels are summed.
    log_prob, by_omega = with_slope(functools.partial(per_pixel, rescaled), omega_0)
    return {
        "logp_of_x": log_prob,
        "logprob_per_image": -likelihood.reconstruction(codes, noise(rescaled, omega_0), omega_0),
        "argmax": likelihood.decode(alpha(omega_0) * rescaled, omega_0),
        "dlogp_dz": jax.grad(lambda z: jnp.sum(per_pixel(z, omega_0)))(rescaled),
        "dlogp_dg0": jnp.sum(by_omega),
    }


def recompute_optimizer(arrays: Arrays, dtype: Any) -> dict[str, Any]:
    """Recomputes steps of AdamW with warm-up, mask and EMA, as the README of the files states."""
    config = load_config(CONFIG, "published")
    config.optim.kwargs.warmup_steps, ema_rate = 3, 0.999
    optimizer, kwargs = build_optimizer(config.optim, config.train.num_steps), config.optim.kwargs
    rate = learning_rate_schedule(
        config.train.num_steps, kwargs.learning_rate, kwargs.warmup_steps, kwargs.decay
    )
    num = len({name.split("/")[0] for name in arrays if re.match(r"g\d+/", name)})
    params = ema = {"network": nested(below(arrays, "p0"), dtype)}
    state = optimizer.init(params)
    out: dict[str, Any] = {"lrs": jnp.stack([rate(jnp.asarray(float(i))) for i in range(num)])}
    for i in range(num):
        gradients = {"network": nested(below(arrays, f"g{i}"), dtype)}
        updates, state = optimizer.update(gradients, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        ema = ema_update(ema, params, jnp.int32(i), ema_rate, warmup=False)
        for name, tree in ((f"p{i + 1}", params), (f"ema{i + 1}", ema)):
            out |= {f"{name}/{path}": leaf for path, leaf in flat(tree["network"]).items()}
    return out
