"""S4 section 1, probability: each rule where the library uses it, by quadrature or closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.closed_forms import gauss_hermite, gauss_legendre, gaussian_kl, log_normal
from vdm.diffusion import elbo, noise
from vdm.diffusion.consistency import last_step_prior, level_terms
from vdm.diffusion.exact import GaussianData, MixtureData
from vdm.diffusion.likelihood import Gaussian
from vdm.diffusion.schedule_algebra import density
from vdm.diffusion.timesteps import low_discrepancy

X, OMEGA_S, OMEGA_T = 0.7, -2.0, -0.5
GRID = np.linspace(-7.0, 7.0, 1401)
STEP = GRID[1] - GRID[0]


def mixture():
    weights, means, stds = [0.2, 0.5, 0.3], [[-0.6], [0.1], [0.9]], [0.3, 0.2, 0.4]
    return MixtureData(*(jnp.asarray(v) for v in (weights, means, stds)))


def joint_factors():
    """q(z_t|z_s), q(z_s|x), q(z_s|z_t, x), q(z_t|x) on the grid, z_s down and z_t across."""
    s, t = jnp.float64(OMEGA_S), jnp.float64(OMEGA_T)
    scale, variance = (float(v) for v in noise.transition(s, t))
    z_s, z_t = GRID[:, None], GRID[None, :]
    z = jnp.asarray(GRID)[:, None]
    mean, var = noise.posterior(z, (z - noise.alpha(t) * X) / noise.sigma(t), s, t)

    def marginal(z, omega):
        return np.exp(log_normal(z, float(noise.alpha(omega)) * X, float(noise.sigma(omega)) ** 2))

    return (
        np.exp(log_normal(z_t, scale * z_s, variance)),
        marginal(z_s, s),
        np.exp(log_normal(z_s, np.asarray(mean).T, np.asarray(var).T)),
        marginal(z_t, t),
    )


@pytest.mark.equation("S4 18", "vdm.diffusion.elbo:prior_matching")
def test_prior_matching_is_the_kl_of_gaussians_in_three_dimensions():
    x, omega = np.array([0.3, -0.9, 0.5]), jnp.float64(1.3)
    a, s = float(noise.alpha(omega)), float(noise.sigma(omega))
    want = gaussian_kl(a * x, s**2 * np.eye(3), np.zeros(3), np.eye(3))
    np.testing.assert_allclose(elbo.prior_matching(jnp.asarray(x)[None], omega)[0], want, rtol=1e-9)


@pytest.mark.equation("S4 19", "vdm.diffusion.consistency:level_terms")
def test_kl_of_equal_variances_is_the_distance_of_the_means():
    # of q(z_s|z_t, x) and p(z_s|z_t); the sigma of S4 19 is a variance
    x, xi, eps_s = jnp.array([[0.3, -0.9]]), jnp.array([[0.5, 1.1]]), jnp.array([[-0.2, 0.8]])
    omegas = tuple(jnp.float64(w) for w in (-3.0, OMEGA_S, OMEGA_T))
    data = GaussianData(0.6)
    terms, eps_t = level_terms(x, eps_s, xi, xi, omegas, data.eps_hat)
    z_t = noise.diffuse(x, eps_t, omegas[2])
    mean_q, variance = noise.posterior(z_t, eps_t, *omegas[1:])
    mean_p, _ = noise.posterior(z_t, data.eps_hat(z_t, omegas[2]), *omegas[1:])
    want = jnp.sum((mean_q - mean_p) ** 2) / (2 * variance)
    np.testing.assert_allclose(terms.denoising[0], want, rtol=1e-10)


@pytest.mark.equation("S4 34", "vdm.diffusion.elbo:prior_matching")
@pytest.mark.equation("S4 33", "vdm.diffusion.consistency:last_step_prior")
def test_kl_terms_are_their_integrals_and_are_not_symmetric():
    s, t = jnp.float64(OMEGA_S), jnp.float64(OMEGA_T)
    scale, variance = (float(v) for v in noise.transition(s, t))
    log_p = log_normal(GRID, 0.0, 1.0)
    cases = [
        (elbo.prior_matching(jnp.full((1, 1), X), t)[0], float(noise.alpha(t)) * X,
         float(noise.sigma(t)) ** 2),
        (last_step_prior(jnp.full((1, 1), 1.6), s, t)[0], scale * 1.6, variance),
    ]  # fmt: skip
    for got, mean, var in cases:
        log_q = log_normal(GRID, mean, var)
        np.testing.assert_allclose(got, np.sum(np.exp(log_q) * (log_q - log_p)) * STEP, rtol=1e-9)
        reverse = np.sum(np.exp(log_p) * (log_p - log_q)) * STEP
        assert abs(reverse / float(got) - 1) > 0.1


@pytest.mark.equation("S4 36", "vdm.diffusion.exact:MixtureData.log_prob")
def test_kl_to_a_mixture_is_at_most_the_mean_kl_to_its_components():
    omega = jnp.float64(-1.0)
    a, variance = float(noise.alpha(omega)), float(noise.sigma(omega)) ** 2
    log_p = log_normal(GRID, 0.2, 0.7)
    for same in (False, True):
        data = mixture()
        if same:  # without a condition the two are equal
            data = MixtureData(data.weights, jnp.full((3, 1), 0.4), jnp.full(3, 0.3))
        log_q = np.asarray(jax.jit(data.log_prob)(jnp.asarray(GRID)[:, None], omega))
        kl = np.sum(np.exp(log_p) * (log_p - log_q)) * STEP
        upper = sum(
            float(w) * gaussian_kl(np.array([0.2]), np.array([[0.7]]), a * np.asarray(m),
                                   np.array([[(a * float(s)) ** 2 + variance]]))
            for w, m, s in zip(data.weights, data.means, data.stds, strict=True)
        )  # fmt: skip
        if same:
            np.testing.assert_allclose(kl, upper, rtol=1e-9)
        else:
            assert kl < 0.9 * upper


@pytest.mark.equation("S4 7", "vdm.diffusion.likelihood:Gaussian.reconstruction")
def test_reconstruction_averages_over_z_0_as_over_its_noise():
    omega = jnp.float64(OMEGA_S)
    nodes, weights = gauss_hermite(4)
    x = jnp.full((4, 1), X)
    terms = Gaussian().reconstruction(x, jnp.asarray(nodes)[:, None], omega)
    over_noise = weights @ np.asarray(terms)
    z_0 = jnp.asarray(GRID)[:, None]
    q = np.exp(log_normal(GRID, float(noise.alpha(omega)) * X, float(noise.sigma(omega)) ** 2))
    log_prob = np.asarray(Gaussian().log_prob(jnp.full_like(z_0, X), z_0, omega))
    np.testing.assert_allclose(over_noise, -np.sum(q * log_prob) * STEP, rtol=1e-9)


def bent(t):
    return -6.0 + 9.0 * (0.3 * t + 0.7 * t**3)


@jax.jit
def ratio_at(t):
    """f(omega) / p(omega) at omega = bent(t), f = r(omega) / 2."""
    omega = bent(t)
    return 0.5 * GaussianData(0.5).share(omega) / density(bent, omega)


def integral():
    """The integral of f from -6 to 3."""
    return GaussianData(0.5).denoising_term(jnp.float64(-6.0), jnp.float64(3.0))


@pytest.mark.equation("S4 23", "vdm.diffusion.schedule_algebra:density")
def test_an_integral_is_the_mean_of_its_integrand_over_the_density():
    # over omega = bent(t), t ~ U(0, 1)
    nodes, weights = gauss_legendre(60)
    ratio = ratio_at(jnp.asarray(nodes))
    np.testing.assert_allclose(weights @ np.asarray(ratio), integral(), rtol=1e-8)


@pytest.mark.equation("S4 24", "vdm.diffusion.timesteps:low_discrepancy")
def test_an_integral_is_estimated_by_the_mean_of_ratios_at_drawn_times():
    # with one time in each 4096th of [0, 1), which leaves little variance
    t = low_discrepancy(jax.random.key(0), 4096).astype(jnp.float64)
    np.testing.assert_allclose(jnp.mean(ratio_at(t)), integral(), rtol=1e-3)


@pytest.mark.equation("S4 26", "vdm.diffusion.noise:transition")
@pytest.mark.equation("S4 27", "vdm.diffusion.noise:posterior")
@pytest.mark.equation("S4 28", "vdm.diffusion.noise:posterior")
@pytest.mark.equation("S4 29", "vdm.diffusion.noise:transition")
@pytest.mark.equation("S4 30", "vdm.diffusion.noise:posterior")
@pytest.mark.equation("S4 31", "vdm.diffusion.noise:transition")
@pytest.mark.equation("S4 32", "vdm.diffusion.noise:posterior")
@pytest.mark.equation("S4 78", "vdm.diffusion.noise:posterior")
@pytest.mark.equation("S4 83", "vdm.diffusion.noise:posterior")
def test_joint_of_two_latents_has_two_factorisations_and_both_marginals():
    forward, of_s, backward, of_t = joint_factors()
    joint = forward * of_s
    np.testing.assert_allclose(backward * of_t, joint, rtol=1e-7, atol=1e-13)
    np.testing.assert_allclose(joint.sum(axis=1) * STEP, of_s[:, 0], atol=1e-9)
    np.testing.assert_allclose(joint.sum(axis=0) * STEP, of_t[0], atol=1e-9)
    np.testing.assert_allclose(backward @ of_t[0] * STEP, of_s[:, 0], atol=1e-9)
    np.testing.assert_allclose(of_s[:, 0] @ forward * STEP, of_t[0], atol=1e-9)
    middle = slice(300, -300)  # conditions whose other variable stays on the grid
    np.testing.assert_allclose(joint.sum() * STEP**2, 1, rtol=1e-9)
    np.testing.assert_allclose(forward.sum(axis=1)[middle] * STEP, 1, rtol=1e-9)
    np.testing.assert_allclose(backward.sum(axis=0)[middle] * STEP, 1, rtol=1e-9)


@pytest.mark.equation("S4 13", "vdm.diffusion.exact:MixtureData.log_prob")
@pytest.mark.equation("S4 16", "vdm.diffusion.exact:MixtureData.log_prob")
@pytest.mark.equation("S4 73", "vdm.diffusion.exact:MixtureData.log_prob")
def test_a_step_shrinks_the_density_and_then_blurs_it():
    # q(z_t) from q(z_s): y = scale z_s has density q(y / scale) / scale; adding noise convolves
    s, t = jnp.float64(OMEGA_S), jnp.float64(OMEGA_T)
    scale, variance = (float(v) for v in noise.transition(s, t))
    log_prob = jax.jit(mixture().log_prob)
    shrunk = np.exp(np.asarray(log_prob(jnp.asarray(GRID / scale)[:, None], s))) / scale
    points = GRID[400:-400:50]
    kernel = np.exp(log_normal(points[:, None], GRID, variance))
    want = np.exp(np.asarray(log_prob(jnp.asarray(points)[:, None], t)))
    np.testing.assert_allclose(kernel @ shrunk * STEP, want, rtol=1e-9)


@pytest.mark.equation("S4 17", "vdm.diffusion.likelihood:Gaussian.log_prob")
def test_gaussian_density_in_three_dimensions():
    omega, x, z_0 = jnp.float64(0.4), np.array([0.3, -0.9, 0.5]), np.array([0.1, 0.2, -0.7])
    covariance = np.exp(0.4) * np.eye(3)
    shift = x - z_0 / float(noise.alpha(omega))
    want = np.exp(-0.5 * shift @ np.linalg.inv(covariance) @ shift)
    want /= np.sqrt((2 * np.pi) ** 3 * np.linalg.det(covariance))
    got = Gaussian().log_prob(jnp.asarray(x)[None], jnp.asarray(z_0)[None], omega)
    np.testing.assert_allclose(np.exp(got[0]), want, rtol=1e-10)
