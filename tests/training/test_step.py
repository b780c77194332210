"""The train step: its randomness, its devices, its average, and that it compiles once."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.training import vectors
from vdm.devices import sharding
from vdm.diffusion.likelihood import Discretised
from vdm.models.vdm import VDM
from vdm.nn.schedules import Monotone, Tabulated
from vdm.nn.unet import UNet
from vdm.training import optim
from vdm.training.gradient import Objective, make_gradient
from vdm.training.optim import Averaging
from vdm.training.state import init_state
from vdm.training.step import make_train_step

MODEL = VDM(
    schedule=Monotone(-8.0, 5.0, hidden_features=8),
    network=UNet(num_codes=17, num_classes=0, width=8, num_blocks=0, dropout=0.1, attention="none"),
    likelihood=Discretised(17),
    dims=(4, 4, 1),
)
CODES = np.asarray(jax.random.randint(jax.random.key(0), (16, 4, 4, 1), 0, 17), np.uint8)
KEY = jax.random.key(5)
SGD = optim.sgd(10, learning_rate=1e-2)
ADAMW = optim.adamw(10, clip=1.0)
AVERAGING = Averaging(0.99, warmup=True)


@functools.cache  # one optimiser's step is compiled once, whichever test asks first
def step_of(optimizer):
    return make_train_step(MODEL, optimizer, KEY, Objective(), AVERAGING)


@functools.cache
def init_of(optimizer):
    @jax.jit
    def init():
        # away from the zeros of conv_out, so that no gradient vanishes
        params = jax.tree.map(lambda x: x + 0.02, MODEL.init(jax.random.key(1)))
        return init_state(MODEL, optimizer, jax.random.key(1), params)

    return init


def start(optimizer, mesh):
    return jax.device_put(init_of(optimizer)(), sharding.replicated(mesh))


def run(num_steps, num_devices, optimizer=SGD):
    mesh = sharding.build_mesh(num_devices)
    state = start(optimizer, mesh)
    step = step_of(optimizer)
    metrics = {}
    for _ in range(num_steps):
        state, metrics = step(state, sharding.put_batch({"examples": CODES}, mesh))
    return jax.device_get(state), jax.device_get(metrics)


@pytest.fixture(scope="module")
def compiled():
    """(state, batch) -> (state, metrics) on two devices, which may be traced only once."""
    chex.clear_trace_counter()
    mesh, step = sharding.build_mesh(2), step_of(ADAMW)
    once = jax.jit(chex.assert_max_traces(step.function.__wrapped__, n=1), donate_argnums=0)
    # One executable, compiled for the first state, refuses a state that is placed otherwise.
    arrays = sharding.put_everywhere(step.arrays, mesh)
    batch = sharding.put_batch({"examples": CODES}, mesh)
    executable = once.lower(start(ADAMW, mesh), batch, *arrays).compile()

    def take(state):
        with jax.transfer_guard("disallow"):
            return executable(state, batch, *arrays)

    return take


def test_step_is_traced_once_and_donates_its_state(compiled):
    state = start(ADAMW, sharding.build_mesh(2))
    for _ in range(3):
        before = state
        state, _ = compiled(state)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    assert int(state.step) == 3


def test_every_step_draws_anew(compiled):
    # The same parameters at two steps: only the draws differ.
    mesh = sharding.build_mesh(2)
    first, second = (
        compiled(
            dataclasses.replace(
                start(ADAMW, mesh), step=jax.device_put(jnp.int32(step), sharding.replicated(mesh))
            )
        )[1]
        for step in (0, 1)
    )
    assert first["bpd_denoising"] != second["bpd_denoising"]
    assert first["bpd_prior"] == second["bpd_prior"]


def test_ema_follows_the_new_parameters(compiled):
    state = start(ADAMW, sharding.build_mesh(2))
    old = jax.device_get(state.ema_params)
    new, _ = compiled(state)
    want = jax.jit(optim.ema_update, static_argnums=(3, 4))(
        old, new.params, jnp.int32(0), AVERAGING.rate, AVERAGING.warmup
    )
    for a, b in zip(jax.tree.leaves(new.ema_params), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)


@pytest.mark.slow
def test_one_device_and_eight_agree():
    # The variance objective: its gradient has the bound's for the network and the ends in it.
    # SGD: linear in the gradients, where Adam would divide rounding by itself.
    (one, m_1), (eight, m_8) = run(1, 1), run(1, 8)
    for name in m_1:
        np.testing.assert_allclose(m_8[name], m_1[name], rtol=1e-5)
    gradient = jax.jit(make_gradient(MODEL, Objective(0, "variance")))

    def grads_on(num_devices):
        mesh = sharding.build_mesh(num_devices)
        batch = sharding.put_batch({"examples": CODES}, mesh)
        return jax.device_get(gradient(start(SGD, mesh).params, batch, KEY)[0])

    grads = grads_on(1), grads_on(8)
    norm = optax.tree.norm(grads[0])
    difference = optax.tree.norm(jax.tree.map(lambda a, b: a - b, *grads))
    assert difference < 1e-5 * norm
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(eight.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_draws_follow_from_seed_and_step():
    # Two steps in a row equal one step after a state with step = 1 was handed over.
    (two, _), (one, _) = run(2, 2, ADAMW), run(1, 2, ADAMW)
    mesh = sharding.build_mesh(2)
    resumed, _ = step_of(ADAMW)(
        jax.device_put(one, sharding.replicated(mesh)),
        sharding.put_batch({"examples": CODES}, mesh),
    )
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(resumed), two)


@pytest.mark.slow
def test_loss_is_the_sum_of_its_terms_and_falls():
    optimizer = optim.adamw(60, learning_rate=3e-3, warmup_steps=1)
    (_, first), (_, last) = run(1, 1, optimizer), run(60, 1, optimizer)
    for m in (first, last):
        total = m["bpd_reconstruction"] + m["bpd_prior"] + m["bpd_denoising"]
        np.testing.assert_allclose(total, m["bpd"], rtol=1e-5)
    assert last["bpd"] < 0.9 * first["bpd"]


@pytest.mark.slow
def test_the_number_of_steps_and_dropout_reach_the_loss():
    params = start(SGD, sharding.build_mesh(1)).params

    def metrics_of(model, num_steps):
        gradient = jax.jit(make_gradient(model, Objective(num_steps)))
        return gradient(params, {"examples": CODES}, KEY)[1]

    coarse, fine = metrics_of(MODEL, 1), metrics_of(MODEL, 0)
    assert coarse["bpd_denoising"] > 2 * fine["bpd_denoising"]
    assert coarse["bpd_prior"] == fine["bpd_prior"]
    still = dataclasses.replace(MODEL, network=dataclasses.replace(MODEL.network, dropout=0.0))
    assert metrics_of(still, 0)["bpd_denoising"] != fine["bpd_denoising"]


def test_a_schedule_whose_parameters_change_shape_is_refused():
    # The next step would be compiled anew, and its checkpoint could not be restored.
    class Growing(Tabulated):
        def adapt(self, params, position, density):
            new = super().adapt(params, position, density)
            return {name: jnp.append(array, 0.0) for name, array in new.items()}

    model = dataclasses.replace(vectors.MODEL, schedule=Growing(-8.0, 5.0, num_bins=4))
    state = jax.eval_shape(lambda: init_state(model, SGD, KEY))
    step = make_train_step(model, SGD, KEY, Objective(0, "adaptive"), AVERAGING)
    with pytest.raises(AssertionError, match=r"shape"):
        step.lower(state, vectors.BATCH)
