"""S4 sections 2 and 3.3.1: mixtures, chains, ancestral sampling and what a bound leaves out.

The chain has three steps and the model is linear and Gaussian, so that all its joint and
conditional densities are known from covariance matrices.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.closed_forms import gaussian_kl, log_normal
from vdm.diffusion import noise, samplers
from vdm.diffusion.consistency import path_terms
from vdm.diffusion.exact import GaussianData, MixtureData
from vdm.diffusion.likelihood import Gaussian

BAR = np.cumprod([0.9, 0.8, 0.6, 0.3])
OMEGAS = np.log(1 - BAR) - np.log(BAR)
X, DATA = 0.7, GaussianData(0.6)


def log_joint_normal(value, mean, covariance):
    shift = np.asarray(value) - mean
    log_det = np.linalg.slogdet(2 * np.pi * covariance)[1]
    return -0.5 * (log_det + shift @ np.linalg.solve(covariance, shift))


def given(covariance, of, known):
    """Coefficients and covariance of the coordinates `of` given those `known`, all of mean 0."""
    gain = np.linalg.solve(covariance[np.ix_(known, known)], covariance[np.ix_(known, of)]).T
    return gain, covariance[np.ix_(of, of)] - gain @ covariance[np.ix_(known, of)]


@pytest.fixture(scope="module")
def sampled_covariance():
    """The covariance of z_0 .. z_3 that the sampler makes from unit vectors of its four noises."""
    with jax.enable_x64(True):
        eye = jnp.eye(4)  # noise of z_0, z_1, z_2 (steps 1, 2, 3) and z_3 itself
        chain = samplers.run_chain(
            eye[:, 3:], lambda i: jax.lax.dynamic_slice(eye, (0, i - 1), (4, 1)),
            jnp.asarray(OMEGAS), DATA.eps_hat, samplers.ancestral(), num_frames=3,
        )  # fmt: skip
        rows = np.concatenate([np.asarray(chain.frames)[::-1, :, 0], [[0, 0, 0, 1]]])
        return rows @ rows.T


@pytest.fixture(scope="module")
def model_covariance(sampled_covariance):
    """The covariance of x, z_0 .. z_3 in the model, p(x|z_0) = N(z_0 / alpha_0, exp(omega_0))."""
    decoded = np.concatenate([[[1 / np.sqrt(BAR[0]), 0, 0, 0]], np.eye(4)])
    covariance = decoded @ sampled_covariance @ decoded.T
    covariance[0, 0] += np.exp(OMEGAS[0])
    return covariance


def step_of_model(i):
    """Coefficient and variance of p(z_{i-1}|z_i)."""
    z, omegas = jnp.ones((1, 1)), jnp.asarray(OMEGAS)
    eps_hat = DATA.eps_hat(z, omegas[i])
    mean, variance = noise.posterior(z, eps_hat, omegas[i - 1], omegas[i])
    return float(mean[0, 0]), float(variance)


@pytest.mark.equation("S4 37", "vdm.diffusion.exact:MixtureData.log_prob")
@pytest.mark.equation("S4 38", "vdm.diffusion.exact:MixtureData")
@pytest.mark.equation("S4 39", "vdm.diffusion.exact:MixtureData")
def test_a_mixture_is_the_weighted_sum_of_its_components():
    weights, means, stds = np.array([0.2, 0.5, 0.3]), np.array([-0.6, 0.1, 0.9]), [0.3, 0.2, 0.4]
    x = np.linspace(-1.5, 1.5, 7)
    data = MixtureData(jnp.asarray(weights), jnp.asarray(means)[:, None], jnp.asarray(stds))
    densities = np.exp(log_normal(x[:, None], means, np.square(stds)))
    got = jax.jit(data.log_prob)(jnp.asarray(x)[:, None], jnp.float64(-jnp.inf))
    np.testing.assert_allclose(np.exp(got), densities @ weights, rtol=1e-10)
    for i in range(3):  # p(x, i) / p(x|i): the weight of i
        alone = MixtureData(jnp.eye(3)[i], data.means, data.stds)
        got = jax.jit(alone.log_prob)(jnp.asarray(x)[:, None], jnp.float64(-jnp.inf))
        np.testing.assert_allclose(np.exp(got), densities[:, i], rtol=1e-10)


@pytest.mark.equation("S4 40", "vdm.diffusion.noise:transition")
@pytest.mark.equation("S4 41", "vdm.diffusion.noise:posterior")
@pytest.mark.equation("S4 42", "vdm.diffusion.noise:posterior")
def test_three_latents_factorise_and_the_one_in_the_middle_separates_the_others():
    # q(z_0, z_1, z_2 | x) by covariances, z_j = alpha_j x + ..., Cov(z_i, z_j) = a_{j|i} sigma_i^2
    omegas = jnp.asarray(OMEGAS[:3])
    a, variance = np.asarray(noise.alpha(omegas)), np.asarray(noise.sigma(omegas)) ** 2
    covariance = np.array([[a[max(i, j)] / a[min(i, j)] * variance[min(i, j)] for j in range(3)]
                           for i in range(3)])  # fmt: skip
    value, z = np.array([0.9, -0.4, 0.2]), jnp.array([[[0.9]], [[-0.4]], [[0.2]]])
    joint = log_joint_normal(value, a * X, covariance)
    # q(z_0|z_1, x) q(z_1|z_2, x) q(z_2|x): p(x|y) p(y|z) p(z)
    total = log_normal(value[2], a[2] * X, variance[2])
    for s, t in ((1, 2), (0, 1)):
        eps = (z[t] - a[t] * X) / np.sqrt(variance[t])
        mean, var = (np.asarray(v).item() for v in noise.posterior(z[t], eps, omegas[s], omegas[t]))
        total += log_normal(value[s], mean, var)
    np.testing.assert_allclose(total, joint, rtol=1e-10)
    gain, _ = given(covariance, [0], [1, 2])  # q(z_0|z_1, z_2, x) = q(z_0|z_1, x)
    np.testing.assert_allclose(gain[0, 1], 0, atol=1e-12)
    # q(z_0|x) q(z_1|z_0) = q(z_0, z_1|x)
    scale, step = noise.transition(omegas[0], omegas[1])
    pair = log_normal(value[0], a[0] * X, variance[0])
    pair += log_normal(value[1], float(scale) * value[0], float(step))
    np.testing.assert_allclose(
        pair, log_joint_normal(value[:2], a[:2] * X, covariance[:2, :2]), rtol=1e-10
    )


@pytest.mark.equation("S4 43", "vdm.diffusion.samplers:ancestral")
@pytest.mark.equation("S4 62", "vdm.diffusion.samplers:run_chain")
@pytest.mark.equation("S4 104", "vdm.diffusion.samplers:run_chain")
def test_density_of_a_sampled_path_is_the_product_of_its_steps(sampled_covariance):
    path = np.array([0.9, -0.4, 0.2, 1.1])
    product = log_normal(path[3], 0.0, 1.0)
    for i in (3, 2, 1):
        gain, variance = step_of_model(i)
        product += log_normal(path[i - 1], gain * path[i], variance)
    np.testing.assert_allclose(
        log_joint_normal(path, np.zeros(4), sampled_covariance), product, rtol=1e-10
    )


@pytest.mark.equation("S4 60", "vdm.diffusion.samplers:ancestral")
@pytest.mark.equation("S4 64", "vdm.diffusion.samplers:run_chain")
def test_a_sampled_step_is_a_gaussian_that_depends_on_the_latent_before_it_alone(
    sampled_covariance, model_covariance
):
    for i in (3, 2, 1):
        gain, variance = given(sampled_covariance, [i - 1], list(range(i, 4)))
        want_gain, want_variance = step_of_model(i)
        np.testing.assert_allclose(gain[0], [want_gain] + [0] * (3 - i), atol=1e-12)
        np.testing.assert_allclose(variance[0, 0], want_variance, rtol=1e-10)
    gain, variance = given(model_covariance, [0], [1, 2, 3, 4])
    np.testing.assert_allclose(gain[0], [1 / np.sqrt(BAR[0]), 0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(variance[0, 0], np.exp(OMEGAS[0]), rtol=1e-10)


@pytest.mark.equation("S4 63", "vdm.diffusion.samplers:run_chain")
def test_joint_is_the_product_of_conditionals_given_all_higher_levels(model_covariance):
    path, product = np.array([X, 0.9, -0.4, 0.2, 1.1]), 0.0
    for i in range(5):  # x, z_0 .. z_3; no level is above z_3
        higher = list(range(i + 1, 5))
        gain, variance = given(model_covariance, [i], higher)
        product += log_joint_normal(path[[i]], gain @ path[higher], variance)
    joint = log_joint_normal(path, np.zeros(5), model_covariance)
    np.testing.assert_allclose(product, joint, rtol=1e-10)
    # and, the chain being Markovian, that of (62)
    markov = log_normal(X, path[1] / np.sqrt(BAR[0]), np.exp(OMEGAS[0]))
    markov += log_normal(path[4], 0.0, 1.0)
    for i in (3, 2, 1):
        gain, variance = step_of_model(i)
        markov += log_normal(path[i], gain * path[i + 1], variance)
    np.testing.assert_allclose(product, markov, rtol=1e-10)


@pytest.mark.equation("S4 57", "vdm.diffusion.exact:GaussianData.variance_of_steps")
@pytest.mark.equation("S4 58", "vdm.diffusion.exact:GaussianData.variance_of_steps")
@pytest.mark.equation("S4 59", "vdm.diffusion.exact:GaussianData.variance_of_steps")
def test_marginal_of_the_model_is_an_integral_over_all_latents_in_any_order():
    grid = np.linspace(-6.0, 6.0, 401)
    step = grid[1] - grid[0]
    kernels = []
    for i in (1, 2, 3):  # p(z_{i-1}|z_i), z_{i-1} down
        gain, variance = step_of_model(i)
        kernels.append(step * np.exp(log_normal(grid[:, None], gain * grid, variance)))
    a_0 = np.sqrt(BAR[0])
    decoder = step * np.exp(log_normal(grid[:, None], grid / a_0, np.exp(OMEGAS[0])))
    prior = np.exp(log_normal(grid, 0.0, 1.0))
    for steps in (1, 2, 3):
        upper = DATA.variance_of_steps(jnp.asarray(OMEGAS[: steps + 1]))
        want = np.exp(log_normal(grid, 0.0, float(upper) / a_0**2 + np.exp(OMEGAS[0])))
        basis, weight = decoder @ kernels[0], prior
        for kernel in kernels[1:steps][::-1]:
            weight = kernel @ weight
        np.testing.assert_allclose(basis @ weight, want, atol=1e-8)
        np.testing.assert_allclose(decoder @ (kernels[0] @ weight), want, atol=1e-8)


@pytest.mark.equation("S4 61", "vdm.diffusion.exact:GaussianData.variance_of_steps")
@pytest.mark.equation("S4 65", "vdm.diffusion.exact:GaussianData.variance_of_steps")
def test_marginal_of_the_model_is_its_joint_over_its_posterior(model_covariance):
    variance = DATA.variance_of_steps(jnp.asarray(OMEGAS)) / BAR[0] + np.exp(OMEGAS[0])
    np.testing.assert_allclose(model_covariance[0, 0], variance, rtol=1e-10)
    gain, posterior = given(model_covariance, [1, 2, 3, 4], [0])
    for z in ([0.9, -0.4, 0.2, 1.1], [0.0, 0.3, 0.3, -2.0]):
        joint = log_joint_normal([X, *z], np.zeros(5), model_covariance)
        log_p = joint - log_joint_normal(z, gain[:, 0] * X, posterior)
        np.testing.assert_allclose(log_p, log_normal(X, 0.0, float(variance)), rtol=1e-9)


@pytest.mark.equation("S4 66", "vdm.diffusion.consistency:path_terms")
@pytest.mark.equation("S4 67", "vdm.diffusion.consistency:path_terms")
@pytest.mark.equation("S4 68", "vdm.diffusion.consistency:path_terms")
@pytest.mark.equation("S4 69", "vdm.diffusion.consistency:path_terms")
@pytest.mark.equation("S4 111", "vdm.diffusion.consistency:path_terms")
@pytest.mark.equation("S4 112", "vdm.diffusion.consistency:path_terms")
def test_log_likelihood_is_the_bound_and_the_kl_to_the_posterior_of_the_model(model_covariance):
    # The bound by signs, exact for quadratic terms; the KL between Gaussians of four dimensions.
    signs = np.array(list(itertools.product([1.0, -1.0], repeat=4)))
    table, x = jnp.asarray(signs.T[..., None]), jnp.full((16, 1), X)
    terms = path_terms(x, lambda i: table[i], jnp.asarray(OMEGAS), DATA.eps_hat, Gaussian())
    bound = -float(jnp.mean(terms.denoising_bound))
    a, variance = np.sqrt(BAR), 1 - BAR
    later, earlier = np.maximum.outer(range(4), range(4)), np.minimum.outer(range(4), range(4))
    forward = a[later] / a[earlier] * variance[earlier]
    gain, posterior = given(model_covariance, [1, 2, 3, 4], [0])
    kl = gaussian_kl(a * X, forward, gain[:, 0] * X, posterior)
    log_p = log_normal(X, 0.0, model_covariance[0, 0])
    np.testing.assert_allclose(bound + kl, log_p, rtol=1e-9)
    assert bound < log_p - 0.01
