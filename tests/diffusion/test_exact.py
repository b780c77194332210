"""Each oracle against its definition by quadrature, in one dimension."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm.diffusion import noise, samplers
from vdm.diffusion.exact import FiniteData, GaussianData, MixtureData

WEIGHTS, MEANS, STDS = [0.2, 0.5, 0.3], [[-0.6], [0.1], [0.9]], [0.05, 0.2, 0.1]
Z = np.linspace(-2.0, 2.0, 9)


def quadrature_moments(density, omega):
    """log q(z) and E[x | z] at the points Z, by the trapezoid rule over x."""
    x = np.linspace(-4, 4, 200_001)
    a, s = np.sqrt(1 / (1 + np.exp(omega))), np.sqrt(1 / (1 + np.exp(-omega)))
    joint = density(x) * np.exp(-0.5 * ((Z[:, None] - a * x) / s) ** 2) / s / np.sqrt(2 * np.pi)
    q = np.trapezoid(joint, x)
    return np.log(q), np.trapezoid(joint * x, x) / q


def mixture_density(x):
    return sum(
        w * np.exp(-0.5 * ((x - m[0]) / s) ** 2) / s / np.sqrt(2 * np.pi)
        for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True)
    )


@pytest.mark.parametrize("omega", [-5.0, -1.0, 0.5, 4.0])
@pytest.mark.equation("S4 30", "vdm.diffusion.exact:MixtureData.log_prob")
@pytest.mark.equation("S4 37", "vdm.diffusion.exact:MixtureData.log_prob")
@pytest.mark.equation("S1 1.120", "vdm.diffusion.exact:MixtureData.x_hat")
def test_mixture_equals_quadrature(omega):
    with jax.enable_x64(True):
        data = MixtureData(*(jnp.asarray(v) for v in (WEIGHTS, MEANS, STDS)))
        log_q, x_hat = quadrature_moments(mixture_density, omega)
        z, w = jnp.asarray(Z)[:, None], jnp.float64(omega)
        np.testing.assert_allclose(data.log_prob(z, w), log_q, rtol=1e-9)
        np.testing.assert_allclose(data.x_hat(z, w)[:, 0], x_hat, rtol=1e-8)
        eps_hat = (z - noise.alpha(w) * data.x_hat(z, w)) / noise.sigma(w)
        np.testing.assert_allclose(data.eps_hat(z, w), eps_hat, rtol=1e-8)


@pytest.mark.equation("S1 1.123", "vdm.diffusion.exact:MixtureData.score")
def test_mixture_score_is_the_gradient_of_its_log_prob():
    with jax.enable_x64(True):
        data = MixtureData(*(jnp.asarray(v) for v in (WEIGHTS, MEANS, STDS)))
        z = jnp.asarray(Z)[:, None]
        omega = jnp.linspace(-3.0, 3.0, len(Z))
        gradient = jax.grad(lambda z: jnp.sum(data.log_prob(z, omega)))(z)
        np.testing.assert_allclose(data.score(z, omega), gradient, rtol=1e-9)


@pytest.mark.parametrize("std", [0.1, 1.0, 3.0])
def test_gaussian_is_the_mixture_of_one(std):
    with jax.enable_x64(True):
        one = MixtureData(jnp.ones(1), jnp.zeros((1, 2)), jnp.full(1, std))
        z = jax.random.normal(jax.random.key(0), (6, 2), jnp.float64)
        omega = jnp.linspace(-6.0, 5.0, 6)
        data = GaussianData(std)
        np.testing.assert_allclose(data.eps_hat(z, omega), one.eps_hat(z, omega), rtol=1e-10)
        far = jnp.float64(-80.0)
        np.testing.assert_allclose(data.negative_log_prob(z), -one.log_prob(z, far), rtol=1e-10)


def test_gaussian_share_is_the_remaining_variance():
    # E (eps - eps_hat)^2 over x = +-s, eps = +-1 (exact for a linear denoiser).
    data, omega = GaussianData(0.4), jnp.linspace(-6.0, 4.0, 5)
    error = 0.0
    for x in (0.4, -0.4):
        for eps in (1.0, -1.0):
            z = noise.diffuse(jnp.full((5, 1), x), jnp.full((5, 1), eps), omega)
            error += jnp.square(eps - data.eps_hat(z, omega))[:, 0] / 4
    np.testing.assert_allclose(error, data.share(omega), rtol=1e-4)


@pytest.mark.parametrize("omega", [-4.0, 0.0, 3.0])
def test_finite_data_is_bayes_rule(omega):
    points, weights = np.array([-0.7, 0.0, 0.4]), np.array([0.5, 0.2, 0.3])
    a, s = np.sqrt(1 / (1 + np.exp(omega))), np.sqrt(1 / (1 + np.exp(-omega)))
    joint = weights * np.exp(-0.5 * ((Z[:, None] - a * points) / s) ** 2)
    want = joint @ points / joint.sum(-1)
    data = FiniteData(jnp.asarray(points)[:, None], jnp.asarray(weights))
    z = jnp.asarray(Z)[:, None]
    np.testing.assert_allclose(data.x_hat(z, jnp.asarray(omega))[:, 0], want, rtol=2e-4, atol=1e-6)
    assert data.entropy() == pytest.approx(-(weights * np.log(weights)).sum(), rel=1e-6)


@pytest.mark.parametrize("omega", [-5.0, -1.0, 2.0])
def test_eps_variance_of_a_mixture_equals_quadrature(omega):
    # Var(eps | z) = (alpha / sigma)^2 Var(x | z) in one dimension
    with jax.enable_x64(True):
        data = MixtureData(*(jnp.asarray(v) for v in (WEIGHTS, MEANS, STDS)))
        _, first = quadrature_moments(mixture_density, omega)
        x = np.linspace(-4, 4, 200_001)
        a, s = np.sqrt(1 / (1 + np.exp(omega))), np.sqrt(1 / (1 + np.exp(-omega)))
        joint = mixture_density(x) * np.exp(-0.5 * ((Z[:, None] - a * x) / s) ** 2)
        error = (x - first[:, None]) ** 2
        want = (a / s) ** 2 * np.trapezoid(joint * error, x) / np.trapezoid(joint, x)
        got = data.eps_variance(jnp.asarray(Z)[:, None], jnp.float64(omega))
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
        slopes = jax.vmap(jax.jacfwd(lambda z: data.eps_hat(z[None], omega)[0]))(z)
        want = 2 - noise.sigma(omega) * jnp.trace(slopes, axis1=1, axis2=2)
        np.testing.assert_allclose(data.eps_variance(z, omega), want, rtol=1e-9)


@pytest.mark.parametrize("std", [0.3, 2.0])
def test_gaussian_variance_of_steps_is_that_of_the_ancestral_sampler(std):
    # A step is linear in (z_t, noise), so variances propagate exactly.
    with jax.enable_x64(True):
        data, omegas = GaussianData(std), jnp.array([-7.0, -3.0, -2.5, 0.0, 4.0])
        z_1, noise = jnp.ones((1, 1)), jnp.zeros((5, 1, 1))

        def z_0(z_1, noise):
            ancestral = samplers.ancestral()
            return samplers.run_chain(z_1, lambda i: noise[i], omegas, data.eps_hat, ancestral).z_0

        by_z, by_noise = jax.grad(lambda *a: z_0(*a)[0, 0], (0, 1))(z_1, noise)
        variance = jnp.sum(by_z**2) + jnp.sum(by_noise**2)
        np.testing.assert_allclose(data.variance_of_steps(omegas), variance, rtol=1e-12)
