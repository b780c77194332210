"""The head of normals against the table of its logits, formed by the definition in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm.diffusion.code_heads import TABLE, Normals
from vdm.diffusion.codes import mean_eps
from vdm.diffusion.kernels import MIXTURE, Guess, Step
from vdm.diffusion.likelihood import codes_to_x
from vdm.diffusion.noise import diffuse

OMEGAS = np.array([-13.3, -11.0, -8.0, -4.0, 0.0, 5.0])


def inputs(num_codes, scale):
    """Outputs, latents of random codes, one noise level for each example, and weights of eps."""
    keys = jax.random.split(jax.random.key(num_codes), 4)
    shape = len(OMEGAS), 40
    x = codes_to_x(jax.random.randint(keys[0], shape, 0, num_codes), num_codes)
    omega = jnp.asarray(OMEGAS, jnp.float32)
    z = diffuse(x, jax.random.normal(keys[1], shape), omega)
    sizes = jnp.repeat(jnp.array([scale, min(scale, 3.0), scale]), 4).reshape(1, 1, 12)
    outputs = sizes * jax.random.normal(keys[2], (*shape, 12))
    return outputs, z, omega, jax.random.normal(keys[3], shape)


def logits_of(head, outputs, z, omega):
    """The log of the mixture at each code, by the definition."""
    log_weight, mean, log_scale = (a[..., None, :] for a in head.parameters(outputs, z, omega))
    x = codes_to_x(jnp.arange(head.num_codes), head.num_codes).reshape(1, 1, -1, 1)
    squared = jnp.square((x - mean) / jnp.exp(log_scale))
    return jax.nn.logsumexp(log_weight - log_scale - 0.5 * squared, axis=-1)


def with_gradient(eps_hat, outputs, z, omega, weights):
    """eps_hat, and the gradient of its weighted sum with respect to outputs, z and omega."""
    gradient = jax.grad(lambda *at: jnp.sum(weights * eps_hat(*at)), (0, 1, 2))
    return jax.jit(eps_hat)(outputs, z, omega), *jax.jit(gradient)(outputs, z, omega)


@pytest.mark.parametrize("scale", [1.0, 20.0])  # 20: scales at their bounds, means outside [-1, 1]
@pytest.mark.parametrize("num_codes", [2, 17, 256])
def test_values_and_gradients_are_those_of_the_table(num_codes, scale):
    head = Normals(num_codes)
    single = inputs(num_codes, scale)

    def by_table(outputs, z, omega):
        return TABLE.eps_hat(logits_of(head, outputs, z, omega), z, omega)

    got_32 = with_gradient(head.eps_hat, *single)
    with jax.enable_x64(True):
        double = [jnp.asarray(np.float64(array)) for array in single]
        want = with_gradient(by_table, *double)
        got = with_gradient(head.eps_hat, *double)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8 * np.abs(b).max())
    # At -13.3 rounding alpha x moves a code by 2e-5 standard deviations of the noise.
    atol = np.where(OMEGAS < -10, 3e-4, 2e-5 if scale == 1 else 2e-4)[:, None]
    assert np.all(np.abs(got_32[0] - want[0]) < atol)
    # Rounding the distance of a far component counts (x - mu) / s^2 times in its gradient.
    for a, b in zip(got_32[1:], want[1:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max())


@pytest.mark.parametrize("num_codes", [2, 17, 256])
def test_probabilities_sum_to_one_and_have_the_mean(num_codes):
    head = Normals(num_codes)
    outputs, z, omega, _ = inputs(num_codes, 3.0)
    log_probs = head.log_probs(outputs, z, omega)
    assert log_probs.shape == (*z.shape, num_codes)
    np.testing.assert_allclose(jnp.sum(jnp.exp(log_probs), axis=-1), 1.0, rtol=1e-5)
    want = head.eps_hat(outputs, z, omega)
    np.testing.assert_allclose(mean_eps(log_probs, z, omega), want, atol=1e-4)
    expected = TABLE.log_probs(logits_of(head, outputs, z, omega), z, omega)
    np.testing.assert_allclose(jnp.exp(log_probs), jnp.exp(expected), atol=1e-4)


@pytest.mark.parametrize("mean", [-1e5, 1e5])
@pytest.mark.parametrize("raw_scale", [-1e3, 1e3])
def test_outputs_beyond_all_bounds_give_finite_numbers(mean, raw_scale):
    head = Normals(256)
    _, z, omega, weights = inputs(256, 1.0)
    outputs = jnp.concatenate(
        [jnp.full((*z.shape, 4), value) for value in (0.0, mean, raw_scale)], axis=-1
    )
    for array in with_gradient(head.eps_hat, outputs, z, omega, weights):
        assert np.all(np.isfinite(array))
    log_probs = head.log_probs(outputs, z, omega)
    if raw_scale < 0:  # so narrow that they outweigh z: all of it is at the border
        border = 0 if mean < 0 else 255
        np.testing.assert_allclose(log_probs[..., border], 0.0, atol=1e-6)


def test_outputs_of_zero_cover_all_codes():
    z, omega = jnp.zeros((1, 1)), jnp.full(1, 20.0)
    log_probs = Normals(256).log_probs(jnp.zeros((1, 1, 12)), z, omega)
    assert float(log_probs.max() - log_probs.min()) < np.log(2)


def test_gradient_keeps_no_array_of_all_codes():
    outputs, z, omega, _ = inputs(256, 1.0)
    _, pullback = jax.vjp(Normals(256).eps_hat, outputs, z, omega)
    assert max(leaf.size for leaf in jax.tree.leaves(pullback)) <= outputs.size


@pytest.mark.parametrize("step", [1e-3, 0.1, 1.0, 8.0, 18.0])
@pytest.mark.parametrize("num_codes", [2, 17, 256])
def test_mixture_kernel_and_decoder_need_no_table(num_codes, step):
    head = Normals(num_codes)
    outputs, z, omega, u = inputs(num_codes, 2.0)
    codes = jax.random.randint(jax.random.key(7), z.shape, 0, num_codes)

    def costs(outputs, eps, omega, u, of_sums):
        x = codes_to_x(codes, num_codes)
        sums = head.at(outputs, diffuse(x, eps, omega), omega)
        said = Guess(sums.eps_hat(), sums.log_probs(), sums if of_sums else None)
        nats = MIXTURE.divergence(said, Step(x, eps, jnp.maximum(omega - step, -14.0), omega), u)
        return nats, said.log_prob_of(codes)

    def with_gradient(arguments, of_sums):
        def total(*arguments):
            nats, decoder = costs(*arguments, of_sums)
            return jnp.sum(nats) / (1 + step) + jnp.sum(decoder), nats

        (_, nats), gradient = jax.jit(jax.value_and_grad(total, (0, 2), has_aux=True))(*arguments)
        return nats, *gradient

    single = outputs, jax.random.normal(jax.random.key(8), z.shape), omega, u
    got_32 = with_gradient(single, True)
    with jax.enable_x64(True):
        double = [jnp.asarray(np.float64(array)) for array in single]
        got, want = with_gradient(double, True), with_gradient(double, False)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-10 * np.abs(b).max())
    np.testing.assert_allclose(
        got_32[0], want[0], rtol=1e-3, atol=2e-6 * np.abs(want[0]).max() + 1e-6
    )


def test_no_components_are_refused():
    with pytest.raises(ValueError, match="components = 0: it must be an integer of at least 1"):
        Normals(256, components=0)
