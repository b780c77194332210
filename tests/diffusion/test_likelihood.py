import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from vdm.diffusion import likelihood, noise
from vdm.diffusion.likelihood import Discretised, Gaussian, codes_to_x, x_to_codes


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
def test_log_prob_equals_brute_force(num_codes, omega_0):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, num_codes, 4000)
    codes[:2] = 0, num_codes - 1
    noise_ = rng.normal(size=4000) * rng.choice([0.1, 1.0, 5.0], 4000)
    got = likelihood.discretised_log_prob(
        jnp.asarray(codes, jnp.int32), jnp.float32(noise_), jnp.float32(omega_0), num_codes
    )
    want = brute_force(codes, np.float32(noise_), np.float32(omega_0), num_codes)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


def test_window_alone_would_be_wrong_below_its_spacing(monkeypatch):
    # The fallback is needed: force the window where codes lie 0.4 standard deviations apart.
    codes, noise_ = jnp.full((100,), 128), jnp.linspace(-2, 2, 100)
    omega_0 = jnp.float32(2 * np.log(2 / 256 / 0.1))
    args = (codes, noise_, omega_0, 256)
    exact = likelihood.discretised_log_prob(*args)
    monkeypatch.setattr(likelihood, "EXACT_SPACING", 0.0)
    assert np.abs(likelihood.discretised_log_prob(*args) - exact).max() > 0.01


@pytest.mark.parametrize("omega_0", [-11.0, -5.0])
def test_gradients_of_the_window_equal_those_of_all_codes(omega_0, monkeypatch):
    codes = jax.random.randint(jax.random.key(0), (500,), 0, 256)
    noise_ = jax.random.normal(jax.random.key(1), (500,))

    def total(noise_, omega_0):
        return jnp.sum(likelihood.discretised_log_prob(codes, noise_, omega_0, 256))

    got = jax.grad(total, (0, 1))(noise_, jnp.float32(omega_0))
    monkeypatch.setattr(likelihood, "WINDOW", 256)
    want = jax.grad(total, (0, 1))(noise_, jnp.float32(omega_0))
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_codes", [2, 17, 256])
def test_probabilities_over_codes_sum_to_one(num_codes):
    model = Discretised(num_codes)
    omega_0 = jnp.float32(-2 * np.log(num_codes))  # codes 2 standard deviations apart
    codes = jnp.arange(num_codes)[:, None]
    for z_0 in (-1.3, 0.0, 0.31):
        log_prob = model.log_prob(codes, jnp.full((num_codes, 1), z_0), omega_0)
        np.testing.assert_allclose(jnp.exp(log_prob).sum(), 1, rtol=1e-5)


def test_log_prob_and_reconstruction_are_one_function():
    model = Discretised(17)
    codes = jax.random.randint(jax.random.key(0), (6, 4, 4, 1), 0, 17)
    eps_0 = jax.random.normal(jax.random.key(1), codes.shape)
    omega_0 = jnp.float32(-6.0)
    z_0 = noise.diffuse(model.encode(codes), eps_0, omega_0)
    np.testing.assert_allclose(
        model.reconstruction(codes, eps_0, omega_0),
        -model.log_prob(codes, z_0, omega_0),
        rtol=1e-5,
    )


def test_decode_is_the_argmax_over_codes():
    model, omega_0 = Discretised(17), jnp.float32(-3.0)
    z_0 = jnp.linspace(-1.4, 1.4, 57)[:, None]
    every = jnp.stack([model.log_prob(jnp.full((57, 1), c), z_0, omega_0) for c in range(17)])
    np.testing.assert_array_equal(model.decode(z_0, omega_0)[:, 0], jnp.argmax(every, axis=0))


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
