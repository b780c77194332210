"""The gradient of a train step, for the bound and for weighted losses, and what it refuses."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.vectors import BATCH, KEY, MODEL, Small, assert_close, params_of
from vdm.diffusion import noise, timesteps, weightings
from vdm.diffusion.elbo import draw, noise_levels, to_bpd
from vdm.diffusion.likelihood import Gaussian
from vdm.models.vdm import VDM
from vdm.nn.schedules import Linear, Polynomial
from vdm.training.gradient import Objective, make_gradient
from vdm.training.microbatches import Microbatches

LINE = dataclasses.replace(MODEL, schedule=Linear(-8.0, 5.0, learn_ends=False))
SIGMOID, MIN_SNR = weightings.sigmoid(), weightings.min_snr()
DROPOUT_KEY = jax.random.split(KEY, 3)[2]


@functools.cache
def gradient_of(weighting, num_steps=0, train="bound", model=MODEL):
    gradient = jax.jit(make_gradient(model, Objective(num_steps, train, weighting)))
    return gradient(params_of(model), BATCH, KEY)


@functools.cache
def draws_of_gradient():
    """The times and noises that `gradient_of` draws."""

    @jax.jit
    def drawn():
        key_t, key_noise, _ = jax.random.split(KEY, 3)
        return draw(key_noise, timesteps.low_discrepancy(key_t, 32), (6,))

    return drawn()


def half_then_nothing(omega_t, weight):
    """A weighting of the user's own, which is 0 at some levels although it should be positive."""
    return jnp.where(omega_t < -2.0, 0.5, 0.0)


@pytest.mark.parametrize(
    ("weighting", "num_steps", "train"),
    [
        (SIGMOID, 0, "variance"),
        (MIN_SNR, 10, "bound"),
        (half_then_nothing, 0, "variance_stratified"),
    ],
)
def test_a_weighting_leaves_the_schedule_and_the_metrics_to_the_bound(weighting, num_steps, train):
    grads, metrics, _ = gradient_of(weighting, num_steps, train)
    bound_grads, bound_metrics, _ = gradient_of(weightings.bound, num_steps, train)
    assert_close(grads["schedule"], bound_grads["schedule"])
    for name in bound_metrics:
        np.testing.assert_allclose(metrics[name], bound_metrics[name], rtol=1e-6)
    assert set(metrics) == set(bound_metrics) | {"weighted_loss"}
    kernel = [tree["network"]["first"]["kernel"] for tree in (grads, bound_grads)]
    assert np.linalg.norm(kernel[0] - kernel[1]) > 0.1 * np.linalg.norm(kernel[1])


@jax.jit
@jax.value_and_grad
def loss_by_hand(network, draws, omega, weight):
    """The mean of 1/2 weight ||eps - eps_hat||^2, bits/dim, of a network without a schedule."""
    z = noise.diffuse(LINE.likelihood.encode(BATCH["examples"]), draws.eps, omega)
    eps_hat = LINE.denoiser({"network": network}, None, DROPOUT_KEY)(z, omega)
    return to_bpd(jnp.mean(0.5 * weight * jnp.sum((draws.eps - eps_hat) ** 2, axis=1)), 6)


@pytest.mark.parametrize(
    ("weighting", "num_steps", "weight_of"),
    [
        (SIGMOID, 0, lambda omega, weight: weight / (1 + np.exp(-omega - 2.0))),
        (MIN_SNR, 10, lambda omega, weight: np.minimum(1.0, 5.0 * np.exp(omega))),
        (weightings.simple, 0, lambda omega, weight: np.ones_like(omega)),
        (weightings.simple, 10, lambda omega, weight: np.ones_like(omega)),
    ],
)
def test_the_network_follows_the_weighted_loss(weighting, num_steps, weight_of):
    # Of a straight line the weight is omega'(t) = 13, or T expm1(omega_t - omega_s).
    draws = draws_of_gradient()
    t, weight = np.asarray(draws.t), np.float32(13.0)
    if num_steps:
        t = (np.floor(t * num_steps) + 1) / num_steps
        weight = np.float32(num_steps * np.expm1(13.0 / num_steps))
    omega = np.float32(-8.0 + 13.0 * t)
    loss, want = loss_by_hand(params_of(LINE)["network"], draws, omega, weight_of(omega, weight))
    grads, metrics, _ = gradient_of(weighting, num_steps, model=LINE)
    assert_close(grads["network"], want)
    np.testing.assert_allclose(metrics["weighted_loss"], loss, rtol=2e-6)


