"""The gradient of T steps with the mixture kernel and the network's decoder."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.vectors import assert_close, params_of
from vdm.devices import sharding
from vdm.diffusion import timesteps
from vdm.diffusion.elbo import draw, noise_levels, to_bpd
from vdm.diffusion.likelihood import Discretised
from vdm.models.vdm import VDM
from vdm.nn.schedules import Polynomial
from vdm.training.gradient import Objective, make_gradient
from vdm.training.microbatches import Microbatches

KEY, V, DIMS = jax.random.key(5), 5, (6,)
BATCH = {"examples": jax.random.randint(jax.random.key(3), (32, *DIMS), 0, V)}


class Logits(nn.Module):
    """A perceptron of four hidden units that gives a logit for each code."""

    @nn.compact
    def __call__(self, z, omega, labels=None, train=False):
        inputs = jnp.concatenate([z, omega.reshape(len(z), -1) / 10], axis=-1)
        h = nn.tanh(nn.Dense(4, name="first")(inputs))
        return nn.Dense(z.shape[-1] * V)(h).reshape(*z.shape, V)


def model_of(reverse, rule, per_dimension=False):
    schedule = Polynomial(
        -8.0, 5.0, learn_ends=True, per_dimension=per_dimension, dims=DIMS if per_dimension else ()
    )
    return VDM(
        schedule, Logits(), Discretised(V), DIMS,
        prediction="codes", reverse=reverse, decoder_rule=rule,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("reverse", "rule", "per_dimension"),
    [
        ("mixture", "bayes", False),
        ("mixture", "network", False),
        ("gaussian", "network", False),
        ("mixture", "network", True),
    ],
)
def test_direction_of_training_is_the_gradient_of_the_bound(reverse, rule, per_dimension):
    model, num_steps = model_of(reverse, rule, per_dimension), 3
    params = params_of(model)

    @jax.jit
    def by_hand(params):
        key_t, key_noise, _ = jax.random.split(KEY, 3)
        t = timesteps.low_discrepancy(key_t, 32)
        draws = draw(key_noise, t, DIMS, model.needs_u(num_steps))
        terms = model.elbo(params, BATCH["examples"], draws, num_steps).terms
        return jnp.mean(to_bpd(terms.total, 6))

    bpd, want = jax.value_and_grad(by_hand)(params)
    for microbatches in (Microbatches(), Microbatches(2)):
        gradient = make_gradient(model, Objective(num_steps, "variance"), microbatches)
        grads, metrics, _ = jax.jit(gradient)(params, BATCH, KEY)
        assert_close(grads, want, rtol=1e-4)
        np.testing.assert_allclose(metrics["bpd"], bpd, rtol=1e-5)


def test_continuous_time_takes_the_same_step_with_every_kernel():
    steps = [
        jax.jit(make_gradient(model_of(reverse, "bayes"), Objective()))(
            params_of(model_of("gaussian", "bayes")), BATCH, KEY
        )[0]
        for reverse in ("gaussian", "mixture", "gaussian_fitted")
    ]
    for other in steps[1:]:
        jax.tree.map(np.testing.assert_array_equal, steps[0], other)


def test_parts_of_the_bound_are_drawn_equally_often_and_lead_from_level_to_level():
    t = (jnp.arange(400) + 0.5) / 400
    levels = noise_levels(lambda t: 10 * t - 5, t, 4, decoder_is_part=True)
    np.testing.assert_allclose(np.unique(levels.omega_t), [-5, -2.5, 0, 2.5, 5])
    decodes = np.asarray(levels.of_decoder) > 0
    assert decodes.sum() == 80
    np.testing.assert_array_equal(levels.omega_t[decodes], -5.0)
    np.testing.assert_allclose((levels.omega_t - levels.omega_s)[~decodes], 2.5, rtol=1e-6)
    np.testing.assert_array_equal(levels.of_step + levels.of_decoder, np.full(400, 5.0))
    np.testing.assert_array_equal(levels.of_step[decodes], 0.0)
    np.testing.assert_array_equal(levels.weight[decodes], 0.0)


def test_gradient_does_not_depend_on_the_number_of_devices():
    model = model_of("mixture", "network")
    gradient = jax.jit(make_gradient(model, Objective(3)))
    results = []
    for num_devices in (1, 8):
        mesh = sharding.build_mesh(num_devices)
        params = jax.device_put(params_of(model), sharding.replicated(mesh))
        batch = sharding.put_whole_batch(jax.device_get(BATCH), mesh)
        grads, metrics, _ = gradient(params, batch, sharding.put_everywhere(KEY, mesh))
        results.append((grads, metrics["bpd"]))
    assert_close(*results, rtol=1e-5)
