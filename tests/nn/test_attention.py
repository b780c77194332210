"""Attention over parts of the pixels is attention, forward and backward, in every precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm.nn.attention import Attention, attend, attend_at_once, attend_to_train, num_parts

EVERY = pytest.mark.parametrize("function", [attend, attend_at_once, attend_to_train])
PIXELS = 384


def inputs(dtype=jnp.float32, pixels=PIXELS):
    return (2 * jax.random.normal(jax.random.key(0), (4, 2, pixels, 5), jnp.float32)).astype(dtype)


def softmax_attention(q, k, v):
    """Attention as defined by Vaswani et al. 2017 (arXiv:1706.03762), Eq. 1."""
    scores = jnp.einsum("bqc,bkc->bqk", q, k) / np.sqrt(q.shape[-1])
    return jnp.einsum("bqk,bkc->bqc", jax.nn.softmax(scores, axis=-1), v)


def output_and_gradients(function, arrays):
    return compiled(function, arrays, jax.default_backend())


@functools.partial(jax.jit, static_argnums=(0, 2))
def compiled(function, arrays, backend):
    """backend: the default backend's name, on which `function` depends when it is traced."""
    q, k, v, by_out = arrays
    out, pull_back = jax.vjp(function, q, k, v)
    return out, *pull_back(by_out)


@pytest.mark.parametrize(
    ("pixels", "parts"), [(64, 1), (128, 1), (256, 2), (257, 1), (784, 7), (1024, 8), (4096, 32)]
)
def test_attention_goes_through_equal_parts(pixels, parts):
    assert num_parts(pixels, 128) == parts


@EVERY
@pytest.mark.parametrize("pixels", [9, PIXELS])
def test_output_and_gradients_are_those_of_the_definition(function, pixels):
    with jax.enable_x64(True):
        arrays = inputs(jnp.float64, pixels)
        want = output_and_gradients(softmax_attention, arrays)
        for got, exact in zip(output_and_gradients(function, arrays), want, strict=True):
            assert got.dtype == jnp.float64
            np.testing.assert_allclose(got, exact, rtol=1e-11, atol=1e-12)


@EVERY
@pytest.mark.parametrize(("dtype", "rtol"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.02)])
def test_lower_precisions_are_as_good_as_their_digits(function, dtype, rtol):
    arrays = inputs(dtype)
    want = output_and_gradients(softmax_attention, arrays.astype(jnp.float32))
    for got, exact in zip(output_and_gradients(function, arrays), want, strict=True):
        assert got.dtype == dtype
        error = np.linalg.norm(got.astype(jnp.float32) - exact) / np.linalg.norm(exact)
        assert error < rtol


@EVERY
def test_large_scores_are_as_exact_as_their_rounding(function):
    # Scores of up to 1,000, rounded to 6e-5.
    arrays = inputs() * jnp.array([10.0, 10.0, 1.0, 1.0])[:, None, None, None]
    with jax.enable_x64(True):
        exact = output_and_gradients(softmax_attention, arrays.astype(jnp.float64))
    got = output_and_gradients(function, arrays)
    for array, want, tolerance in zip(got, exact, (1e-4, 1e-3, 1e-3, 1e-4), strict=True):
        np.testing.assert_allclose(array, want, rtol=0, atol=tolerance * np.abs(want).max())
    for array in output_and_gradients(function, arrays * np.float32(30)):
        assert np.isfinite(array).all()


@pytest.mark.parametrize("function", [attend, attend_to_train])
def test_the_backward_pass_keeps_no_matrix_of_weights(function):
    q, k, v, _ = inputs()
    _, pull_back = jax.vjp(function, q, k, v)
    assert max(leaf.size for leaf in jax.tree.leaves(pull_back)) <= q.size < PIXELS**2


@pytest.mark.parametrize("function", [attend, attend_at_once])
def test_accelerators_have_the_products_of_jax(function, monkeypatch):
    arrays = inputs()
    want = output_and_gradients(softmax_attention, arrays)
    products, calls = jax.nn.dot_product_attention, []
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(
        jax.nn, "dot_product_attention", lambda *a: calls.append(a[0].shape) or products(*a)
    )
    for got, exact in zip(output_and_gradients(function, arrays), want, strict=True):
        np.testing.assert_allclose(got, exact, rtol=2e-4, atol=1e-5)
    assert set(calls) == {(2, 192 if function is attend else PIXELS, 1, 5)}


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("train", [False, True])
def test_the_backward_pass_by_hand_is_for_training_on_the_cpu(backend, train, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    x = jax.ShapeDtypeStruct((2, 4, 4, 8), jnp.float32)
    params = jax.eval_shape(lambda x: Attention().init(jax.random.key(0), x, False), x)
    jaxpr = jax.make_jaxpr(lambda params, x: Attention().apply(params, x, train))(params, x)
    assert ("custom_vjp_call" in str(jaxpr)) == (train and backend == "cpu")


def test_the_module_has_one_gradient_in_training_and_outside_where_it_has_both_modes():
    def total(x, train):
        return jnp.sum(jnp.sin(Attention().apply(params, x, train)))

    with jax.enable_x64(True):
        x, direction = jax.random.normal(jax.random.key(1), (2, 2, 16, 16, 8), jnp.float64)
        shapes = jax.eval_shape(lambda x: Attention().init(jax.random.key(0), x, False), x)
        params = jax.tree.map(
            lambda leaf: np.sin(np.arange(float(leaf.size))).reshape(leaf.shape), shapes
        )

        @jax.jit
        def derivatives(x, direction):
            _, along = jax.jvp(lambda x: total(x, False), (x,), (direction,))
            return *(jax.grad(total)(x, train) for train in (False, True)), along

        outside, in_training, along = map(np.asarray, derivatives(x, direction))
        np.testing.assert_allclose(in_training, outside, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(along, np.vdot(outside, direction), rtol=1e-9)
