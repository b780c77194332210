"""Runs a train step in its own process, which has as many devices as its variant. It reports the
cost of compilation, then times one step for each line that it reads."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.throughput.cases import CASES, install, make_config
from experiments.throughput.flops import forward_flops
from vdm.data.pipeline import train_batches
from vdm.devices import sharding
from vdm.runs import states
from vdm.runs.run import build_run


def main() -> None:
    """Compiles and times the step of the case and variant given on the command line."""
    name, variant = sys.argv[1:]
    jax.config.update("jax_enable_compilation_cache", False)
    install(variant)
    case = CASES[name]
    config = make_config(case, variant)
    sharding.split_host(config.train.num_devices)
    run = build_run(config, Path("unused"))
    step: Any = run.train_step()
    batches = train_batches(run.source.load("train"), case.batch_size, 0, 0)
    batch = sharding.put_batch(next(batches), run.mesh)
    state = states.initial_state(run)
    start = time.perf_counter()
    compiled = step.lower(state, batch).compile()
    compile_secs = time.perf_counter() - start
    devices = run.mesh.devices.size
    temporaries = compiled.memory_analysis().temp_size_in_bytes * devices
    tell(
        {
            "compile_secs": compile_secs,
            "temp_mib": temporaries / 2**20,
            "devices": sharding.name_devices(run.mesh),
            # One forward pass, and the backward passes for the inputs and for the parameters.
            "gflop": 3 * forward_flops(run.vdm, case.batch_size) / 1e9,
        }
    )
    for _ in sys.stdin:
        start = time.perf_counter()
        batch = sharding.put_batch(next(batches), run.mesh)
        got = time.perf_counter()
        state, metrics = compiled(state, batch, *step.arrays)
        jax.block_until_ready((state, metrics))
        done = time.perf_counter()
        assert np.isfinite(metrics["bpd"])
        tell({"step_secs": done - start, "input_secs": got - start})


def tell(facts: dict[str, Any]) -> None:
    """Writes facts to the parent process as one line."""
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
