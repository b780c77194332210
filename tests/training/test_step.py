import dataclasses
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vdm.devices import sharding
from vdm.diffusion import noise, timesteps, weightings
from vdm.diffusion.elbo import draw, noise_levels, to_bpd
from vdm.diffusion.likelihood import Discretised, Gaussian
from vdm.models.vdm import VDM
from vdm.nn.schedules import Linear, Monotone, Polynomial, Tabulated
from vdm.nn.unet import UNet
from vdm.training import optim
from vdm.training.gradient import Objective, make_gradient
from vdm.training.optim import Averaging
from vdm.training.state import init_state
from vdm.training.step import make_train_step
from vdm.typing import NO_LABEL

MODEL = VDM(
    schedule=Monotone(-8.0, 5.0, hidden_features=8),
    network=UNet(num_codes=17, num_classes=0, width=8, num_blocks=0, dropout=0.1, attention="none"),
    likelihood=Discretised(17),
    dims=(4, 4, 1),
)
CODES = np.asarray(jax.random.randint(jax.random.key(0), (16, 4, 4, 1), 0, 17), np.uint8)
KEY = jax.random.key(5)
SGD = optim.sgd(10, learning_rate=1e-2)
AVERAGING = Averaging(0.99, warmup=True)


@functools.cache  # a step of one optimizer is compiled once, whichever test asks first
def step_of(optimizer):
    return make_train_step(MODEL, optimizer, KEY, Objective(), AVERAGING)


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


@pytest.mark.slow
def test_one_device_and_eight_agree():
    # The variance objective: its gradient has the bound's for the network and the ends in it.
    # SGD: linear in the gradients, where Adam would divide rounding by itself.
    (one, m_1), (eight, m_8) = run(1, 1), run(1, 8)
    for name in m_1:
        np.testing.assert_allclose(m_8[name], m_1[name], rtol=1e-5)
    mesh_1, mesh_8 = sharding.build_mesh(1), sharding.build_mesh(8)
    loss = jax.jit(make_gradient(MODEL, Objective(0, "variance")))
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
    step = make_train_step(MODEL, optimizer, KEY, Objective(), AVERAGING)
    once = jax.jit(chex.assert_max_traces(step.function.__wrapped__, n=1), donate_argnums=0)
    # One executable, compiled for the first state, refuses a state that is placed otherwise.
    arrays = sharding.put_everywhere(step.arrays, mesh)
    compiled = once.lower(state, sharding.put_batch({"examples": CODES}, mesh), *arrays).compile()
    for _ in range(3):
        before = state
        batch = sharding.put_batch({"examples": CODES}, mesh)
        with jax.transfer_guard("disallow"):
            state, _ = compiled(state, batch, *arrays)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    assert int(state.step) == 3


@pytest.mark.slow
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


@pytest.mark.slow
def test_loss_is_the_sum_of_its_terms_and_falls():
    optimizer = optim.adamw(60, learning_rate=3e-3, warmup_steps=1)
    (_, first), (_, last) = run(1, 1, optimizer), run(60, 1, optimizer)
    for m in (first, last):
        total = m["bpd_reconstruction"] + m["bpd_prior"] + m["bpd_denoising"]
        np.testing.assert_allclose(total, m["bpd"], rtol=1e-5)
    assert last["bpd"] < 0.9 * first["bpd"]


def loss_of(model, num_steps, key=KEY):
    params = start(optim.sgd(10), sharding.build_mesh(1)).params
    gradient = jax.jit(make_gradient(model, Objective(num_steps)))
    return gradient(params, {"examples": jnp.asarray(CODES)}, key)[1]


@pytest.mark.slow
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
        make_gradient(spy, Objective())(MODEL.init(KEY), {"examples": jnp.asarray(CODES)}, KEY)
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


@pytest.mark.parametrize(("of_network", "of_schedule"), [(3.0, 0.5), (0.5, 3.0), (3.0, 4.0)])
def test_network_and_schedule_are_clipped_each_by_its_own_norm(of_network, of_schedule):
    # One joint norm would let a large gradient of the one scale down the other.
    params = {"network": {"a": jnp.zeros(4)}, "schedule": {"w": jnp.zeros(2)}}
    norms = {"network": of_network, "schedule": of_schedule}
    grads = jax.tree.map(lambda p: jnp.ones_like(p) / np.sqrt(p.size), params)
    grads = {key: jax.tree.map(lambda g, n=norm: n * g, grads[key]) for key, norm in norms.items()}
    # eps = 1 makes Adam's first update g / (|g| + 1)
    chain = optim.adamw(10, learning_rate=1.0, warmup_steps=0, eps=1.0, weight_decay=0.0, clip=1.0)
    updates, _ = chain.update(grads, chain.init(params), params)
    for key, norm in norms.items():
        (update,) = jax.tree.leaves(updates[key])
        of_each = min(norm, 1.0) / np.sqrt(update.size)
        np.testing.assert_allclose(update, -of_each / (of_each + 1), rtol=1e-5, err_msg=key)


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


