"""Score matching against the bound, in closed form: sign patterns and quadrature, no sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.closed_forms import gauss_hermite, signs
from vdm.diffusion import noise
from vdm.diffusion.elbo import Draws, estimate_elbo, loss_density, noise_levels
from vdm.diffusion.exact import GaussianData, MixtureData
from vdm.diffusion.likelihood import Gaussian
from vdm.diffusion.score_matching import (
    denoising_score_matching,
    explicit_score_matching,
    ncsn_denoiser,
    ncsn_score,
)

STD = 0.4
OMEGA_0, OMEGA_1 = -6.0, 4.0
# x = +- STD and eps = +- 1 in two dimensions have the second moments of Gaussian data, which
# determine the loss of a linear score.
SIGNS = signs(4)
X, EPS = STD * SIGNS[:, :2], SIGNS[:, 2:]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def network(z, omega):
    """An arbitrary denoiser, not linear in z, that depends on omega."""
    omega = omega[:, None]
    return jnp.tanh(z @ jnp.array([[0.7, -0.3], [0.4, 1.1]]) - 0.2 * omega) + 0.1 * omega * z


def test_denoiser_and_score_network_are_one_another():
    z = jax.random.normal(jax.random.key(0), (5, 2))
    omega = jnp.linspace(-6.0, 4.0, 5)
    again, direct = jax.jit(ncsn_denoiser(ncsn_score(network))), jax.jit(network)
    np.testing.assert_allclose(again(z, omega), direct(z, omega), rtol=1e-12)
    np.testing.assert_allclose(again(z, omega[2]), direct(z, jnp.full(5, omega[2])), rtol=1e-12)


@pytest.mark.equation("S2 103", "vdm.diffusion.score_matching:ncsn_score")
def test_ncsn_score_is_the_gradient_of_the_density_without_shrinking():
    # x + r eps is a mixture too, with variances s_k^2 + r^2.
    weights, stds = jnp.array([0.3, 0.7]), jnp.array([0.2, 0.5])
    means = jnp.array([[-0.6, 0.1], [0.4, 0.3]])
    x_noisy, r = np.random.default_rng(0).normal(size=(6, 2)), 0.3
    noisy = MixtureData(weights, means, jnp.asarray(np.sqrt(np.square(stds) + r**2)))
    none = jnp.float64(-jnp.inf)
    want = jax.jit(jax.grad(lambda x: jnp.sum(noisy.log_prob(x, none))))(x_noisy)
    data = MixtureData(weights, means, stds)

    @jax.jit
    def scores(x_noisy, r):
        omega = 2 * jnp.log(r)  # and alpha times the score of z_t
        at_z = noise.alpha(omega) * data.score(noise.alpha(omega) * x_noisy, omega)
        return ncsn_score(data.eps_hat)(x_noisy, r), at_z

    for got in scores(x_noisy, r):
        np.testing.assert_allclose(got, want, rtol=1e-9)


@jax.jit
def losses_of_network(x, eps, omegas):
    """NCSN's loss, and the loss density."""
    score_matching = denoising_score_matching(x, eps, jnp.exp(omegas / 2), ncsn_score(network))
    return score_matching, loss_density(eps, network(noise.diffuse(x, eps, omegas), omegas))


@pytest.mark.parametrize("omega", [-6.0, -1.3, 4.0])
def test_ncsn_loss_is_the_loss_density_of_the_same_network(omega):
    x, eps = jax.random.normal(jax.random.key(0), (2, 7, 2))
    np.testing.assert_allclose(*losses_of_network(x, eps, jnp.full(7, omega)), rtol=1e-12)


@pytest.mark.equation("S2 104", "vdm.diffusion.score_matching:denoising_score_matching")
def test_ncsn_loss_over_a_geometric_ladder_is_the_denoising_term_of_a_linear_schedule():
    num_levels = 300
    t = np.repeat((np.arange(num_levels) + 0.5) / num_levels, len(SIGNS))
    x, eps = (np.tile(v, (num_levels, 1)) for v in (X, EPS))
    data = GaussianData(STD)

    @jax.jit
    def ladders_and_bound(t, x, eps):
        r = jnp.exp(OMEGA_0 / 2) * jnp.exp((OMEGA_1 - OMEGA_0) / 2) ** t  # a geometric sequence
        ladders = [
            (OMEGA_1 - OMEGA_0) * denoising_score_matching(x, eps, r, ncsn_score(denoiser))
            for denoiser in (network, data.eps_hat)
        ]
        levels = noise_levels(lambda t: OMEGA_0 + (OMEGA_1 - OMEGA_0) * t, t, num_steps=0)
        bound = estimate_elbo(x, Draws(t, eps, eps), levels, network, Gaussian())
        return *ladders, bound.terms.denoising_matching

    of_network, of_ideal, bound = ladders_and_bound(t, x, eps)
    np.testing.assert_allclose(of_network, bound, rtol=1e-12)
    # In the mean, with the ideal network: the closed form, by the midpoint rule.
    want = 2 * data.denoising_term(jnp.float64(OMEGA_0), jnp.float64(OMEGA_1))
    np.testing.assert_allclose(np.mean(of_ideal), want, rtol=1e-5)


