import dataclasses

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


def parameters(model):
    """Away from every special value."""
    leaves, tree = jax.tree.flatten(model.init(jax.random.key(1)))
    keys = jax.random.split(jax.random.key(2), len(leaves))
    return jax.tree.unflatten(
        tree, [x + 0.1 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    )


def gradient(params, train, num_steps=0, model=MODEL):
    return make_gradient(model, Objective(num_steps, train))(params, {"examples": CODES}, KEY)


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
    params = parameters(model)
    start = params["schedule"]
    grads, _, _ = gradient(params, "variance", model=model)

    def relative_moment(schedule):
        _, terms, _ = denoising_of(model, params, schedule, start)
        return jnp.mean(terms**2) / jax.lax.stop_gradient(jnp.mean(terms)) ** 2

    def bound_of_ends(schedule):
        return denoising_of(model, params, start, schedule)[2]

    want = jax.tree.map(jnp.add, jax.grad(relative_moment)(start), jax.grad(bound_of_ends)(start))
    close(grads["schedule"], want)
    grad_network = jax.grad(
        lambda network: denoising_of(model, params | {"network": network}, start, start)[2]
    )(params["network"])
    close(grads["network"], grad_network)


def test_stratified_objective_is_the_spread_of_neighbours_in_time():
    params = parameters(MODEL)
    start = params["schedule"]
    grads, _, _ = gradient(params, "variance_stratified")

    def spread(schedule):
        t, terms, _ = denoising_of(MODEL, params, schedule, start)
        terms_in_order = terms[jnp.argsort(t)]
        squares = 0.5 * jnp.sum(jnp.diff(terms_in_order) ** 2) / 16
        return squares / jax.lax.stop_gradient(jnp.mean(terms)) ** 2

    want = jax.grad(spread)(start)
    for name in ("log_heights", "log_widths", "centres", "log_linear"):
        close(grads["schedule"][name], want[name])


def test_ends_follow_the_bound_whatever_the_interior_does():
    params = parameters(MODEL)
    ends = [
        gradient(params, train)[0]["schedule"]["ends"]
        for train in ("bound", "variance", "variance_stratified", "adaptive")
    ]
    for other in ends[1:]:
        close(other, ends[0])
    zero = gradient(params, "fixed")[0]["schedule"]
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(zero))


def test_recombining_a_schedule_with_itself_changes_nothing():
    levels = noise_levels(MODEL.schedule_fn(parameters(MODEL)), jnp.linspace(0.0, 0.99, 9), 0)
    for a, b in zip(training.recombine(levels, levels), levels, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_with_finite_steps_all_of_it_follows_the_bound():
    params = parameters(MODEL)
    grads = [gradient(params, train, 10)[0]["schedule"] for train in ("bound", "variance")]
    jax.tree.map(np.testing.assert_array_equal, *grads)
    assert training.objective("variance", 0, multivariate=True) == "bound"
    assert training.objective("adaptive", 0) == "adaptive"


def train_step(model, train, optimizer, steps=1):
    params = parameters(model)
    before = jax.device_get(params)  # the step donates its state
    state = init_state(model, optimizer, KEY, params)
    step = make_train_step(model, optimizer, KEY, Objective(0, train), Averaging(0.9, True))
    for _ in range(steps):
        state, _ = step(state, {"examples": CODES})
    return before["schedule"], jax.device_get(state.params["schedule"])


def test_fixed_schedule_stays_also_under_weight_decay():
    optimizer = optim.adamw(10, 0.1, 1, weight_decay=0.5, decay_mask="not_bias")
    jax.tree.map(np.testing.assert_array_equal, *train_step(MODEL, "fixed", optimizer, 2))


def test_schedule_rate_scales_the_schedule_alone():
    moves = []
    for rate in (1.0, 0.25):
        before, after = train_step(
            MODEL, "variance", optim.adamw(10, 0.1, 0, clip=1.0, schedule_rate=rate)
        )
        moves.append(jax.tree.map(lambda a, b: b - a, before, after))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, 0.25 * a, rtol=1e-2, atol=1e-6), *moves)


def test_adaptive_table_counts_squared_densities_by_omega():
    table = Tabulated(-8.0, 5.0, num_bins=4, memory=10)
    params = table.init(KEY, jnp.zeros(()))["params"]
    position = jnp.array([0.0, 0.2, 0.3, 0.99, 1.0])
    once = table.adapt(params, position, jnp.array([1.0, 3.0, 2.0, 5.0, 1.0]))
    np.testing.assert_allclose(once["squares"], [10.0, 4.0, 0.0, 26.0])
    np.testing.assert_allclose(once["counts"], [2.0, 1.0, 0.0, 2.0])
    twice = table.adapt(once, position[:1], jnp.array([2.0]))
    kept = np.exp(-0.1)
    np.testing.assert_allclose(twice["squares"][0], 10 * kept + 4, rtol=1e-6)
    # density of omega ~ root of the mean square; the mean of all counts a little in each bin
    moment = (np.array([10, 4, 0, 26]) + 0.01 * 40 / 5) / (np.array([2, 1, 0, 2]) + 0.01)
    share = 0.99 * np.sqrt(moment) / np.sqrt(moment).sum() + 0.01 / 4
    omega = table.apply({"params": params | once}, jnp.asarray(np.cumsum(share)[:3]))
    np.testing.assert_allclose(omega, [-4.75, -1.5, 1.75], atol=1e-4)
    assert float(table.apply({"params": params | once}, jnp.ones(()))) == 5.0


@pytest.mark.slow
def test_adaptive_training_moves_the_table_and_the_ends():
    model = dataclasses.replace(MODEL, schedule=Tabulated(-8.0, 5.0, num_bins=4))
    optimizer = optim.adamw(10, 0.01, 0, weight_decay=0.5, decay_mask="not_bias")
    before, after = train_step(model, "adaptive", optimizer)
    _, _, estimate = make_gradient(model, Objective(0, "adaptive"))(
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
def test_what_cannot_learn_is_refused(train, schedule, num_steps, match):
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
        grads, metrics, _ = make_gradient(MODEL, Objective(0, train))(
            parameters(MODEL), {"examples": CODES[:1]}, KEY
        )
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((grads, metrics)))


def test_the_names_of_a_config_are_those_of_the_gradients():
    assert set(SCHEDULE_TRAINING) == set(training.GRADIENTS)