class Small(nn.Module):
    """A network that compiles fast."""

    @nn.compact
    def __call__(self, z, omega, labels=None, train=False):
        inputs = jnp.concatenate([z, omega.reshape(len(z), -1) / 10], axis=-1)
        return z + nn.Dense(z.shape[-1])(nn.tanh(nn.Dense(4, name="first")(inputs)))


VECTORS = VDM(Polynomial(-8.0, 5.0, learn_ends=True), Small(), Gaussian(), (6,))
BATCH = {"examples": jax.random.normal(jax.random.key(3), (32, 6))}
SIGMOID = weightings.sigmoid()


def vector_params(model=VECTORS):
    """Away from zeros, and from a schedule that is a straight line."""
    keys = iter(jax.random.split(jax.random.key(2), 100))
    return jax.tree.map(
        lambda x: x + 0.2 * jax.random.normal(next(keys), x.shape), model.init(jax.random.key(1))
    )


@functools.cache
def gradient_of(weighting, num_steps=0, train="bound", model=VECTORS):
    gradient = jax.jit(make_gradient(model, Objective(num_steps, train, weighting)))
    grads, metrics, _ = gradient(vector_params(model), BATCH, KEY)
    return grads, metrics


def assert_close(tree, other, rtol):
    """Leaf by leaf, to rtol of the largest number of the leaf."""
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        assert np.abs(b).max() > 0
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


def half_then_nothing(omega_t, weight):
    """Of the user's own, not positive as it should be."""
    return jnp.where(omega_t < -2.0, 0.5, 0.0)


@pytest.mark.parametrize(
    ("weighting", "num_steps", "train"),
    [
        (SIGMOID, 0, "variance"),
        (weightings.min_snr(), 10, "bound"),
        (half_then_nothing, 0, "variance_stratified"),
    ],
)
def test_a_weighting_leaves_the_schedule_and_the_metrics_to_the_bound(weighting, num_steps, train):
    grads, metrics = gradient_of(weighting, num_steps, train)
    of_bound, metrics_of_bound = gradient_of(weightings.bound, num_steps, train)
    assert_close(grads["schedule"], of_bound["schedule"], 2e-5)
    for name in metrics_of_bound:
        np.testing.assert_allclose(metrics[name], metrics_of_bound[name], rtol=1e-6)
    assert set(metrics) == set(metrics_of_bound) | {"weighted_loss"}
    kernel = [tree["network"]["first"]["kernel"] for tree in (grads, of_bound)]
    assert np.linalg.norm(kernel[0] - kernel[1]) > 0.1 * np.linalg.norm(kernel[1])


def by_hand(num_steps, weight_of):
    """(gradient for the network, loss) of the mean of 1/2 weight_of(omega_t, omega'(t) or T
    expm1(omega_t - omega_s)) ||eps - eps_hat||^2, bits/dim, on the draws of `gradient_of`, for
    VECTORS with a straight line."""
    model = dataclasses.replace(VECTORS, schedule=Linear(-8.0, 5.0, learn_ends=False))
    key_t, key_noise, key_dropout = jax.random.split(KEY, 3)
    draws = draw(key_noise, timesteps.low_discrepancy(key_t, 32), (6,))
    t, weight = draws.t, jnp.full(32, 13.0)
    if num_steps:
        t = (jnp.floor(draws.t * num_steps) + 1) / num_steps
        weight = jnp.full(32, num_steps * np.expm1(13.0 / num_steps))
    omega = -8.0 + 13.0 * t
    z = noise.diffuse(model.likelihood.encode(BATCH["examples"]), draws.eps, omega)
    params = vector_params(model)

    @jax.jit
    @jax.value_and_grad
    def loss(network):
        eps_hat = model.denoiser({"network": network}, None, key_dropout)(z, omega)
        half = 0.5 * jnp.sum((draws.eps - eps_hat) ** 2, axis=1)
        return jnp.mean(weight_of(omega, weight) * half) / (6 * np.log(2))

    value, grads = loss(params["network"])
    return model, grads, value


