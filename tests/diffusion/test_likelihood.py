import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from vdm.diffusion import likelihood, noise
from vdm.diffusion.exact import FiniteData
from vdm.diffusion.likelihood import Discretised, Gaussian, codes_to_x, x_to_codes

log_prob_of_codes = jax.jit(likelihood.discretised_log_prob, static_argnums=3)


def brute_force(codes, noise_, omega_0, num_codes):
    """log p(code | z_0) by the definition, in float64 numpy, over all codes."""
    x = (2 * np.arange(num_codes) + 1) / num_codes - 1
    z = x[codes] + np.exp(omega_0 / 2) * noise_
    logits = -0.5 * (z[..., None] - x) ** 2 * np.exp(-omega_0)
    logits -= logits.max(-1, keepdims=True)
    return np.take_along_axis(
        logits - np.log(np.exp(logits).sum(-1, keepdims=True)), codes[..., None], -1
    )[..., 0]


@pytest.mark.parametrize("num_codes", [2, 3, 17, 100, 256, 257])
def test_codes_round_trip_through_x(num_codes):
    codes = jnp.arange(num_codes)
    x = codes_to_x(codes, num_codes)
    np.testing.assert_array_equal(x_to_codes(x, num_codes), codes)
    np.testing.assert_allclose(x, (2 * np.arange(num_codes) + 1) / num_codes - 1, atol=1e-7)
    np.testing.assert_array_equal(x, -x[::-1])


# V = 256: the window is exact at -13.3 (6 standard deviations between codes) and down to
# 0.7 (omega_0 = -8.99); at -8 and 0 all codes are needed.
@pytest.mark.parametrize("num_codes", [2, 17, 18, 256])
@pytest.mark.parametrize("omega_0", [-13.3, -9.1, -8.9, -8.0, -4.0, 0.0])
@pytest.mark.equation("S4 25", "vdm.diffusion.likelihood:discretised_log_prob")
def test_log_prob_equals_brute_force(num_codes, omega_0):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, num_codes, 4000)
    codes[:2] = 0, num_codes - 1
    noise_ = rng.normal(size=4000) * rng.choice([0.1, 1.0, 5.0], 4000)
    got = log_prob_of_codes(
        jnp.asarray(codes, jnp.int32), jnp.float32(noise_), jnp.float32(omega_0), num_codes
    )
    want = brute_force(codes, np.float32(noise_), np.float32(omega_0), num_codes)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


def spaced(spacing, num_codes=256):
    """omega_0 at which codes lie `spacing` standard deviations apart."""
    return np.float32(2 * np.log(2 / num_codes / spacing))


def log_prob_with(monkeypatch, window, exact_spacing, omega_0):
    monkeypatch.setattr(likelihood, "WINDOW", window)
    monkeypatch.setattr(likelihood, "EXACT_SPACING", exact_spacing)
    return log_prob_along_z(window, exact_spacing, omega_0)


@functools.partial(jax.jit, static_argnums=(0, 1))  # traced again for each pair of the constants
def log_prob_along_z(window, exact_spacing, omega_0):
    codes, noise_ = jnp.full((400,), 128), jnp.linspace(-4, 4, 400)
    return likelihood.discretised_log_prob(codes, noise_, omega_0, 256)


def test_window_is_exact_where_it_is_used_and_wrong_below(monkeypatch):
    threshold = likelihood.EXACT_SPACING
    for spacing, largest in [(threshold * 1.001, 1e-6), (1.0, 1e-6)]:
        window = log_prob_with(monkeypatch, likelihood.WINDOW, 0.0, spaced(spacing))
        every = log_prob_with(monkeypatch, 256, 0.0, spaced(spacing))
        assert np.abs(window - every).max() <= largest
        monkeypatch.undo()
    window = log_prob_with(monkeypatch, 17, 0.0, spaced(0.1))
    every = log_prob_with(monkeypatch, 256, 0.0, spaced(0.1))
    assert np.abs(window - every).max() > 0.01
    # a threshold of 0.5 would be too low
    window = log_prob_with(monkeypatch, 17, 0.0, spaced(0.5))
    every = log_prob_with(monkeypatch, 256, 0.0, spaced(0.5))
    assert np.abs(window - every).max() > 1e-6


@pytest.mark.parametrize(("spacing", "used"), [(0.71, True), (0.69, False)])
def test_window_is_used_above_its_spacing_only(spacing, used, monkeypatch):
    # A window of one code omits visible terms, so the result shows whether the window was used.
    narrow = log_prob_with(monkeypatch, 1, likelihood.EXACT_SPACING, spaced(spacing))
    every = log_prob_with(monkeypatch, 256, likelihood.EXACT_SPACING, spaced(spacing))
    assert (np.abs(narrow - every).max() > 0.1) == used


@jax.jit
def slopes(codes, noise_, omega_0):
    """Derivatives with respect to the noise and omega_0, which together determine z, as in
    training."""

    def total(noise_, omega_0):
        return jnp.sum(likelihood.discretised_log_prob(codes, noise_, omega_0, 256))

    return jax.grad(total, (0, 1))(noise_, omega_0)


