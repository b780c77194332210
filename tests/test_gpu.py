"""What no simulated device tells of an accelerator: that steps, evaluation and samples compile for
it, read nothing back to the host, and give the numbers of the CPU.

`make test-gpu` runs these, by VDM_TEST_PLATFORM=cuda; VDM_TEST_PLATFORM=cpu runs their bodies
where there is no GPU.
"""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from vdm.devices import sharding
from vdm.diffusion.likelihood import Discretised
from vdm.diffusion.samplers import ancestral
from vdm.evaluation.bits_per_dim import evaluate
from vdm.evaluation.estimators import Elbo
from vdm.evaluation.samples import Sampling, draw_samples
from vdm.models.vdm import VDM
from vdm.nn.schedules import Monotone
from vdm.nn.unet import UNet
from vdm.runs import states, train
from vdm.runs.run import open_run
from vdm.training import optim
from vdm.training.gradient import Objective
from vdm.training.optim import Averaging
from vdm.training.state import init_state
from vdm.training.step import make_train_step

PLATFORM = os.environ.get("VDM_TEST_PLATFORM", "")
BACKEND = {"cuda": "gpu", "rocm": "gpu"}.get(PLATFORM, PLATFORM)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not PLATFORM, reason="needs a GPU: `make test-gpu` runs it"),
    pytest.mark.skipif(
        bool(PLATFORM) and jax.default_backend() != BACKEND,
        reason=f"VDM_TEST_PLATFORM={PLATFORM}, and JAX finds no such device here",
    ),
]

CODES = np.asarray(jax.random.randint(jax.random.key(0), (32, 8, 8, 1), 0, 17), np.uint8)


@pytest.fixture(params=["float32", "default"])
def precision(request):
    """Tolerance with products in float32, or in the default precision (TF32 on recent GPUs)."""
    with jax.default_matmul_precision(request.param):
        yield {"float32": 1e-3, "default": 0.05}[request.param]


def mesh_of(platform):
    """The first device of a platform."""
    device = np.array(jax.devices(platform)[:1]).reshape(1, 1)
    return Mesh(device, sharding.AXES, axis_types=(AxisType.Auto,) * 2)


def make_model(num_blocks=1, **changes):
    network = UNet(num_codes=17, width=16, num_blocks=num_blocks, **changes)
    return VDM(Monotone(-8.0, 5.0, hidden_features=16), network, Discretised(17), (8, 8, 1))


def start(model, mesh, optimizer):
    """A state away from the zeros of the last layer, so that all gradients are there."""
    params = jax.tree.map(lambda x: x + 0.02, model.init(jax.random.key(1)))
    state = init_state(model, optimizer, jax.random.key(1), params)
    # Through the host, so that no two states share their memory.
    return jax.device_put(jax.device_get(state), sharding.replicated(mesh))


def after_steps(model, platform, accumulate=1, num_steps=3):
    """(how far each parameter moved, metrics) on the host; the first call, which compiles, reads
    nothing back."""
    mesh, optimizer = mesh_of(platform), optim.sgd(10, learning_rate=1e-2)
    state = start(model, mesh, optimizer)
    before = jax.device_get(state.params)
    step = make_train_step(
        model, optimizer, jax.random.key(5), Objective(0, "variance"), Averaging(0.99, True),
        accumulate, mesh,
    )  # fmt: skip
    batch = sharding.put_batch({"examples": CODES}, mesh)
    with jax.transfer_guard("disallow"):
        for _ in range(num_steps):
            state, metrics = step(state, batch)
    assert {d.platform for d in jax.tree.leaves(state.params)[0].devices()} == {platform}
    return jax.tree.map(np.subtract, jax.device_get(state.params), before), jax.device_get(metrics)


def distance(tree, other):
    """Relative, of all numbers together."""
    a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (tree, other))
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize(
    ("num_blocks", "accumulate"),
    [(1, 1), (4, 2)],  # four blocks are a loop on accelerators, and so are microbatches
)
def test_the_first_steps_are_those_of_the_cpu(num_blocks, accumulate, precision):
    model = make_model(num_blocks)
    moved, metrics = after_steps(model, BACKEND, accumulate)
    expected, expected_metrics = after_steps(model, "cpu", accumulate)
    assert distance(moved, expected) < precision
    for name, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=precision, err_msg=name)


def test_steps_in_bfloat16_are_near_those_in_float32():
    whole, half = (
        after_steps(make_model(4, dropout=0.0, remat="blocks", dtype=dtype), BACKEND)[1]
        for dtype in ("float32", "bfloat16")
    )
    for name, value in half.items():
        assert value.dtype == jnp.float32
        assert np.isfinite(value), name
    np.testing.assert_allclose(half["bpd"], whole["bpd"], rtol=0.05)


def test_bound_and_samples_are_those_of_the_cpu(precision, make_tiny_config, tmp_path):
    run = open_run(make_tiny_config(train__num_devices=1), tmp_path / "run")
    split = run.source.load("test")
    model = make_model()
    params = jax.device_get(start(model, mesh_of("cpu"), optim.sgd(10)).params)
    found = {}
    for platform in (BACKEND, "cpu"):
        mesh = mesh_of(platform)
        on_device = jax.device_put(params, sharding.replicated(mesh))
        bound = evaluate(model, on_device, split, mesh, estimator=Elbo(), draws=2)
        drawn = draw_samples(model, on_device, 32, mesh, Sampling(ancestral(), 10))
        found[platform] = bound.total, drawn.data
    (bound, samples), (expected, others) = found[BACKEND], found["cpu"]
    np.testing.assert_allclose(bound, expected, rtol=precision)
    # Where two codes are equally likely rounding decides.
    assert np.mean(samples == others) > 0.9


@pytest.mark.parametrize("num_steps", [250, 1000])
def test_long_chains_compile(num_steps):
    # The times of a grid, fused with a schedule, once compiled at some lengths and not at others.
    model, mesh = make_model(), mesh_of(BACKEND)
    params = start(model, mesh, optim.sgd(10)).params
    drawn = draw_samples(model, params, 2, mesh, Sampling(ancestral(), num_steps))
    assert drawn.data.shape == (2, 8, 8, 1)


def test_a_run_trains_there_and_its_checkpoint_is_read_on_the_cpu(make_tiny_config, tmp_path):
    config = make_tiny_config(
        train__num_devices=1, train__num_steps=4, train__save_every=2, train__log_every=2,
        train__eval_every=0,
    )  # fmt: skip
    run = open_run(config, tmp_path / "run")
    assert run.mesh.devices.flat[0].platform == BACKEND
    train.train(run)  # and evaluates and samples, as users do
    step, params = states.trained_params(run)
    on_cpu = dataclasses.replace(run, mesh=mesh_of("cpu"))
    other_step, others = states.trained_params(on_cpu)
    assert step == other_step == 4
    assert {d.platform for leaf in jax.tree.leaves(others) for d in leaf.devices()} == {"cpu"}
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(params), jax.device_get(others))
    split = run.source.load("test")
    bpd, expected = (
        evaluate(run.model, p, split, r.mesh, estimator=run.estimator, draws=2).summary()["bpd"]
        for p, r in ((params, run), (others, on_cpu))
    )
    np.testing.assert_allclose(bpd, expected, rtol=2e-2)
