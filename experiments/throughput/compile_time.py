"""Measures how long the paper's network takes to compile, with its blocks in a loop or in sequence.

python -m experiments.throughput.compile_time [on|off ...]
"""

import functools
import json
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

from vdm.api import load_config
from vdm.devices import sharding
from vdm.runs import states
from vdm.runs.run import build_run
from vdm.training.gradient import Objective, make_gradient

BATCH_SIZE = 4


def compile_secs(scan: str, num_blocks: int = 32) -> dict[str, Any]:
    """The seconds of `jax.jit(...).lower().compile()` on one device, without the compilation cache,
    for the gradient of the loss of configs/cifar10.py with network.kwargs.scan = `scan` and for its
    whole train step. Nothing is run."""
    config = load_config("configs/cifar10.py")
    config.network.kwargs.scan, config.network.kwargs.num_blocks = scan, num_blocks
    config.train.batch_size, config.train.num_devices = BATCH_SIZE, 1
    # Uses the shapes of CIFAR-10 without its files.
    config.data.name, config.data.kwargs = "synthetic", {"shape": (32, 32, 3), "num_codes": 256}
    sharding.split_host(1)
    run = build_run(config, "unused")
    state = jax.eval_shape(functools.partial(states.looped, run), states.abstract_state(run))
    examples = jax.ShapeDtypeStruct(
        (BATCH_SIZE, *run.source.shape), jnp.uint8, sharding=sharding.split_batch(run.mesh)
    )
    batch, key = {"examples": examples}, jax.random.key(0)
    options = run.options
    objective = Objective(options.bound_steps, options.train_schedule)
    gradient = jax.jit(make_gradient(run.vdm, objective))
    step: Any = run.train_step()
    settings: Any = jax.config
    cached = settings.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        secs = {
            "gradient_secs": _compile(gradient, state.params, batch, key),
            "step_secs": _compile(step, state, batch),
        }
    finally:
        jax.config.update("jax_enable_compilation_cache", cached)
    device = run.mesh.devices.flat[0]
    return {"scan": scan, "num_blocks": num_blocks, "device": device.device_kind} | secs


def _compile(function: Any, *args: Any) -> dict[str, float]:
    """The seconds of tracing and of compilation, and the CPU seconds of the compilation, which do
    not depend on other work on the machine."""
    start = time.monotonic()
    lowered = function.lower(*args)
    traced, cores = time.monotonic(), time.process_time()
    lowered.compile()
    end = time.monotonic()
    return {
        "trace": traced - start,
        "compile": end - traced,
        "compile_cores": time.process_time() - cores,
    }


if __name__ == "__main__":
    for choice in sys.argv[1:] or ("on", "off"):
        print(json.dumps(compile_secs(choice)), flush=True)