@pytest.mark.parametrize("omega_0", [-13.3, -11.0, -8.5, -5.0])
def test_gradients_equal_differences_of_the_definition(omega_0):
    rng = np.random.default_rng(0)
    codes, noise_ = rng.integers(0, 256, 200), rng.normal(size=200)

    by_noise, by_omega = slopes(codes, np.float32(noise_), np.float32(omega_0))
    h = 1e-5
    up, down = (brute_force(codes, noise_ + s * h, omega_0, 256) for s in (1, -1))
    np.testing.assert_allclose(by_noise, (up - down) / (2 * h), rtol=1e-3, atol=1e-3)
    up, down = (brute_force(codes, noise_, omega_0 + s * h, 256).sum() for s in (1, -1))
    np.testing.assert_allclose(by_omega, (up - down) / (2 * h), rtol=1e-3, atol=1e-3)


def test_gradient_of_the_window_keeps_no_array_of_all_codes():
    codes, noise_ = jnp.zeros((7, 5), jnp.int32), jnp.zeros((7, 5))

    def total(noise_, omega_0):
        return jnp.sum(likelihood.discretised_log_prob(codes, noise_, omega_0, 256))

    _, pullback = jax.vjp(total, noise_, jnp.float32(-13.3))
    assert max(leaf.size for leaf in jax.tree.leaves(pullback)) <= 35


def test_small_unsigned_codes_do_not_wrap():
    args = jnp.array([0.3, -0.4]), jnp.float32(-8.0), 256
    got = log_prob_of_codes(jnp.array([200, 3], jnp.uint8), *args)
    want = log_prob_of_codes(jnp.array([200, 3], jnp.int32), *args)
    np.testing.assert_array_equal(got, want)


def test_expected_eps_is_bayes_rule_for_independent_codes():
    with jax.enable_x64(True):
        logits = 2 * jax.random.normal(jax.random.key(0), (6, 3, 5), jnp.float64)
        z = jax.random.normal(jax.random.key(1), (6, 3), jnp.float64)
        omega = jnp.linspace(-4.0, 3.0, 6)

        @jax.jit
        @functools.partial(jax.vmap, in_axes=(0, 0, None))  # over the dimensions of one example
        def by_bayes_rule(logits, z, omega):
            points = likelihood.codes_to_x(jnp.arange(5), 5).astype(jnp.float64)[:, None]
            return FiniteData(points, jax.nn.softmax(logits)).eps_hat(z[None, None], omega)[0, 0]

        got = jax.jit(likelihood.expected_eps)(logits, z, omega)
        want = [by_bayes_rule(*example) for example in zip(logits, z, omega, strict=True)]
        np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("num_codes", [2, 17, 256])
@pytest.mark.equation("S4 32", "vdm.diffusion.likelihood:Discretised.log_prob")
def test_probabilities_over_codes_sum_to_one(num_codes):
    model = Discretised(num_codes)
    omega_0 = jnp.float32(-2 * np.log(num_codes))  # codes 2 standard deviations apart
    codes = jnp.arange(num_codes)[:, None]
    for z_0 in (-1.3, 0.0, 0.31):
        log_prob = jax.jit(model.log_prob)(codes, np.full((num_codes, 1), z_0, np.float32), omega_0)
        np.testing.assert_allclose(np.exp(log_prob).sum(), 1, rtol=1e-5)


def test_log_prob_and_reconstruction_are_one_function():
    model = Discretised(17)
    codes = jax.random.randint(jax.random.key(0), (6, 4, 4, 1), 0, 17)
    eps_0 = jax.random.normal(jax.random.key(1), codes.shape)
    omega_0 = jnp.float32(-6.0)

    @jax.jit
    def both(codes, eps_0, omega_0):
        z_0 = noise.diffuse(model.encode(codes), eps_0, omega_0)
        return model.reconstruction(codes, eps_0, omega_0), -model.log_prob(codes, z_0, omega_0)

    np.testing.assert_allclose(*both(codes, eps_0, omega_0), rtol=1e-5)


def test_decode_is_the_argmax_over_codes():
    model, omega_0 = Discretised(17), jnp.float32(-3.0)
    z_0 = jnp.linspace(-1.4, 1.4, 57)[:, None]
    of_code = jax.jit(jax.vmap(lambda c: model.log_prob(jnp.full((57, 1), c), z_0, omega_0)))
    every = np.asarray(of_code(jnp.arange(17)))
    np.testing.assert_array_equal(model.decode(z_0, omega_0)[:, 0], np.argmax(every, axis=0))


def test_gaussian_log_prob_equals_scipy():
    x = np.random.default_rng(0).normal(size=(5, 3))
    eps_0 = np.random.default_rng(1).normal(size=(5, 3))
    z_0 = noise.diffuse(jnp.float32(x), jnp.float32(eps_0), jnp.float32(-4.0))
    want = scipy.stats.norm.logpdf(x, z_0 / noise.alpha(jnp.float32(-4.0)), np.exp(-2.0)).sum(-1)
    got = Gaussian().log_prob(jnp.float32(x), z_0, jnp.float32(-4.0))
    np.testing.assert_allclose(got, want, rtol=1e-4)
    np.testing.assert_allclose(
        -Gaussian().reconstruction(jnp.float32(x), jnp.float32(eps_0), jnp.float32(-4.0)),
        want,
        rtol=1e-4,
    )