@pytest.mark.parametrize(
    ("weighting", "num_steps", "weight_of"),
    [
        (SIGMOID, 0, lambda omega, weight: weight / (1 + jnp.exp(-omega - 2.0))),
        (weightings.min_snr(), 10, lambda omega, weight: jnp.minimum(1.0, 5.0 * jnp.exp(omega))),
        (weightings.simple, 0, lambda omega, weight: 1.0),
        (weightings.simple, 10, lambda omega, weight: 1.0),
    ],
)
def test_the_network_follows_the_weighted_loss(weighting, num_steps, weight_of):
    model, want, loss = by_hand(num_steps, weight_of)
    grads, metrics = gradient_of(weighting, num_steps, model=model)
    assert_close(grads["network"], want, 2e-5)
    np.testing.assert_allclose(metrics["weighted_loss"], loss, rtol=2e-6)


def test_without_a_weighting_the_gradient_is_that_of_the_bound_to_the_bit():
    # Not compiled: two programs that XLA fuses in other ways differ in the last digits.
    key_t, key_noise, _ = jax.random.split(KEY, 3)
    draws = draw(key_noise, timesteps.low_discrepancy(key_t, 32), (6,))
    model = dataclasses.replace(VECTORS, schedule=Linear(-8.0, 5.0, learn_ends=False))
    params = vector_params(model)

    def bound(network, levels):
        terms = model.elbo_at({"network": network}, BATCH["examples"], draws, levels).terms
        return jnp.mean(to_bpd(terms.total, 6))

    levels = noise_levels(model.schedule_fn(params), draws.t, 10)
    bpd, want = jax.value_and_grad(bound, (0, 1))(params["network"], levels)
    grads, metrics, seen = make_gradient(model, Objective(10))(params, BATCH, KEY)
    jax.tree.map(np.testing.assert_array_equal, (grads["network"], seen.grad_levels), want)
    np.testing.assert_allclose(metrics["bpd"], bpd, rtol=1e-6)
    assert "weighted_loss" not in metrics


@pytest.mark.slow
def test_a_weighting_is_of_the_mean_level_where_each_dimension_has_its_own():
    schedule = Polynomial(-8.0, 5.0, learn_ends=True, per_dimension=True, dims=(6,))
    model = dataclasses.replace(VECTORS, schedule=schedule)
    grads, metrics = gradient_of(weightings.simple, model=model)
    of_bound, metrics_of_bound = gradient_of(weightings.bound, model=model)
    assert_close(grads["schedule"], of_bound["schedule"], 2e-5)
    assert metrics["bpd"] == metrics_of_bound["bpd"]
    seen = jax.jit(make_gradient(model, Objective()))(vector_params(model), BATCH, KEY)[2]
    density = to_bpd(jnp.mean(seen.loss_density), 6)
    np.testing.assert_allclose(metrics["weighted_loss"], density, rtol=1e-6)


def test_next_mean_trains_on_a_schedule_that_gets_no_gradient():
    model = dataclasses.replace(VECTORS, prediction="next_mean", num_steps=10)
    grads, metrics = gradient_of(weightings.bound, 10, "fixed", model)
    assert all(not np.any(g) for g in jax.tree.leaves(grads["schedule"]))
    draws = draw(
        jax.random.split(KEY, 3)[1],
        timesteps.low_discrepancy(jax.random.split(KEY, 3)[0], 32),
        (6,),
    )
    fixed = vector_params(model)["schedule"]

    @jax.jit
    @jax.grad
    def bound(network):
        params = {"network": network, "schedule": fixed}
        terms = model.elbo(params, BATCH["examples"], draws, 10).terms
        return jnp.mean(to_bpd(terms.total, 6))

    assert_close(grads["network"], bound(vector_params(model)["network"]), 1e-5)
    assert np.isfinite(metrics["bpd"])


LABELS_SEEN = []


class Labelled(nn.Module):
    """A network that notes the labels it is given."""

    @nn.compact
    def __call__(self, z, omega, labels=None, train=False):
        jax.debug.callback(lambda labels: LABELS_SEEN.append(np.asarray(labels)), labels)
        return z * self.param("scale", nn.initializers.ones, ())


def test_labels_are_withheld_at_random():
    model = VDM(Linear(-8.0, 5.0), Labelled(), Gaussian(), (2,), num_classes=10, label_dropout=0.25)
    batch = {"examples": jnp.zeros((4000, 2)), "labels": jnp.arange(4000) % 10}
    gradient = jax.jit(make_gradient(model, Objective()))
    params = model.init(jax.random.key(0))
    LABELS_SEEN.clear()
    for key in (KEY, jax.random.key(6)):
        gradient(params, batch, key)
    jax.effects_barrier()
    first, other = LABELS_SEEN[-2:]
    for seen in (first, other):
        withheld = seen == NO_LABEL
        assert abs(withheld.mean() - 0.25) < 0.028  # 4 standard errors
        np.testing.assert_array_equal(seen[~withheld], np.asarray(batch["labels"])[~withheld])
    assert not np.array_equal(first, other)


