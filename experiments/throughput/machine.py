"""Measures the machine: the rate of matrix products and convolutions, and the images per second of
the input pipeline."""

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.throughput.cases import CASES, make_config
from vdm.data.pipeline import train_batches
from vdm.data.transforms import images
from vdm.devices import sharding
from vdm.runs.run import build_run

ROUNDS = 7


def gflops(function: Callable, flops: float, *args: Any) -> float:
    """The GFLOP/s of the fastest of a few calls."""
    compiled = jax.jit(function)
    jax.block_until_ready(compiled(*args))
    secs = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        secs.append(time.perf_counter() - start)
    return flops / min(secs) / 1e9


def peaks() -> dict[str, float]:
    """The GFLOP/s on one device, which means all cores of a CPU."""
    n = 2048 if jax.default_backend() == "cpu" else 8192
    rates = {}
    for dtype in (jnp.float32, jnp.bfloat16) if n > 2048 else (jnp.float32,):
        a = jnp.ones((n, n), dtype)
        name = "matrix_gflops" if dtype == jnp.float32 else "matrix_bfloat16_gflops"
        rates[name] = gflops(jnp.matmul, 2 * n**3, a, a)
    x, kernel = jnp.ones((16, 32, 32, 64)), jnp.ones((3, 3, 64, 64))

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    flops = 2 * x.size * kernel.size / 64
    return rates | {"convolution_gflops": gflops(convolve, flops, x, kernel)}


def images_per_sec(augmented: bool) -> float:
    """The images per second of the input pipeline alone, from 50,000 images of CIFAR-10's shape to
    the devices."""
    run = build_run(make_config(CASES["A"], "one_device"), "unused")
    chosen = images(run.source.shape, rotations=True, permutations=True) if augmented else None
    size, rates = 128, []
    batches = train_batches(run.source.load("train"), size, 0, 0, augmentation=chosen)
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(20):
            jax.block_until_ready(sharding.put_batch(next(batches), run.mesh))
        rates.append(20 * size / (time.perf_counter() - start))
    return statistics.median(rates)


if __name__ == "__main__":
    sharding.split_host(1)
    pipeline = {"images_per_sec": images_per_sec(False),
                "augmented_images_per_sec": images_per_sec(True)}  # fmt: skip
    print(json.dumps(peaks() | pipeline), flush=True)
