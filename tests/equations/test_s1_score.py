"""S1 (1.120) to (1.143) and S2 (77) to (99): Tweedie's formula and the score.

Tweedie's formula gives the conditional mean of x_0, not x_0 itself; the score of q(z_t|x) is known,
that of q(z_t) is its conditional mean. alpha_bar of the sources is alpha^2 here.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.closed_forms import gauss_hermite_grid
from vdm.diffusion import noise
from vdm.diffusion.exact import MixtureData
from vdm.diffusion.predictions import convert
from vdm.diffusion.score_matching import ncsn_score

WEIGHTS, MEANS, STDS = np.array([0.3, 0.7]), np.array([-0.6, 0.5]), np.array([0.2, 0.4])
NORMAL = MixtureData(jnp.ones(1), jnp.zeros((1, 1)), jnp.ones(1))


def mixture():
    means = jnp.asarray(np.stack([MEANS, [0.1, -0.3]], axis=1))  # in two dimensions
    return MixtureData(jnp.asarray(WEIGHTS), means, jnp.asarray(STDS))


@pytest.mark.equation("S1 1.121", "vdm.diffusion.score_matching:ncsn_score")
def test_tweedie_for_a_variance_that_is_known():
    # theta ~ the mixture, x ~ N(theta, r^2): both sides by quadrature over theta.
    r, x = 0.3, np.linspace(-1.5, 1.5, 7)
    theta = np.linspace(-4, 4, 40_001)
    density = (WEIGHTS / STDS * np.exp(-0.5 * ((theta[:, None] - MEANS) / STDS) ** 2)).sum(1)
    joint = density * np.exp(-0.5 * ((x[:, None] - theta) / r) ** 2)
    mean = np.trapezoid(joint * theta, theta) / np.trapezoid(joint, theta)
    slope = np.trapezoid(joint * (theta - x[:, None]) / r**2, theta) / np.trapezoid(joint, theta)
    data = MixtureData(*(jnp.asarray(v) for v in (WEIGHTS, MEANS[:, None], STDS)))
    score = np.asarray(jax.jit(ncsn_score(data.eps_hat))(x[:, None], r))[:, 0]
    np.testing.assert_allclose(score, slope, rtol=1e-8)
    np.testing.assert_allclose(x + r**2 * score, mean, rtol=1e-8)


@pytest.mark.parametrize("omega", [-4.0, 0.3, 3.0])
@pytest.mark.equation("S1 1.122", "vdm.diffusion.exact:MixtureData.score")
@pytest.mark.equation("S1 1.123", "vdm.diffusion.exact:MixtureData.score")
@pytest.mark.equation("S2 77", "vdm.diffusion.exact:MixtureData.score")
def test_tweedie_gives_the_conditional_mean_in_two_dimensions(omega):
    data, omega = mixture(), jnp.asarray(omega)

    @jax.jit
    def of_latents(z):
        gradient = jax.grad(lambda z: jnp.sum(data.log_prob(z, omega)))(z)
        return data.score(z, omega), gradient, data.x_hat(z, omega)

    z, bar = np.random.default_rng(0).normal(size=(6, 2)), 1 / (1 + np.exp(omega))
    score, gradient, x_hat = map(np.asarray, of_latents(z))
    np.testing.assert_allclose(score, gradient, rtol=1e-9)
    np.testing.assert_allclose(np.sqrt(bar) * x_hat, z + (1 - bar) * score, rtol=1e-8, atol=1e-12)


def joint_draws():
    """x_0 ~ N(0, 1) and eps by quadrature: z_t at SNR 1, its score, and the weights."""
    nodes, weights = gauss_hermite_grid(2, 8)
    x_0, eps = nodes.T

    @jax.jit
    def latent_and_score(x_0, eps):
        z = noise.diffuse(x_0, eps, jnp.asarray(0.0))
        return z, NORMAL.score(z, jnp.asarray(0.0))

    z, score = (np.asarray(v)[:, 0] for v in latent_and_score(x_0[:, None], eps[:, None]))
    return x_0, eps, z, score, weights


@pytest.mark.erratum("S2 78-79", "as S1 (1.124) and (1.125)", 0.25)
@pytest.mark.erratum(
    "S1 1.124-1.125", "x_0 itself stands where E[x_0|x_t] is meant: for x_0 ~ N(0, 1) at SNR 1 the "
    "two sides of (1.124) have this mean squared difference", 0.25
)  # fmt: skip
def test_tweedie_does_not_give_x_0(erratum_number):
    x_0, _, z, score, weights = joint_draws()
    difference = np.sqrt(0.5) * x_0 - (z + 0.5 * score)
    np.testing.assert_allclose(weights @ difference**2, erratum_number, rtol=1e-3)
    # Under E[. | z_t] it holds: the difference is orthogonal to every function of z_t.
    for power in range(4):
        np.testing.assert_allclose(weights @ (difference * z**power), 0, atol=1e-12)


@pytest.mark.erratum("S2 93-95", "as S1 (1.141) to (1.143)", 0.5)
@pytest.mark.erratum(
    "S1 1.141-1.143", "the score of q(x_t) is set equal to that of q(x_t|x_0): for x_0 ~ N(0, 1) "
    "at SNR 1 the mean square of √(1−ᾱ) ∇log q(x_t) + ε is this, not 0", 0.5
)  # fmt: skip
@pytest.mark.equation("S1 1.143", "vdm.diffusion.predictions:convert")
@pytest.mark.equation("S2 95", "vdm.diffusion.predictions:convert")
def test_noise_gives_the_conditional_score_alone(erratum_number):
    x_0, eps, z, score, weights = joint_draws()
    difference = np.sqrt(0.5) * score + eps
    np.testing.assert_allclose(weights @ difference**2, erratum_number, rtol=1e-3)
    for power in range(4):
        np.testing.assert_allclose(weights @ (difference * z**power), 0, atol=1e-12)
    # -eps / sigma is the gradient of log q(z_t|x_0).
    omega = jnp.asarray(0.0)
    got = convert(jnp.asarray(eps)[:, None], "eps", "score", jnp.asarray(z)[:, None], omega)
    np.testing.assert_allclose(got[:, 0], -(z - np.sqrt(0.5) * x_0) / 0.5, rtol=1e-9)


@pytest.mark.equation("S1 1.134", "vdm.diffusion.noise:posterior")
@pytest.mark.equation("S1 1.135", "vdm.diffusion.predictions:convert")
@pytest.mark.equation("S2 81", "vdm.diffusion.noise:posterior")
@pytest.mark.equation("S2 82", "vdm.diffusion.predictions:convert")
@pytest.mark.erratum(
    "S1 1.135", "(1.134) is copied with the sign and the factor 1/√(1−ᾱ_t) of the form in ε: the "
    "coefficient of s_θ is the right one, (1−α_t)/√α_t, times this at ᾱ_t = 0.72", -1.8898
)  # fmt: skip
def test_mean_of_the_model_from_the_score(erratum_number):
    a, bar = 0.8, 0.72
    omega_s, omega = (jnp.asarray(np.log(1 / b - 1)) for b in (0.9, bar))
    data, z = mixture(), np.random.default_rng(1).normal(size=(5, 2))

    @jax.jit
    def means(z):
        score, eps_hat = data.score(z, omega), data.eps_hat(z, omega)
        from_score = [
            convert(s, "score", "next_mean", z, omega, omega_s) for s in (score, score + 1)
        ]
        return score, noise.posterior(z, eps_hat, omega_s, omega)[0], *from_score

    score, mean, from_score, from_more = map(np.asarray, means(z))
    right = (z + (1 - a) * score) / np.sqrt(a)
    # The conditional mean of the posterior's mean is the posterior's with E[eps|z_t].
    np.testing.assert_allclose(mean, right, rtol=1e-10)
    np.testing.assert_allclose(from_score, right, rtol=1e-10)
    coefficient = from_more - from_score
    printed = -(1 - a) / (np.sqrt(1 - bar) * np.sqrt(a))
    np.testing.assert_allclose(printed / coefficient, erratum_number, rtol=3e-5)


@pytest.mark.equation("S2 99", "vdm.diffusion.exact:MixtureData.score")
def test_score_knows_no_normaliser():
    # p = exp(-f) / Z with f = -log(5 p): the energy's gradient is minus the score of p.
    data, omega = mixture(), jnp.asarray(-2.0)
    unnormalised = MixtureData(5 * data.weights, data.means, data.stds)

    @jax.jit
    def of_latents(z):
        energy = jax.value_and_grad(lambda z: -jnp.sum(unnormalised.log_prob(z, omega)))(z)
        return *energy, jnp.sum(data.log_prob(z, omega)), data.score(z, omega)

    energy, slope, log_prob, score = of_latents(np.random.default_rng(2).normal(size=(4, 2)))
    np.testing.assert_allclose(energy, -log_prob - 4 * np.log(5), rtol=1e-10)
    np.testing.assert_allclose(score, -slope, rtol=1e-9)
