import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vdm import sharding
from vdm.diffusion.likelihood import Discretised
from vdm.model import VDM
from vdm.nn.schedules import Monotone
from vdm.nn.unet import UNet
from vdm.training import optim
from vdm.training.state import init_state
from vdm.training.step import make_gradient, make_train_step

MODEL = VDM(
    schedule=Monotone(-8.0, 5.0, hidden_features=8),
    network=UNet(num_codes=17, num_classes=0, width=8, num_blocks=0, dropout=0.1, attention="none"),
    likelihood=Discretised(17),
    dims=(4, 4, 1),
)
CODES = np.asarray(jax.random.randint(jax.random.key(0), (16, 4, 4, 1), 0, 17), np.uint8)
KEY = jax.random.key(5)
SGD = optim.sgd(10, learning_rate=1e-2)


@functools.cache  # a step of one optimizer is compiled once, whichever test asks first
def step_of(optimizer):
    return make_train_step(MODEL, optimizer, KEY, 0, 0.99, True)


def start(optimizer, mesh):
    state = init_state(MODEL, optimizer, jax.random.key(1))
    # away from the zeros of conv_out, so that all gradients are there
    params = jax.tree.map(lambda x: x + 0.02, state.params)
    state = init_state(MODEL, optimizer, jax.random.key(1), params)
    return jax.device_put(state, sharding.replicated(mesh))


def run(num_steps, num_devices, optimizer=SGD):
    mesh = sharding.build_mesh(num_devices)
    state = start(optimizer, mesh)
    step = step_of(optimizer)
    metrics = {}
    for _ in range(num_steps):
        state, metrics = step(state, sharding.put_batch({"examples": CODES}, mesh))
    return jax.device_get(state), jax.device_get(metrics)


def test_one_device_and_eight_agree():
    # The variance objective: its gradient has the bound's for the network and the ends in it.
    # SGD: linear in the gradients, where Adam would divide rounding by itself.
    (one, m_1), (eight, m_8) = run(1, 1), run(1, 8)
    for name in m_1:
        np.testing.assert_allclose(m_8[name], m_1[name], rtol=1e-5)
    mesh_1, mesh_8 = sharding.build_mesh(1), sharding.build_mesh(8)
    loss = jax.jit(make_gradient(MODEL, 0, "variance"))
    grads = [
        jax.device_get(
            loss(
                start(optim.sgd(10), mesh).params,
                sharding.put_batch({"examples": CODES}, mesh),
                KEY,
            )[0]
        )
        for mesh in (mesh_1, mesh_8)
    ]
    norm = optax.tree.norm(grads[0])
    difference = optax.tree.norm(jax.tree.map(lambda a, b: a - b, *grads))
    assert difference < 1e-5 * norm
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(eight.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_step_is_traced_once_and_donates_its_state():
    chex.clear_trace_counter()
    optimizer = optim.adamw(10, clip=1.0)
    mesh = sharding.build_mesh(2)
    state = start(optimizer, mesh)
    step = make_train_step(MODEL, optimizer, KEY, 0, 0.99, True)
    counted = jax.jit(chex.assert_max_traces(step.__wrapped__, n=1), donate_argnums=0)
    for _ in range(3):
        before = state
        batch = sharding.put_batch({"examples": CODES}, mesh)
        with jax.transfer_guard("disallow"):
            state, _ = counted(state, batch)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    assert counted._cache_size() == 1
    assert int(state.step) == 3


def test_draws_follow_from_seed_and_step():
    # Two steps in a row equal one step after a state with step = 1 was handed over.
    optimizer = optim.adamw(10)
    (two, _), (one, _) = run(2, 2, optimizer), run(1, 2, optimizer)
    mesh = sharding.build_mesh(2)
    step = step_of(optimizer)
    resumed, _ = step(
        jax.device_put(one, sharding.replicated(mesh)),
        sharding.put_batch({"examples": CODES}, mesh),
    )
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(resumed), two)


def test_loss_is_the_sum_of_its_terms_and_falls():
    optimizer = optim.adamw(60, learning_rate=3e-3, warmup_steps=1)
    (_, first), (_, last) = run(1, 1, optimizer), run(60, 1, optimizer)
    for m in (first, last):
        total = m["bpd_reconstruction"] + m["bpd_prior"] + m["bpd_denoising"]
        np.testing.assert_allclose(total, m["bpd"], rtol=1e-5)
    assert last["bpd"] < 0.9 * first["bpd"]


def loss_of(model, num_steps, key=KEY):
    params = start(optim.sgd(10), sharding.build_mesh(1)).params
    return jax.jit(make_gradient(model, num_steps))(params, {"examples": jnp.asarray(CODES)}, key)[
        1
    ]