@pytest.mark.parametrize("r", [0.05, 0.4, 3.0])
@pytest.mark.equation("S2 101", "vdm.diffusion.score_matching:explicit_score_matching")
@pytest.mark.equation("S2 104", "vdm.diffusion.score_matching:denoising_score_matching")
def test_explicit_and_denoising_score_matching_differ_by_a_constant(r):
    # Vincent 2011: r^2 explicit + the least loss = denoising, for every network.
    least = float(GaussianData(STD).share(jnp.float64(2 * np.log(r))))  # 1/2 per dimension, of two
    for key in jax.random.split(jax.random.key(0), 2):
        params = jax.random.normal(key, (2, 2)), jax.random.normal(key, (1, 2))
        (explicit, denoising), slopes = losses_and_slopes(params, r)
        np.testing.assert_allclose(denoising - explicit, least, rtol=1e-9)
        for one, other in zip(*map(jax.tree.leaves, slopes), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


@jax.jit
def losses_and_slopes(params, scale):
    """r^2 times the explicit loss and the denoising loss of a linear score, and their slopes."""

    def both(params):
        matrix, bias = params
        x_noisy = X + scale * EPS
        exact = -x_noisy / (STD**2 + scale**2)
        explicit = explicit_score_matching(x_noisy @ matrix + bias, exact)
        denoising = denoising_score_matching(
            jnp.asarray(X), jnp.asarray(EPS), scale, lambda x, r: x @ matrix + bias
        )
        return scale**2 * jnp.mean(explicit), jnp.mean(denoising)

    return both(params), [jax.grad(lambda p, i=i: both(p)[i])(params) for i in (0, 1)]


@pytest.mark.equation("S2 101", "vdm.diffusion.score_matching:explicit_score_matching")
def test_the_exact_score_minimises_both():
    # One dimension, a mixture: over x by its components' quadrature, over eps by Gauss-Hermite.
    weights, means, stds = np.array([0.3, 0.7]), np.array([-0.6, 0.5]), np.array([0.2, 0.4])
    data = MixtureData(jnp.asarray(weights), jnp.asarray(means)[:, None], jnp.asarray(stds))
    nodes, masses = gauss_hermite(80)
    x = means[:, None] + stds[:, None] * nodes
    share = (weights[:, None] * masses)[..., None] * masses
    x, eps = np.broadcast_arrays(x[..., None], nodes)
    x, eps, share = (jnp.asarray(v.reshape(-1)) for v in (x, eps, share))
    r = jnp.float64(0.5)
    exact = ncsn_score(data.eps_hat)
    x_noisy = (x + r * eps)[:, None]

    @jax.jit
    def losses(change):
        """At the exact score plus change times a bump: quadratic in change."""

        def score(x_noisy, r):
            return exact(x_noisy, r) + change * jnp.cos(2 * x_noisy)

        explicit = explicit_score_matching(score(x_noisy, r), exact(x_noisy, r))
        denoising = denoising_score_matching(x[:, None], eps[:, None], r, score)
        return jnp.stack([r**2 * (share @ explicit), share @ denoising])

    below, at, above = (np.asarray(losses(change)) for change in (-1.0, 0.0, 1.0))
    omega = 2 * jnp.log(r)
    z = noise.alpha(omega) * x_noisy
    least = 0.5 * np.asarray(share) @ np.asarray(jax.jit(data.eps_variance)(z, omega))
    np.testing.assert_allclose(at, [0.0, least], rtol=1e-9)
    np.testing.assert_allclose(above, below, rtol=1e-8)  # no slope
    curvature = 0.5**2 * np.asarray(share) @ np.square(np.cos(2 * np.asarray(x_noisy)[:, 0]))
    np.testing.assert_allclose(above + below - 2 * at, curvature, rtol=1e-8)
