import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm.diffusion import timesteps
from vdm.diffusion.elbo import draw, to_bpd
from vdm.diffusion.likelihood import Discretised
from vdm.diffusion.samplers import ancestral
from vdm.model import VDM, count_parameters
from vdm.nn.mlp import MLP
from vdm.nn.schedules import Linear, Monotone, Polynomial

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
    params = model.init(jax.random.key(0))

    @jax.jit
    def bpd(key):
        draws = draw(key, timesteps.low_discrepancy(key, 512), (6,))
        return to_bpd(jnp.mean(model.elbo(params, CODES, draws).terms.total), 6)

    values = [float(bpd(jax.random.key(k))) for k in range(40)]
    stderr = np.std(values) / np.sqrt(40)
    assert stderr < 0.03
    assert abs(np.mean(values) - np.log2(17)) < 4 * stderr


def test_gradients_reach_ends_interior_and_network():
    params = MODEL.init(jax.random.key(3))
    # conv_out is zero at first and holds back the rest of the network
    params["network"]["dense_out"]["kernel"] = jnp.full((16, 6), 0.05)
    grads = jax.grad(lambda p: jnp.mean(MODEL.elbo(p, CODES, DRAWS).terms.total))(params)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))


def test_a_schedule_for_each_dimension_gives_bounds_samples_and_gradients():
    schedule = Polynomial(-8.0, 5.0, learn_ends=True, per_dimension=True, dims=(6,))
    model = dataclasses.replace(MODEL, schedule=schedule)
    assert model.multivariate
    assert not MODEL.multivariate
    params = model.init(jax.random.key(3))
    params["network"]["dense_out"]["kernel"] = jnp.full((16, 6), 0.05)
    grads = jax.grad(lambda p: jnp.mean(model.elbo(p, CODES, DRAWS).terms.total))(params)
    # a and b move the path alone, which matters as the network is no ideal denoiser
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))
    keys, omegas = jax.random.split(jax.random.key(1), 5), model.schedule_fn(params)(GRID)
    codes = model.sample(keys, omegas, ancestral(), model.denoiser(params)).data
    assert codes.shape == (5, 6)
    # the network sees which dimension is noisier
    z, omega = jnp.zeros((1, 6)), jnp.zeros((1, 6))
    moved = omega.at[0, :2].set(jnp.array([-3.0, 3.0]))  # of the same mean
    denoise = model.denoiser(params)
    assert np.abs(denoise(z, omega) - denoise(z, moved)).max() > 1e-4


@pytest.mark.parametrize("prediction", ["x", "v", "score"])
def test_every_prediction_gives_the_bound_of_the_same_function(prediction):
    # A network that outputs a fixed array o_i, read as eps; re-written as `prediction` by hand.
    from vdm.diffusion.predictions import convert

    params = MODEL.init(jax.random.key(4))
    denoise = MODEL.denoiser(params)
    omega = jnp.linspace(-7.0, 4.0, 512)
    z = jax.random.normal(jax.random.key(5), (512, 6))
    eps_hat = denoise(z, omega)
    other = convert(eps_hat, "eps", prediction, z, omega)

    class Wrapped:
        def apply(self, variables, z_t, omega, labels, train, rngs):
            return other

    model = dataclasses.replace(MODEL, network=Wrapped(), prediction=prediction)
    np.testing.assert_allclose(model.denoiser(params)(z, omega), eps_hat, atol=2e-4)


def test_parameters_are_float32_and_counted():
    params = MODEL.init(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(params))
    assert count_parameters(params) == sum(np.size(leaf) for leaf in jax.tree.leaves(params))
    np.testing.assert_array_equal(
        params["schedule"]["centres"], MODEL.init_schedule(jax.random.key(0))["centres"]
    )


def test_samples_are_codes_and_repeat_with_their_key():
    model = dataclasses.replace(MODEL, schedule=Linear(-8.0, 5.0))
    params = model.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 5)

    def draw():
        omegas = model.schedule_fn(params)(GRID)
        return model.sample(keys, omegas, ancestral(), model.denoiser(params)).data

    codes = draw()
    assert codes.shape == (5, 6)
    assert codes.dtype == jnp.int32
    assert 0 <= codes.min() <= codes.max() <= 16
    np.testing.assert_array_equal(codes, draw())
    assert not np.array_equal(codes[0], codes[1])
