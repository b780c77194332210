"""The model: its bound in every parametrisation, its gradients, its samples, its parameters."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm.config import build as configs
from vdm.config import checks
from vdm.diffusion import noise, timesteps
from vdm.diffusion.elbo import Draws, draw, to_bpd
from vdm.diffusion.grids import equal_times
from vdm.diffusion.likelihood import Discretised
from vdm.diffusion.predictions import PREDICTIONS, convert
from vdm.diffusion.samplers import ancestral
from vdm.diffusion.schedule_algebra import next_omega
from vdm.models.vdm import VDM, count_parameters
from vdm.nn.mlp import MLP
from vdm.nn.schedules import Cosine, Linear, Monotone, Polynomial
from vdm.training.gradient import Objective, make_gradient

MODEL = VDM(
    schedule=Monotone(-8.0, 5.0, hidden_features=8),
    network=MLP(num_codes=17, width=16, num_blocks=1, fourier=False),
    likelihood=Discretised(17),
    dims=(6,),
)
CODES = jax.random.randint(jax.random.key(0), (512, 6), 0, 17)
GRID = jnp.linspace(0.0, 1.0, 21)
DRAWS = draw(jax.random.key(1), timesteps.low_discrepancy(jax.random.key(2), 512), (6,))


def test_logits_start_at_the_bound_of_uniform_codes():
    # With zero logits the model is the exact denoiser of independent uniform codes, whose
    # bits/dim are log2 V; uniform test codes, 40 draws.
    model = dataclasses.replace(
        MODEL, network=MLP(17, 0, 17, width=16, num_blocks=1), prediction="codes"
    )
    params = jax.jit(model.init)(jax.random.key(0))

    @jax.jit
    def bpd(key):
        draws = draw(key, timesteps.low_discrepancy(key, 512), (6,))
        return to_bpd(jnp.mean(model.elbo(params, CODES, draws).terms.total), 6)

    values = [float(bpd(jax.random.key(k))) for k in range(40)]
    stderr = np.std(values) / np.sqrt(40)
    assert stderr < 0.03
    assert abs(np.mean(values) - np.log2(17)) < 4 * stderr


@functools.partial(jax.jit, static_argnums=0)
def gradient_of_bound(model):
    """(the parameters, the gradient of the bound) with an output layer that is not zero."""
    params = model.init(jax.random.key(3))
    # dense_out is zero at first and holds back the rest of the network
    params["network"]["dense_out"]["kernel"] = jnp.full((16, 6), 0.05)
    return params, jax.grad(lambda p: jnp.mean(model.elbo(p, CODES, DRAWS).terms.total))(params)


def test_gradients_reach_ends_interior_and_network():
    _, grads = gradient_of_bound(MODEL)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))


def test_a_schedule_for_each_dimension_gives_bounds_samples_and_gradients():
    schedule = Polynomial(-8.0, 5.0, learn_ends=True, per_dimension=True, dims=(6,))
    model = dataclasses.replace(MODEL, schedule=schedule)
    assert model.multivariate
    assert not MODEL.multivariate
    params, grads = gradient_of_bound(model)
    # a and b move the path alone, which matters as the network is not an ideal denoiser
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))
    z, omega = jnp.zeros((1, 6)), jnp.zeros((1, 6))
    moved = omega.at[0, :2].set(jnp.array([-3.0, 3.0]))  # the mean over the dimensions is the same

    @jax.jit
    def samples_and_estimates(params):
        keys, denoise = jax.random.split(jax.random.key(1), 5), model.denoiser(params)
        codes = model.sample(params, keys, ancestral(), equal_times, len(GRID) - 1, denoise).data
        return codes, denoise(z, omega), denoise(z, moved)

    codes, here, there = samples_and_estimates(params)
    assert codes.shape == (5, 6)
    # the network sees which dimension is noisier
    assert np.abs(here - there).max() > 1e-4


class Function:
    """A network without parameters: a function (z, omega) -> output."""

    def __init__(self, function):
        self.function = function

    def apply(self, variables, z, omega, labels, train, rngs):
        return self.function(z, omega)


def test_every_prediction_gives_the_bound_of_the_same_function():
    # A network that outputs a fixed array o_i, read as eps; re-written as `prediction` by hand.
    omega = jnp.linspace(-7.0, 4.0, 512)
    z = jax.random.normal(jax.random.key(5), (512, 6))

    @jax.jit
    def estimates():
        params = MODEL.init(jax.random.key(4))
        eps_hat, found = MODEL.denoiser(params)(z, omega), {}
        for prediction in ("x", "v", "score"):
            other = convert(eps_hat, "eps", prediction, z, omega)
            network = Function(lambda z, omega, other=other: other)
            model = dataclasses.replace(MODEL, network=network, prediction=prediction)
            found[prediction] = model.denoiser(params)(z, omega)
        return found, eps_hat

    found, eps_hat = estimates()
    for prediction, rewritten in found.items():
        np.testing.assert_allclose(rewritten, eps_hat, atol=2e-4, err_msg=prediction)


def bounds_of_rewritten_networks(dtype, num_steps):
    """{B: bits/dim [A, example]} of a random network that outputs A, written as B and read as B;
    A and B run through PREDICTIONS."""
    keys = jax.random.split(jax.random.key(6), 4)
    first, second = (jax.random.normal(k, (6, 6), dtype) / 6 for k in keys[:2])
    t = (jnp.arange(32, dtype=dtype) + 0.5) / 32
    draws = Draws(t, *(jax.random.normal(k, (32, 6), dtype) for k in keys[2:]))
    data, draws = jax.tree.map(
        lambda a: jnp.concatenate([a] * len(PREDICTIONS)), (CODES[:32], draws)
    )
    schedule = Cosine(-8.0, 5.0, learn_ends=False)

    def rewritten(target):
        def output(z, omega):
            own = jnp.tanh(z @ first + omega[:, None] / 10) @ second + z
            omega_s = next_omega(lambda t: schedule.apply({}, t), omega, num_steps)
            parts = [jnp.split(a, len(PREDICTIONS)) for a in (own, z, omega, omega_s)]
            written = [
                convert(own, source, target, *levels)
                for source, own, *levels in zip(PREDICTIONS, *parts, strict=True)
            ]
            return jnp.concatenate(written)

        return output

    def bpd(prediction):
        network = Function(rewritten(prediction))
        model = VDM(
            schedule, network, Discretised(17), (6,), prediction=prediction, num_steps=num_steps
        )
        estimate = model.elbo({"network": {}, "schedule": {}}, data, draws, num_steps)
        return to_bpd(estimate.terms.total, 6).reshape(len(PREDICTIONS), 32)

    return jax.device_get(jax.jit(lambda: {name: bpd(name) for name in PREDICTIONS})())


def error_of_rewriting(dtype, num_steps):
    """The largest relative errors in bits/dim over all pairs: for one example, for the batch."""
    found = bounds_of_rewritten_networks(dtype, num_steps)
    truth = np.stack([found[name][i] for i, name in enumerate(PREDICTIONS)])
    assert truth.dtype == dtype
    assert np.std(truth.mean(axis=1)) > 0.1  # five networks
    of_examples = max(np.abs(bpd / truth - 1).max() for bpd in found.values())
    mean = truth.mean(axis=1)
    of_batch = max(np.abs(bpd.mean(axis=1) / mean - 1).max() for bpd in found.values())
    return of_examples, of_batch


def test_a_network_written_as_any_other_prediction_has_the_same_bound():
    with jax.enable_x64():
        assert error_of_rewriting(jnp.float64, 1000)[0] < 1e-9


def test_a_network_written_as_any_other_prediction_has_the_same_bound_in_float32():
    # eps = (z - (alpha_t/alpha_s) mean) / (c sigma): the rounding of z and mean divided by c sigma,
    # c ~ (omega_t - omega_s) ~ 1/T. Measured, an example and the batch: 3e-6 and 2e-7 for T = 10,
    # 1e-5 and 6e-7 for 100, 9e-5 and 6e-6 for 1000, 1e-3 and 7e-5 for 10,000; without next_mean
    # 3e-6 for any T.
    of_examples, _ = error_of_rewriting(jnp.float32, 10)
    assert of_examples < 1e-5
    of_examples, of_batch = error_of_rewriting(jnp.float32, 1000)
    assert of_examples < 3e-4
    assert of_batch < 3e-5


def test_next_mean_is_that_of_the_trained_step_on_any_grid():
    # The network gives the true mean of q(z_s | z_t, x) for s = t - 1/20, at times off that grid.
    schedule = Cosine(-8.0, 5.0, learn_ends=False)
    with jax.enable_x64():
        t = jnp.array([1.0, 0.773, 0.31, 0.05, 0.01, 0.0])
        omega, mirrored = (schedule.apply({}, u) for u in (t, jnp.abs(t - 0.05)))
        omega_s = jnp.where(t < 0.05, 2 * omega[-1] - mirrored, mirrored)
        z, eps = jax.random.normal(jax.random.key(0), (2, 6, 6), jnp.float64)
        mean, _ = noise.posterior(z, eps, omega_s, omega)
        network = Function(lambda z, omega: mean)
        model = VDM(schedule, network, Discretised(17), (6,), prediction="next_mean", num_steps=20)
        denoise = jax.jit(model.denoiser({"network": {}, "schedule": {}}))
        np.testing.assert_allclose(denoise(z, omega), eps, rtol=1e-6, atol=1e-6)


def test_parameters_are_float32_and_counted():
    params = jax.jit(MODEL.init)(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(params))
    assert count_parameters(params) == sum(np.size(leaf) for leaf in jax.tree.leaves(params))
    np.testing.assert_array_equal(
        params["schedule"]["centres"],
        jax.jit(MODEL.init_schedule)(jax.random.key(0))["centres"],
    )


def test_samples_are_codes_and_repeat_with_their_key():
    model = dataclasses.replace(MODEL, schedule=Linear(-8.0, 5.0))

    @jax.jit
    def draw():
        params, keys = model.init(jax.random.key(0)), jax.random.split(jax.random.key(1), 5)
        denoiser = model.denoiser(params)
        return model.sample(params, keys, ancestral(), equal_times, len(GRID) - 1, denoiser).data

    codes = draw()
    assert codes.shape == (5, 6)
    assert codes.dtype == jnp.int32
    assert 0 <= codes.min() <= codes.max() <= 16
    np.testing.assert_array_equal(codes, draw())
    assert not np.array_equal(codes[0], codes[1])


def test_training_tells_the_network_which_examples_are_augmented(make_tiny_config):
    flagged = make_tiny_config(
        model__augmented_flag=True,
        data__augmentation__name="images",
        data__augmentation__kwargs__share=0.5,
    )
    source = configs.build_source(flagged.data)
    model = configs.build_model(flagged, source)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: x + 0.3 * rng.normal(size=x.shape).astype(np.float32),
        jax.jit(model.init)(jax.random.key(0)),
    )
    codes = jnp.zeros((4, *source.shape), jnp.uint8)
    gradient = jax.jit(make_gradient(model, Objective()))
    key = jax.random.key(1)

    def bpd(flag):
        batch = {"examples": codes, "augmented": jnp.full(4, flag)}
        return float(gradient(params, batch, key)[1]["bpd"])

    assert abs(bpd(True) - bpd(False)) > 1e-4
    with pytest.raises(ValueError, match=r"data\.augmentation\.name"):
        checks.check_augmented_flag(make_tiny_config(model__augmented_flag=True))
    flagged.data.augmentation.kwargs.share = 1.0  # no example would be called not augmented
    with pytest.raises(ValueError, match="share = 1"):
        checks.check_augmented_flag(flagged)
