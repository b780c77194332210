"""How a schedule learns: each objective's gradient, the adaptive table, and what is refused."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm.config.options import SCHEDULE_TRAINING
from vdm.diffusion import timesteps
from vdm.diffusion.elbo import draw, noise_levels, to_bpd
from vdm.diffusion.likelihood import Discretised
from vdm.models.vdm import VDM
from vdm.nn.mlp import MLP
from vdm.nn.published_schedules import VDMNet
from vdm.nn.schedules import Monotone, Polynomial, Tabulated
from vdm.nn.unet import UNet
from vdm.training import optim
from vdm.training import schedule_objectives as training
from vdm.training.gradient import Objective, make_gradient
from vdm.training.optim import Averaging
from vdm.training.state import init_state
from vdm.training.step import make_train_step

MODEL = VDM(
    schedule=Monotone(-8.0, 5.0, hidden_features=8),
    network=MLP(17, width=16, num_blocks=1, omega_scale=10.0),
    likelihood=Discretised(17),
    dims=(6,),
)
MODELS = {
    "monotone": MODEL,
    "vdm_nnet": dataclasses.replace(MODEL, schedule=VDMNet(-8.0, 5.0, hidden_features=8)),
    "polynomial": dataclasses.replace(MODEL, schedule=Polynomial(-8.0, 5.0, True)),
}
CODES = jax.random.randint(jax.random.key(0), (16, 6), 0, 17)
KEY = jax.random.key(5)


@functools.cache
def parameters(model):
    """Away from every special value."""

    @jax.jit
    def init():
        leaves, tree = jax.tree.flatten(model.init(jax.random.key(1)))
        keys = jax.random.split(jax.random.key(2), len(leaves))
        noisy = [x + 0.1 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(tree, noisy)

    return init()


@functools.cache
def compiled_gradient(train, num_steps=0, model=MODEL):
    return jax.jit(make_gradient(model, Objective(num_steps, train)))


def gradient(train, num_steps=0, model=MODEL):
    compiled = compiled_gradient(train, num_steps, model)
    return compiled(parameters(model), {"examples": CODES}, KEY)[0]


def denoising_of(model, params, interior, ends):
    """l [batch] with the interior of one set of schedule parameters and the ends of another."""
    key_t, key_noise, key_dropout = jax.random.split(KEY, 3)
    draws = draw(key_noise, timesteps.low_discrepancy(key_t, 16), model.dims)

    def levels(schedule):
        return noise_levels(model.schedule_fn({"schedule": schedule}), draws.t, 0)

    mixed = training.recombine(levels(ends), levels(interior))
    estimate = model.elbo_at(params, CODES, draws, mixed, None, key_dropout)
    bpd = to_bpd(estimate.terms.total, 6)
    return draws.t, to_bpd(estimate.terms.denoising_matching, 6), jnp.mean(bpd)


def close(got, want):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert np.linalg.norm(a - b) < 1e-4 * np.linalg.norm(b) + 1e-7


@pytest.mark.parametrize("name", list(MODELS))
def test_one_pass_gives_the_gradients_of_bound_and_second_moment(name):
    # Against differentiating each of them by itself through the network.
    model = MODELS[name]

    @jax.jit
    def separately(params):
        start = params["schedule"]

        def relative_moment(schedule):
            _, terms, _ = denoising_of(model, params, schedule, start)
            return jnp.mean(terms**2) / jax.lax.stop_gradient(jnp.mean(terms)) ** 2

        def bound(network, ends):
            return denoising_of(model, params | {"network": network}, start, ends)[2]

        network, ends = jax.grad(bound, (0, 1))(params["network"], start)
        schedule = jax.tree.map(jnp.add, jax.grad(relative_moment)(start), ends)
        return {"network": network, "schedule": schedule}

    close(gradient("variance", model=model), separately(parameters(model)))


def test_stratified_objective_is_the_spread_of_neighbours_in_time():
    params = parameters(MODEL)
    start = params["schedule"]

    @jax.jit
    @jax.grad
    def spread(schedule):
        t, terms, _ = denoising_of(MODEL, params, schedule, start)
        terms_in_order = terms[jnp.argsort(t)]
        squares = 0.5 * jnp.sum(jnp.diff(terms_in_order) ** 2) / 16
        return squares / jax.lax.stop_gradient(jnp.mean(terms)) ** 2

    grads, want = gradient("variance_stratified")["schedule"], spread(start)
    for name in ("log_heights", "log_widths", "centres", "log_linear"):
        close(grads[name], want[name])


def test_ends_follow_the_bound_whatever_the_interior_does():
    trainings = ("bound", "variance", "variance_stratified", "adaptive")
    ends = [gradient(train)["schedule"]["ends"] for train in trainings]
    for other in ends[1:]:
        close(other, ends[0])
    zero = gradient("fixed")["schedule"]
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(zero))


def test_recombining_a_schedule_with_itself_changes_nothing():
    @jax.jit
    def recombined(params):
        levels = noise_levels(MODEL.schedule_fn(params), jnp.linspace(0.0, 0.99, 9), 0)
        return training.recombine(levels, levels), levels

    for a, b in zip(*map(jax.tree.leaves, recombined(parameters(MODEL))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_with_finite_steps_all_of_it_follows_the_bound():
    grads = [gradient(train, 10)["schedule"] for train in ("bound", "variance")]
    jax.tree.map(np.testing.assert_array_equal, *grads)
    assert training.objective("variance", 0, multivariate=True) == "bound"
    assert training.objective("adaptive", 0) == "adaptive"


def train_step(model, train, optimizer, steps=1):
    params = parameters(model)
    state = jax.jit(lambda: init_state(model, optimizer, KEY, params))()  # a step donates its state
    step = make_train_step(model, optimizer, KEY, Objective(0, train), Averaging(0.9, True))
    for _ in range(steps):
        state, _ = step(state, {"examples": CODES})
    return jax.device_get((params["schedule"], state.params["schedule"]))


def test_fixed_schedule_stays_also_under_weight_decay():
    optimizer = optim.adamw(10, 0.1, 1, weight_decay=0.5, decay_mask="not_bias")
    jax.tree.map(np.testing.assert_array_equal, *train_step(MODEL, "fixed", optimizer, 2))


def test_adaptive_table_counts_squared_densities_by_omega():
    table = Tabulated(-8.0, 5.0, num_bins=4, memory=10)
    params = jax.jit(table.init)(KEY, jnp.zeros(()))["params"]
    position = jnp.array([0.0, 0.2, 0.3, 0.99, 1.0])
    adapt, omega = jax.jit(table.adapt), jax.jit(table.apply)
    once = adapt(params, position, jnp.array([1.0, 3.0, 2.0, 5.0, 1.0]))
    np.testing.assert_allclose(once["squares"], [10.0, 4.0, 0.0, 26.0])
    np.testing.assert_allclose(once["counts"], [2.0, 1.0, 0.0, 2.0])
    twice = adapt(once, position[:1], jnp.array([2.0]))
    kept = np.exp(-0.1)
    np.testing.assert_allclose(twice["squares"][0], 10 * kept + 4, rtol=1e-6)
    # The density of omega is proportional to the root of the mean square in each bin, to which the
    # mean over all bins is mixed a little.
    moment = (np.array([10, 4, 0, 26]) + 0.01 * 40 / 5) / (np.array([2, 1, 0, 2]) + 0.01)
    share = 0.99 * np.sqrt(moment) / np.sqrt(moment).sum() + 0.01 / 4
    found = omega({"params": params | once}, np.float32([*np.cumsum(share)[:3], 1.0]))
    np.testing.assert_allclose(found[:3], [-4.75, -1.5, 1.75], atol=1e-4)
    assert float(found[3]) == 5.0


@pytest.mark.slow
def test_adaptive_training_moves_the_table_and_the_ends():
    model = dataclasses.replace(MODEL, schedule=Tabulated(-8.0, 5.0, num_bins=4))
    optimizer = optim.adamw(10, 0.01, 0, weight_decay=0.5, decay_mask="not_bias")
    before, after = train_step(model, "adaptive", optimizer)
    _, _, estimate = compiled_gradient("adaptive", model=model)(
        parameters(model), {"examples": CODES}, jax.random.fold_in(KEY, 0)
    )
    for name, new in (("counts", 16), ("squares", np.sum(np.square(estimate.loss_density)))):
        added = after[name].sum() - np.exp(-1 / 1000) * before[name].sum()
        np.testing.assert_allclose(added, new, rtol=1e-4)
    assert before["ends"]["omega_0"] != after["ends"]["omega_0"]


@pytest.mark.parametrize(
    ("train", "schedule", "num_steps", "match"),
    [
        ("adaptive", Monotone(), 0, "tabulated"),
        ("variance", Tabulated(), 0, "adaptive"),
        ("adaptive", Tabulated(), 10, "model.num_steps = 10"),
    ],
)
def test_objectives_that_do_not_fit_the_schedule_are_refused(train, schedule, num_steps, match):
    with pytest.raises(ValueError, match=match):
        training.check(train, schedule, num_steps)
    training.check("fixed", schedule, num_steps)


@pytest.mark.slow
def test_variance_training_adds_no_second_pass_through_the_network():
    # By XLA's count of floating-point operations, of a network where the schedule is cheap.
    network = UNet(num_codes=17, width=32, num_blocks=1, attention="none")
    model = dataclasses.replace(MODEL, network=network, dims=(8, 8, 1))
    optimizer = optim.adamw(10)
    state = jax.eval_shape(lambda: init_state(model, optimizer, KEY))
    batch = {"examples": jax.ShapeDtypeStruct((8, 8, 8, 1), jnp.uint8)}

    def flops(train):
        step = make_train_step(model, optimizer, KEY, Objective(0, train), Averaging(0.9, True))
        return step.lower(state, batch).compile().cost_analysis()["flops"]

    counts = {train: flops(train) for train in ("fixed", "bound", "variance")}
    assert counts["variance"] < 1.02 * counts["bound"]
    assert counts["variance"] < 1.02 * counts["fixed"]


@pytest.mark.slow
def test_a_batch_of_one_has_finite_metrics_and_gradients():
    for train in ("variance", "variance_stratified"):
        grads, metrics, _ = compiled_gradient(train)(
            parameters(MODEL), {"examples": CODES[:1]}, KEY
        )
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((grads, metrics)))


def test_the_names_of_a_config_are_those_of_the_gradients():
    assert set(SCHEDULE_TRAINING) == set(training.GRADIENTS)