def test_every_draw_of_a_step_has_a_key_of_its_own(monkeypatch):
    # Where the mask of labels had the key of the times, the one would tell the other, and no bound
    # and no share of withheld labels would show it.
    used = {"uniform": [], "normal": [], "bernoulli": [], "split": [], "fold_in": []}

    def noted(name):
        original = getattr(jax.random, name)

        def call(key, *args, **kwargs):
            used[name].append(tuple(np.ravel(jax.random.key_data(key)).tolist()))
            return original(key, *args, **kwargs)

        return call

    class Seen(Exception):
        """Everything is drawn but the masks of dropout, whose key is given to `elbo_at`."""

    class Spy(VDM):
        def elbo_at(self, params, data, draws, levels, labels, dropout_key, augmented):
            jax.random.bernoulli(dropout_key)
            raise Seen

    model = Spy(Linear(-8.0, 5.0), Small(), Gaussian(), (6,), num_classes=5, label_dropout=0.5)
    params = VECTORS.init(KEY) | {"schedule": model.init_schedule(KEY)}
    gradient = make_gradient(model, Objective())
    for name in used:
        monkeypatch.setattr(jax.random, name, noted(name))
    with pytest.raises(Seen):
        gradient(params, BATCH | {"labels": jnp.arange(32) % 5}, KEY)
    parents = {*used.pop("split"), *used.pop("fold_in")}
    assert {name: len(keys) for name, keys in used.items()} == {
        "uniform": 1, "normal": 2, "bernoulli": 2
    }  # fmt: skip
    keys = [key for keys in used.values() for key in keys]
    assert len({*keys, *parents}) == len(keys) + len(parents), used


def test_labels_are_withheld_whatever_the_time():
    # The same by the draws themselves: over many steps the mask of an image tells nothing of t.
    seen = []

    class Seen(Exception):
        """Times and labels are known; the network need not run."""

    class Spy(VDM):
        def elbo_at(self, params, data, draws, levels, labels, dropout_key, augmented):
            seen.append((draws.t, labels == NO_LABEL))
            raise Seen

    model = Spy(Linear(-8.0, 5.0), Small(), Gaussian(), (6,), num_classes=5, label_dropout=0.5)
    params = VECTORS.init(KEY) | {"schedule": model.init_schedule(KEY)}
    batch = {"examples": jnp.zeros((1, 6)), "labels": jnp.zeros(1, jnp.int32)}
    for i in range(200):
        with pytest.raises(Seen):
            make_gradient(model, Objective())(params, batch, jax.random.fold_in(KEY, i))
    t, withheld = np.array(seen, float).reshape(200, 2).T
    assert abs(np.corrcoef(t, withheld)[0, 1]) < 0.28  # 4 standard errors of 200 pairs


@pytest.mark.parametrize(
    "changes",
    [
        {"examples": jnp.zeros((32, 7))},  # not of the model's shape
        {"labels": jnp.arange(31) % 5},  # not one for each example
        {"labels": jnp.zeros(32)},  # not integers
    ],
)
def test_a_batch_that_does_not_fit_the_model_is_refused_when_traced(changes):
    model = dataclasses.replace(VECTORS, num_classes=5)
    gradient = make_gradient(model, Objective())
    batch = BATCH | {"labels": jnp.arange(32) % 5}
    jax.eval_shape(gradient, vector_params(), batch, KEY)
    with pytest.raises(AssertionError):
        jax.eval_shape(gradient, vector_params(), batch | changes, KEY)


def test_a_network_whose_examples_have_several_terms_is_refused():
    class PerDimension(VDM):
        def elbo_at(self, *args):
            estimate = super().elbo_at(*args)
            return estimate._replace(loss_density=estimate.loss_density[:, None])

    model = PerDimension(Linear(-8.0, 5.0), Small(), Gaussian(), (6,))
    with pytest.raises(AssertionError, match=r"\(32, 1\)"):
        jax.eval_shape(make_gradient(model, Objective()), model.init(KEY), BATCH, KEY)


def test_a_schedule_that_changes_its_parameters_shape_is_refused():
    # The next step would be compiled anew, and its checkpoint could not be restored.
    class Growing(Tabulated):
        def adapt(self, params, position, density):
            new = super().adapt(params, position, density)
            return {name: jnp.append(array, 0.0) for name, array in new.items()}

    model = dataclasses.replace(VECTORS, schedule=Growing(-8.0, 5.0, num_bins=4))
    state = jax.eval_shape(lambda: init_state(model, SGD, KEY))
    step = make_train_step(model, SGD, KEY, Objective(0, "adaptive"), AVERAGING)
    with pytest.raises(AssertionError, match=r"shape"):
        step.lower(state, BATCH)