def test_without_a_weighting_the_gradient_is_that_of_the_bound_to_the_bit():
    # Not compiled: two programs that XLA fuses in other ways differ in the last digits.
    draws, params = draws_of_gradient(), params_of(LINE)

    def bound(network, levels):
        terms = LINE.elbo_at({"network": network}, BATCH["examples"], draws, levels).terms
        return jnp.mean(to_bpd(terms.total, 6))

    levels = noise_levels(LINE.schedule_fn(params), draws.t, 10)
    bpd, want = jax.value_and_grad(bound, (0, 1))(params["network"], levels)
    grads, metrics, seen = make_gradient(LINE, Objective(10))(params, BATCH, KEY)
    jax.tree.map(np.testing.assert_array_equal, (grads["network"], seen.grad_levels), want)
    np.testing.assert_allclose(metrics["bpd"], bpd, rtol=1e-6)
    assert "weighted_loss" not in metrics


@pytest.mark.slow
def test_a_weighting_is_of_the_mean_level_where_each_dimension_has_its_own():
    schedule = Polynomial(-8.0, 5.0, learn_ends=True, per_dimension=True, dims=(6,))
    model = dataclasses.replace(MODEL, schedule=schedule)
    grads, metrics, _ = gradient_of(weightings.simple, model=model)
    bound_grads, bound_metrics, estimate = gradient_of(weightings.bound, model=model)
    assert_close(grads["schedule"], bound_grads["schedule"])
    assert metrics["bpd"] == bound_metrics["bpd"]
    density = to_bpd(jnp.mean(estimate.loss_density), 6)
    np.testing.assert_allclose(metrics["weighted_loss"], density, rtol=1e-6)


def test_next_mean_trains_on_a_schedule_that_gets_no_gradient():
    model = dataclasses.replace(MODEL, prediction="next_mean", num_steps=10)
    grads, metrics, _ = gradient_of(weightings.bound, 10, "fixed", model)
    assert all(not np.any(g) for g in jax.tree.leaves(grads["schedule"]))
    params = params_of(model)

    @jax.jit
    @jax.grad
    def bound(network):
        terms = model.elbo(
            params | {"network": network}, BATCH["examples"], draws_of_gradient(), 10
        ).terms
        return jnp.mean(to_bpd(terms.total, 6))

    assert_close(grads["network"], bound(params["network"]), 1e-5)
    assert np.isfinite(metrics["bpd"])


@pytest.mark.parametrize(
    "changes",
    [
        {"examples": jnp.zeros((32, 7))},  # not of the model's shape
        {"labels": jnp.arange(31) % 5},  # not one for each example
        {"labels": jnp.zeros(32)},  # not integers
    ],
)
def test_a_batch_that_does_not_fit_the_model_is_refused_when_traced(changes):
    model = dataclasses.replace(MODEL, num_classes=5)
    batch = BATCH | {"labels": jnp.arange(32) % 5} | changes
    with pytest.raises(AssertionError):
        jax.eval_shape(make_gradient(model, Objective()), params_of(MODEL), batch, KEY)


def test_a_batch_that_fits_the_model_is_traced():
    model = dataclasses.replace(MODEL, num_classes=5)
    batch = BATCH | {"labels": jnp.arange(32) % 5}
    jax.eval_shape(make_gradient(model, Objective()), params_of(MODEL), batch, KEY)


def test_a_network_whose_examples_have_several_terms_is_refused():
    class PerDimension(VDM):
        def elbo_at(self, *args):
            estimate = super().elbo_at(*args)
            return estimate._replace(loss_density=estimate.loss_density[:, None])

    model = PerDimension(LINE.schedule, Small(), Gaussian(), (6,))
    with pytest.raises(AssertionError, match=r"\(32, 1\)"):
        jax.eval_shape(make_gradient(model, Objective()), params_of(LINE), BATCH, KEY)


def test_microbatches_of_one_example_share_the_ends_of_a_schedule_for_each_dimension():
    model = dataclasses.replace(MODEL, schedule=Polynomial(-8.0, 5.0, dims=(6,)))
    batch = jax.tree.map(lambda array: array[:2], BATCH)
    whole, halved = (
        jax.jit(make_gradient(model, Objective(), Microbatches(count)))(
            params_of(model), batch, KEY
        )[0]
        for count in (1, 2)
    )
    assert_close(halved["schedule"], whole["schedule"])