def test_the_number_of_steps_and_dropout_reach_the_loss():
    coarse, fine = loss_of(MODEL, 1), loss_of(MODEL, 0)
    assert coarse["bpd_denoising"] > 2 * fine["bpd_denoising"]
    assert coarse["bpd_prior"] == fine["bpd_prior"]
    still = dataclasses.replace(MODEL, network=dataclasses.replace(MODEL.network, dropout=0.0))
    assert loss_of(still, 0)["bpd_denoising"] != fine["bpd_denoising"]


def test_times_of_a_batch_are_low_discrepancy_and_noises_differ():
    seen = []

    class Seen(Exception):
        """The draws are known; the network need not run."""

    class Spy(VDM):
        def elbo_at(self, params, data, draws, *args):
            seen.append(draws)
            raise Seen

    spy = Spy(**{f.name: getattr(MODEL, f.name) for f in dataclasses.fields(MODEL)})
    with pytest.raises(Seen):
        make_gradient(spy, 0)(MODEL.init(KEY), {"examples": jnp.asarray(CODES)}, KEY)
    np.testing.assert_allclose(np.diff(np.sort(seen[0].t)), 1 / 16, atol=1e-6)
    assert abs(np.corrcoef(seen[0].eps.ravel(), seen[0].eps_0.ravel())[0, 1]) < 0.3


def test_every_step_draws_anew():
    optimizer = optim.sgd(10, learning_rate=0.0)
    (_, first), (_, second) = run(1, 1, optimizer), run(2, 1, optimizer)
    assert first["bpd_denoising"] != second["bpd_denoising"]
    assert first["bpd_prior"] == second["bpd_prior"]  # the parameters did not move


def test_ema_follows_the_new_parameters():
    old = jax.device_get(start(SGD, sharding.build_mesh(1)))
    new, _ = run(1, 1)
    want = optim.ema_update(old.ema_params, new.params, jnp.int32(0), 0.99, True)
    for a, b in zip(jax.tree.leaves(new.ema_params), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)


def test_clipping_bounds_the_global_norm():
    params = {"network": {"a": jnp.zeros(3), "b": jnp.zeros(4)}, "schedule": {}}
    grads = jax.tree.map(lambda x: jnp.arange(1.0, x.size + 1), params)  # norm 6.63

    def update(clip, scale):
        # eps = 1 makes Adam's update depend on the size of the gradient
        chain = optim.adamw(10, learning_rate=1.0, warmup_steps=0, eps=1.0, clip=clip)
        scaled = jax.tree.map(lambda g: scale * g, grads)
        return chain.update(scaled, chain.init(params), params)[0]["network"]["a"]

    norm = float(optax.tree.norm(grads))
    np.testing.assert_allclose(update(1.0, 1.0), update(0.0, 1 / norm), rtol=1e-5)
    np.testing.assert_allclose(update(100.0, 1.0), update(0.0, 1.0), rtol=1e-5)


@pytest.mark.parametrize(("warmup", "want"), [(True, 1 - 2 / 11), (False, 0.01)])
def test_ema_moves_by_its_rate(warmup, want):
    got = optim.ema_update({"a": jnp.zeros(2)}, {"a": jnp.ones(2)}, jnp.int32(1), 0.99, warmup)
    np.testing.assert_allclose(got["a"], want, rtol=1e-5)


def test_weight_decay_touches_kernels_of_the_network_only():
    params = MODEL.init(jax.random.key(0))
    mask = optim.kernels_of_network(params)
    assert mask["network"]["conv_in"] == {"kernel": True, "bias": False}
    assert not any(jax.tree.leaves(mask["schedule"]))
    # zero gradients: only decay moves anything, by learning_rate * weight_decay
    optimizer = optim.adamw(10, learning_rate=0.1, warmup_steps=0, weight_decay=0.5)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    kernel = params["network"]["conv_in"]["kernel"]
    np.testing.assert_allclose(updates["network"]["conv_in"]["kernel"], -0.05 * kernel, rtol=1e-5)
    np.testing.assert_array_equal(updates["network"]["conv_in"]["bias"], 0)
    assert all(not np.any(u) for u in jax.tree.leaves(updates["schedule"]))


def test_learning_rate_warms_up_and_decays():
    rate = optim.learning_rate_schedule(1000, 2e-3, 100, "cosine")
    np.testing.assert_allclose(
        [rate(0), rate(50), rate(100), rate(550), rate(1000)],
        [0, 1e-3, 2e-3, 1e-3, 0], atol=1e-9,
    )  # fmt: skip
    assert optim.learning_rate_schedule(1000, 2e-3, 100, "none")(999) == pytest.approx(2e-3)
    with pytest.raises(ValueError, match="'linear'"):
        optim.learning_rate_schedule(10, 1e-3, 1, "linear")
