import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm.nn.blocks import dropout
from vdm.nn.classifiers import ConvNet, Perceptron
from vdm.nn.encoders import GaussianMLP, ResidualMLP
from vdm.nn.mlp import MLP
from vdm.nn.norm_swish import NormSwish, norm_swish
from vdm.nn.unet import UNet


def arguments(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 4)
    x = 3.0 + 2.0 * jax.random.normal(keys[0], (2, 3, 5, 8), dtype)
    params = {"scale": jax.random.normal(keys[1], (8,), dtype), "bias": jnp.linspace(-1, 1, 8)}
    film = tuple(0.5 * jax.random.normal(k, (2, 1, 1, 8), dtype) for k in keys[2:])
    return jax.tree.map(lambda a: a.astype(dtype), (params, x, film))


def outputs_and_gradients(train, params, x, film):
    weights = jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)

    def total(params, x, film):
        y = NormSwish(2).apply({"params": params}, x, train, film)
        return jnp.sum(weights * y), y

    return jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(params, x, film)


@pytest.mark.parametrize("filmed", [False, True])
def test_norm_swish_is_flax_and_its_backward_pass_the_derivative(filmed):
    with jax.enable_x64(True):
        params, x, film = arguments(jnp.float64)
        film = film if filmed else None
        plain = outputs_and_gradients(False, params, x, film)
        ours = outputs_and_gradients(True, params, x, film)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


def test_norm_swish_equals_its_definition():
    params, x, _ = arguments()
    y = norm_swish(x, *(jnp.broadcast_to(params[n], (2, 8)) for n in ("scale", "bias")), 2)
    grouped = np.asarray(x, np.float64).reshape(2, 15, 2, 4)
    mean, std = (f(grouped, axis=(1, 3), keepdims=True) for f in (np.mean, np.std))
    normed = ((grouped - mean) / np.sqrt(std**2 + 1e-6)).reshape(x.shape)
    normed = normed * np.asarray(params["scale"]) + np.asarray(params["bias"])
    np.testing.assert_allclose(y, normed / (1 + np.exp(-normed)), rtol=1e-5, atol=1e-5)


def test_backward_pass_keeps_one_array_of_the_size_of_x():
    params, x, _ = arguments()
    scale, shift = (jnp.broadcast_to(params[n], (2, 8)) for n in ("scale", "bias"))
    _, pull_back = jax.vjp(lambda *a: norm_swish(*a, 2), x, scale, shift)
    assert sum(leaf.size == x.size for leaf in jax.tree.leaves(pull_back)) == 1


def test_statistics_of_bfloat16_are_float32():
    params, x, _ = arguments()
    far = (x + 100).astype(jnp.bfloat16)  # E[x^2] - E[x]^2 in bfloat16 would be 0 or noise
    y = NormSwish(2, jnp.bfloat16).apply({"params": params}, far, True)
    exact = NormSwish(2).apply({"params": params}, far.astype(jnp.float32), True)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), exact, rtol=0.02, atol=0.02)


def test_dropout_keeps_a_share_and_the_mean():
    x = jnp.ones((400, 251))  # an odd number of channels, so half of a random word is not used
    y = dropout(x, 0.1, jax.random.key(0))
    np.testing.assert_allclose(jnp.unique(y), [0.0, 65536 / 58982], rtol=1e-6)
    assert abs(float(jnp.mean(y)) - 1) < 5 * np.sqrt(0.1 / 0.9 / x.size)
    # Neighbours share a word of random bits and must still be dropped independently.
    first, second = np.asarray(y[:, 0:250:2] > 0), np.asarray(y[:, 1:250:2] > 0)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 5 / np.sqrt(first.size)


@pytest.mark.parametrize(("rate", "mask"), [(0.1, "eeefffefffe0"), (0.5, "ea6ff5e4cde0")])
def test_the_masks_of_dropout_stay_the_same(rate, mask):
    kept = np.asarray(dropout(jnp.ones((4, 11)), rate, jax.random.key(3))) > 0
    assert np.packbits(kept).tobytes().hex() == mask


def test_dropout_at_the_ends_of_its_range_keeps_the_mean():
    x = jnp.arange(1.0, 401.0).reshape(20, 20)
    for rate in (0.0, 1e-6, 2**-18):  # a rate below half of 1/65536 keeps everything
        y, pull_back = jax.vjp(lambda x, rate=rate: dropout(x, rate, jax.random.key(0)), x)
        np.testing.assert_array_equal(y, x)
        np.testing.assert_array_equal(pull_back(x)[0], x)
    y = dropout(jnp.ones((1500, 1000)), 1 - 1e-6, jax.random.key(0))
    np.testing.assert_array_equal(jnp.unique(y), [0.0, 65536.0])
    assert abs(float(jnp.mean(y)) - 1) < 4 * np.sqrt(65536 / y.size)


@pytest.mark.parametrize("rate", [1.0, 20.0, -0.1, np.nan, None, "0.1"])
def test_a_rate_of_dropout_that_is_no_share_is_refused_where_the_network_is_built(rate):
    of_config = {UNet: "network", MLP: "network", ConvNet: "classifier", Perceptron: "classifier"}
    for make, group in of_config.items():
        facts = {UNet: {"num_codes": 17}, MLP: {}}.get(make, {"num_classes": 2})
        with pytest.raises(ValueError, match=rf"^{group}\.kwargs\.dropout = .*must be [^\n]*$"):
            make(**facts, dropout=rate)
    for make in (ResidualMLP, GaussianMLP):
        with pytest.raises(ValueError, match=r"^dropout = .*must be"):
            make((2,), dropout=rate)
    with pytest.raises(ValueError, match=r"^dropout = .*must be"):
        dropout(jnp.ones((2, 2)), rate, jax.random.key(0))


def test_dropout_differs_between_keys():
    x = jnp.ones((4, 64))
    assert np.any(dropout(x, 0.5, jax.random.key(0)) != dropout(x, 0.5, jax.random.key(1)))


def test_modules_keep_the_parameters_of_flax():
    x = arguments()[1]
    ours = NormSwish(2).init(jax.random.key(0), x, False)
    theirs = nn.GroupNorm(2).init(jax.random.key(0), x)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("shape", [(3, 4, 4, 8), (2, 5, 5, 7)])
def test_the_gradient_of_dropout_has_the_mask_of_its_value(shape):
    x, key = jax.random.normal(jax.random.key(1), shape) + 3.0, jax.random.key(0)
    y, pull_back = jax.vjp(lambda x: dropout(x, 0.3, key), x)
    (grad,) = pull_back(jnp.full(shape, 2.0))
    np.testing.assert_allclose(grad, 2 * y / x, rtol=1e-6)
    assert 0.5 < np.mean(np.asarray(y) != 0) < 0.9


def test_a_loop_over_blocks_keeps_no_masks():
    """The stacked masks of all blocks would not fit into the scoped memory of some TPUs."""
    x = jnp.ones((2, 8, 8, 16))

    def loss(x):
        def body(x, key):
            return dropout(jnp.sin(x), 0.1, key), None

        return jax.lax.scan(body, x, jax.random.split(jax.random.key(0), 5))[0].sum()

    program = str(jax.make_jaxpr(jax.grad(loss))(x))
    assert "f32[5,2,8,8,16]" in program  # what the sine keeps
    assert not re.search(r"(bool|u16|u32)\[5,2,8,8", program)
