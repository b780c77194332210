"""Each oracle against its definition by quadrature, in one dimension."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.closed_forms import alpha, log_normal, sigma, signs
from vdm.diffusion import noise, samplers
from vdm.diffusion.exact import FiniteData, GaussianData, MixtureData

WEIGHTS, MEANS, STDS = [0.2, 0.5, 0.3], [[-0.6], [0.1], [0.9]], [0.05, 0.2, 0.1]
Z = np.linspace(-2.0, 2.0, 9)


def quadrature_moments(density, omega):
    """log q(z) and E[x | z] at the points Z, by the trapezoid rule over x."""
    x = np.linspace(-4, 4, 200_001)
    joint = density(x) * np.exp(log_normal(Z[:, None], alpha(omega) * x, sigma(omega) ** 2))
    q = np.trapezoid(joint, x)
    return np.log(q), np.trapezoid(joint * x, x) / q


def mixture_density(x):
    return sum(
        w * np.exp(log_normal(x, m[0], s**2)) for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True)
    )


@functools.partial(jax.jit, static_argnums=0)
def of_mixture(quantity, z, omega):
    """A method of MixtureData by its name, for the mixture above."""
    data = MixtureData(*(jnp.asarray(v) for v in (WEIGHTS, MEANS, STDS)))
    return getattr(data, quantity)(z, omega)


@pytest.mark.parametrize("omega", [-5.0, -1.0, 0.5, 4.0])
@pytest.mark.equation("S4 30", "vdm.diffusion.exact:MixtureData.log_prob")
@pytest.mark.equation("S4 37", "vdm.diffusion.exact:MixtureData.log_prob")
@pytest.mark.equation("S1 1.120", "vdm.diffusion.exact:MixtureData.x_hat")
def test_mixture_equals_quadrature(omega):
    with jax.enable_x64(True):
        log_q, want = quadrature_moments(mixture_density, omega)
        z = Z[:, None]
        np.testing.assert_allclose(of_mixture("log_prob", z, omega), log_q, rtol=1e-9)
        x_hat = np.asarray(of_mixture("x_hat", z, omega))
        np.testing.assert_allclose(x_hat[:, 0], want, rtol=1e-8)
        eps_hat = (z - alpha(omega) * x_hat) / sigma(omega)
        np.testing.assert_allclose(of_mixture("eps_hat", z, omega), eps_hat, rtol=1e-8)


@pytest.mark.equation("S1 1.123", "vdm.diffusion.exact:MixtureData.score")
def test_mixture_score_is_the_gradient_of_its_log_prob():
    with jax.enable_x64(True):
        z, omega = Z[:, None], np.linspace(-3.0, 3.0, len(Z))
        slope = jax.jit(jax.grad(lambda z: jnp.sum(of_mixture("log_prob", z, omega))))
        np.testing.assert_allclose(of_mixture("score", z, omega), slope(z), rtol=1e-9)


@pytest.mark.parametrize("std", [0.1, 1.0, 3.0])
def test_gaussian_is_the_mixture_of_one(std):
    @jax.jit
    def both(z, omega, far):
        one = MixtureData(jnp.ones(1), jnp.zeros((1, 2)), jnp.full(1, std))
        data = GaussianData(std)
        return (
            (data.eps_hat(z, omega), one.eps_hat(z, omega)),
            (data.negative_log_prob(z), -one.log_prob(z, far)),
        )

    with jax.enable_x64(True):
        z, omega = np.random.default_rng(0).normal(size=(6, 2)), np.linspace(-6.0, 5.0, 6)
        for got, want in both(z, omega, -80.0):
            np.testing.assert_allclose(got, want, rtol=1e-10)


def test_gaussian_share_is_the_remaining_variance():
    # E (eps - eps_hat)^2 over x = +-s, eps = +-1 (exact for a linear denoiser).
    data, omega = GaussianData(0.4), jnp.linspace(-6.0, 4.0, 5)

    @jax.jit
    def mean_error_and_share(patterns, omega):
        def squared_error(pattern):
            x, eps = (jnp.broadcast_to(v, (5, 1)) for v in (0.4 * pattern[0], pattern[1]))
            return jnp.square(eps - data.eps_hat(noise.diffuse(x, eps, omega), omega))[:, 0]

        return jnp.mean(jax.vmap(squared_error)(patterns), axis=0), data.share(omega)

    np.testing.assert_allclose(*mean_error_and_share(signs(2), omega), rtol=1e-4)


@pytest.mark.parametrize("omega", [-4.0, 0.0, 3.0])
def test_finite_data_is_bayes_rule(omega):
    points, weights = np.array([-0.7, 0.0, 0.4]), np.array([0.5, 0.2, 0.3])
    joint = weights * np.exp(log_normal(Z[:, None], alpha(omega) * points, sigma(omega) ** 2))
    want = joint @ points / joint.sum(-1)
    data = FiniteData(jnp.asarray(points)[:, None], jnp.asarray(weights))
    x_hat = np.asarray(jax.jit(data.x_hat)(jnp.asarray(Z)[:, None], jnp.asarray(omega)))
    np.testing.assert_allclose(x_hat[:, 0], want, rtol=2e-4, atol=1e-6)
    assert data.entropy() == pytest.approx(-(weights * np.log(weights)).sum(), rel=1e-6)


@pytest.mark.parametrize("omega", [-5.0, -1.0, 2.0])
def test_eps_variance_of_a_mixture_equals_quadrature(omega):
    # Var(eps | z) = (alpha / sigma)^2 Var(x | z) in one dimension
    with jax.enable_x64(True):
        _, first = quadrature_moments(mixture_density, omega)
        x = np.linspace(-4, 4, 200_001)
        a, s = alpha(omega), sigma(omega)
        joint = mixture_density(x) * np.exp(log_normal(Z[:, None], a * x, s**2))
        error = (x - first[:, None]) ** 2
        want = (a / s) ** 2 * np.trapezoid(joint * error, x) / np.trapezoid(joint, x)
        got = of_mixture("eps_variance", Z[:, None], omega)
        np.testing.assert_allclose(got, want, rtol=1e-7)


@pytest.mark.parametrize("data_kind", ["finite", "mixture"])
def test_eps_variance_is_the_trace_of_the_derivative_of_eps_hat(data_kind):
    # Tweedie's second order: Cov(eps | z) = I - sigma d eps_hat / dz; in two dimensions.
    points = jnp.array([[-0.7, 0.3], [0.0, 0.1], [0.4, -0.5]])
    weights = jnp.array([0.5, 0.2, 0.3])
    with jax.enable_x64(True):
        points, weights = points.astype(jnp.float64), weights.astype(jnp.float64)
        data = FiniteData(points, weights)
        if data_kind == "mixture":
            data = MixtureData(weights, points, jnp.array([0.1, 0.2, 0.3]))
        z, omega = jax.random.normal(jax.random.key(0), (5, 2), jnp.float64), jnp.float64(-1.0)

        @jax.jit
        def both(z):
            slopes = jax.vmap(jax.jacfwd(lambda z: data.eps_hat(z[None], omega)[0]))(z)
            want = 2 - noise.sigma(omega) * jnp.trace(slopes, axis1=1, axis2=2)
            return data.eps_variance(z, omega), want

        np.testing.assert_allclose(*both(z), rtol=1e-9)


@pytest.mark.parametrize("std", [0.3, 2.0])
def test_gaussian_variance_of_steps_is_that_of_the_ancestral_sampler(std):
    # A step is linear in (z_t, noise), so variances propagate exactly.
    with jax.enable_x64(True):
        data, omegas = GaussianData(std), jnp.array([-7.0, -3.0, -2.5, 0.0, 4.0])
        z_1, noise = jnp.ones((1, 1)), jnp.zeros((5, 1, 1))

        def z_0(z_1, noise):
            ancestral = samplers.ancestral()
            return samplers.run_chain(z_1, lambda i: noise[i], omegas, data.eps_hat, ancestral).z_0

        @jax.jit
        def both(z_1, noise):
            by_z, by_noise = jax.grad(lambda *a: z_0(*a)[0, 0], (0, 1))(z_1, noise)
            return data.variance_of_steps(omegas), jnp.sum(by_z**2) + jnp.sum(by_noise**2)

        np.testing.assert_allclose(*both(z_1, noise), rtol=1e-12)
