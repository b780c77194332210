"""Both forms of the bound, compared by quadrature with log densities in the sources' notation."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.closed_forms import gauss_hermite_grid, log_normal, signs
from vdm.diffusion import consistency, elbo
from vdm.diffusion.exact import GaussianData, MixtureData
from vdm.diffusion.likelihood import Gaussian
from vdm.diffusion.noise import alpha, fresh_noise, sigma

# Four levels in one dimension: alpha of a step and its product, as DDPM writes them (our
# alpha_t^2 / alpha_{t-1}^2 and alpha_t^2).
STEP_ALPHA = np.array([0.9, 0.8, 0.6, 0.3])
ALPHA_BAR = np.cumprod(STEP_ALPHA)
DATUM = 0.7
OMEGAS = np.log(1 - ALPHA_BAR) - np.log(ALPHA_BAR)


def gaussian_kl(mean, variance, mean_p, variance_p):
    ratio = variance / variance_p
    return 0.5 * (ratio - 1 - np.log(ratio) + (mean - mean_p) ** 2 / variance_p)


def four_levels(noise):
    """Every term in the notation of the sources, from log densities; noise [paths, 4]."""
    x = [np.full(len(noise), DATUM)]
    for a, xi in zip(STEP_ALPHA, noise.T, strict=True):
        x.append(np.sqrt(a) * x[-1] + np.sqrt(1 - a) * xi)

    def x_hat(t):
        return 0.5 * np.sqrt(ALPHA_BAR[t - 1]) * x[t] + 0.1

    def posterior(t, x_0):  # of x_{t-1} given x_t and x_0
        a, bar, bar_before = STEP_ALPHA[t - 1], ALPHA_BAR[t - 1], ALPHA_BAR[t - 2]
        mean = np.sqrt(a) * (1 - bar_before) * x[t] + np.sqrt(bar_before) * (1 - a) * x_0
        return mean / (1 - bar), (1 - a) * (1 - bar_before) / (1 - bar)

    terms: dict[str, list] = {"denoising": [], "consistency": [], "printed": []}
    for t in (1, 2, 3):
        forward = np.sqrt(STEP_ALPHA[t - 1]) * x[t - 1], 1 - STEP_ALPHA[t - 1]
        model = posterior(t + 1, x_hat(t + 1))
        terms["denoising"].append(gaussian_kl(*posterior(t + 1, DATUM), *model))
        terms["consistency"].append(log_normal(x[t], *forward) - log_normal(x[t], *model))
        terms["printed"].append(gaussian_kl(*forward, *model))
    ends = {
        "reconstruction": -log_normal(DATUM, x_hat(1), 0.05),
        "prior_matching": gaussian_kl(np.sqrt(ALPHA_BAR[3]) * x[0], 1 - ALPHA_BAR[3], 0, 1),
        "last_step_prior": gaussian_kl(np.sqrt(STEP_ALPHA[3]) * x[3], 1 - STEP_ALPHA[3], 0, 1),
    }
    return {name: np.array(value) for name, value in (terms | ends).items()}


def affine_eps_hat(z, omega):
    omega = omega[:, None]
    x_hat = 0.5 * alpha(omega) * z + 0.1
    return (z - alpha(omega) * x_hat) / sigma(omega)


class AffineDecoder(Gaussian):
    """p(x | z_0) = N(1/2 alpha_0 z_0 + 0.1, 0.05)."""

    def reconstruction(self, data, eps_0, omega_0):
        z_0 = alpha(omega_0) * data + sigma(omega_0) * eps_0
        squares = (data - 0.5 * alpha(omega_0) * z_0 - 0.1) ** 2 / 0.05
        return 0.5 * jnp.sum(squares + jnp.log(2 * jnp.pi * 0.05), axis=1)


@functools.partial(jax.jit, static_argnames=("denoiser", "likelihood"))
def terms_along(x, table, omegas, denoiser, likelihood):
    return consistency.path_terms(x, lambda i: table[i], omegas, denoiser, likelihood)


def path_terms(x, noise, omegas, denoiser, likelihood) -> Any:
    """The library's terms along given noise [T + 1, batch, dims], in float64."""
    with jax.enable_x64(True):
        table = jnp.asarray(noise, jnp.float64)
        x, omegas = jnp.asarray(x, jnp.float64), jnp.asarray(omegas, jnp.float64)
        terms = terms_along(x, table, omegas, denoiser, likelihood)
        return jax.tree.map(np.asarray, terms)


@pytest.fixture(scope="module")
def four_level_paths():
    nodes, weights = gauss_hermite_grid(4, 6)
    x = np.full((len(nodes), 1), DATUM)
    return (
        path_terms(x, nodes.T[..., None], OMEGAS, affine_eps_hat, AffineDecoder()),
        four_levels(nodes),
        weights,
    )


@pytest.mark.equation("S1 1.23", "vdm.diffusion.consistency:level_terms")
@pytest.mark.equation("S1 1.49", "vdm.diffusion.consistency:last_step_prior")
@pytest.mark.equation("S1 1.46", "vdm.diffusion.consistency:level_terms")
@pytest.mark.equation("S1 1.95", "vdm.diffusion.consistency:level_terms")
def test_every_term_equals_its_log_densities_along_every_path(four_level_paths):
    got, want, _ = four_level_paths
    for name in ("denoising", "consistency", "printed"):
        np.testing.assert_allclose(getattr(got.levels, name), want[name], rtol=1e-11, atol=1e-12)
    for name in ("reconstruction", "prior_matching", "last_step_prior"):
        np.testing.assert_allclose(getattr(got, name), want[name], rtol=1e-11, atol=1e-12)


@pytest.mark.equation("S4 87", "vdm.diffusion.consistency:path_terms")
@pytest.mark.equation("S4 88", "vdm.diffusion.consistency:path_terms")
@pytest.mark.equation("S1 1.46", "vdm.diffusion.consistency:PathTerms.consistency_bound")
@pytest.mark.equation("S1 1.47", "vdm.diffusion.consistency:PathTerms.printed_sum")
@pytest.mark.equation("S1 1.62", "vdm.diffusion.consistency:PathTerms.denoising_bound")
@pytest.mark.erratum("S2 35", "as S1 (1.47)", -2.8179)
@pytest.mark.erratum(
    "S1 1.47", "the KL takes x_{t+1} as independent of x_t given x_{t−1}: on four steps the sum as "
    "printed is this; by (1.46) and by (1.62) the bound is −1.3866 nats", -2.8179
)  # fmt: skip
def test_both_forms_are_the_bound_and_the_printed_formula_is_not(four_level_paths, erratum_number):
    # All terms are quadratic in Gaussian noise, so quadrature is exact, also for their variances.
    terms, _, weights = four_level_paths
    levels = terms.levels

    def mean(values):
        return values @ weights

    def variance(values):
        return mean(values**2) - mean(values) ** 2

    def one_level(values):  # variance of T times the term of one level drawn at random
        return len(values) * mean(values**2).sum() - mean(values).sum() ** 2

    np.testing.assert_allclose(-mean(terms.denoising_bound), -1.3865617261, atol=1e-9)
    np.testing.assert_allclose(-mean(terms.consistency_bound), -1.3865617261, atol=1e-9)
    np.testing.assert_allclose(-mean(terms.printed_sum), -2.8179098147, atol=1e-9)
    np.testing.assert_allclose(-mean(terms.printed_sum), erratum_number, rtol=1e-4)
    np.testing.assert_allclose(mean(levels.denoising).sum(), 0.8919, atol=5e-5)
    np.testing.assert_allclose(mean(terms.prior_matching), 0.0364, atol=5e-5)
    np.testing.assert_allclose(mean(levels.consistency).sum(), 0.7829, atol=5e-5)
    np.testing.assert_allclose(mean(terms.last_step_prior), 0.1453, atol=5e-5)
    np.testing.assert_allclose(variance(levels.denoising.sum(0)), 0.5000, atol=5e-5)
    np.testing.assert_allclose(variance(levels.consistency.sum(0)), 1.5416, atol=5e-5)
    np.testing.assert_allclose(one_level(levels.denoising), 1.3821, atol=5e-5)
    np.testing.assert_allclose(one_level(levels.consistency), 12.1972, atol=5e-5)
    np.testing.assert_allclose(variance(terms.denoising_bound), 1.9500, atol=5e-5)
    np.testing.assert_allclose(variance(terms.consistency_bound), 0.7196, atol=5e-5)


def test_levels_of_the_two_forms_differ_by_a_constant_of_the_schedule(four_level_paths):
    # E c_i = E d_i + 1/2 log(g_{i+1} / g_i), g_i the share of fresh noise, g_0 = 1.
    terms, _, weights = four_level_paths
    fresh = np.append(1.0, (1 - STEP_ALPHA[1:]) / (1 - ALPHA_BAR[1:]))
    difference = (terms.levels.consistency - terms.levels.denoising) @ weights
    np.testing.assert_allclose(difference, 0.5 * np.log(fresh[1:] / fresh[:-1]), rtol=1e-10)


def test_one_random_level_has_the_mean_of_the_whole_path(four_level_paths):
    terms, _, weights = four_level_paths
    nodes, level_weights = gauss_hermite_grid(3, 6)
    with jax.enable_x64(True):
        noise, x = nodes.T[..., None], np.full((len(nodes), 1), DATUM)
        random_level = functools.partial(
            consistency.random_level_terms, omegas=jnp.asarray(OMEGAS), denoiser=affine_eps_hat
        )
        level_terms = jax.jit(random_level)
        for i in range(3):
            got = level_terms(x, np.full(len(nodes), i), noise)
            for name in got._fields:
                want = 3 * getattr(terms.levels, name)[i]
                for power in (1, 2):
                    np.testing.assert_allclose(
                        np.asarray(getattr(got, name)) ** power @ level_weights,
                        want**power @ weights,
                        rtol=1e-10,
                    )


@pytest.mark.parametrize("num_steps", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_forms_agree_for_a_nonlinear_denoiser_and_in_their_gradient(num_steps):
    # Unequal steps. The expectation is over the noise alone, so the claim holds for a single x.
    nodes, weights = gauss_hermite_grid(num_steps + 1, 24 if num_steps < 3 else 16)
    with jax.enable_x64(True):
        data = MixtureData(jnp.array([0.3, 0.7]), jnp.array([[-0.8], [0.6]]), jnp.array([0.7, 0.5]))
        table, x = jnp.asarray(nodes.T[..., None]), jnp.full((len(nodes), 1), 0.4)

        def bounds(omegas):
            terms = consistency.path_terms(x, lambda i: table[i], omegas, data.eps_hat, Gaussian())
            forms = jnp.stack([terms.denoising_bound, terms.consistency_bound])
            return forms @ jnp.asarray(weights)

        omegas = jnp.array([-1.0, 0.3, 1.1, 3.0])[: num_steps + 1]
        values, slopes = jax.jit(lambda o: (bounds(o), jax.jacobian(bounds)(o)))(omegas)
    np.testing.assert_allclose(values[0], values[1], rtol=1e-7)
    np.testing.assert_allclose(slopes[0], slopes[1], rtol=1e-5, atol=1e-6)


def test_denoising_levels_are_those_of_the_elbo():
    # For Gaussian data and the ideal denoiser; the sign patterns make E over x and eps_{i+1} exact.
    num_steps, data = 5, GaussianData(0.6)
    omegas = np.linspace(-4.0, 3.0, num_steps + 1) + 0.1 * np.sin(np.arange(num_steps + 1))
    patterns = signs(num_steps + 2)
    terms = path_terms(0.6 * patterns[:, :1], patterns[:, 1:].T[..., None], omegas, data.eps_hat,
                       Gaussian())  # fmt: skip
    with jax.enable_x64(True):
        want = data.denoising_term_of_steps(jnp.asarray(omegas))
    np.testing.assert_allclose(terms.levels.denoising.mean(axis=1).sum(), want, rtol=1e-11)


def test_terms_are_sums_over_dimensions_for_each_example():
    num_steps, data = 4, GaussianData(0.8)
    rng, omegas = np.random.default_rng(0), np.linspace(-5.0, 4.0, num_steps + 1) ** 3 / 20
    x, noise = rng.normal(size=(3, 2, 4)), rng.normal(size=(num_steps + 1, 3, 2, 4))
    whole = path_terms(x, noise, omegas, data.eps_hat, Gaussian())
    apart = path_terms(x.reshape(24, 1), noise.reshape(num_steps + 1, 24, 1), omegas,
                       data.eps_hat, Gaussian())  # fmt: skip
    for got, want in zip(jax.tree.leaves(whole), jax.tree.leaves(apart), strict=True):
        np.testing.assert_allclose(got, want.reshape(*got.shape, 8).sum(-1), rtol=1e-10)


@pytest.mark.parametrize("omega_0", [-13.3, pytest.param(-8.0, marks=pytest.mark.slow)])
def test_float32_keeps_its_digits_over_a_thousand_steps(omega_0):
    num_steps, data, rng = 1000, GaussianData(0.7), np.random.default_rng(1)
    omegas = np.linspace(omega_0, 5.0, num_steps + 1).astype(np.float32)
    x = rng.normal(scale=0.7, size=(4, 64)).astype(np.float32)
    noise = rng.normal(size=(num_steps + 1, 4, 64)).astype(np.float32)
    want = path_terms(x, noise, omegas, data.eps_hat, Gaussian())
    got = terms_along(x, noise, omegas, data.eps_hat, Gaussian())
    assert got.levels.consistency.dtype == jnp.float32
    for name in ("denoising", "consistency"):
        np.testing.assert_allclose(
            getattr(got.levels, name), getattr(want.levels, name), atol=5e-5, rtol=1e-6
        )
    np.testing.assert_allclose(got.denoising_bound, want.denoising_bound, atol=4e-4)
    np.testing.assert_allclose(got.consistency_bound, want.consistency_bound, atol=4e-4)
    np.testing.assert_allclose(got.last_step_prior, want.last_step_prior, atol=1e-4)


def test_last_step_prior_keeps_its_digits():
    for omega_s, omega_t in [(4.987, 5.0), (-8.0, 12.0), (11.0, 12.0)]:
        z, kept = np.array([0.2, -1.3]), (1 + np.exp(omega_s)) / (1 + np.exp(omega_t))
        want = 0.5 * np.sum(kept * (z**2 - 1) - np.log1p(-kept))
        got = jax.jit(consistency.last_step_prior)(
            jnp.float32(z)[None], jnp.float32(omega_s), jnp.float32(omega_t)
        )
        np.testing.assert_allclose(got[0], want, rtol=1e-4)


def test_a_path_does_not_depend_on_its_batch():
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), jnp.arange(6))
    omegas, data = jnp.linspace(-3.0, 3.0, 5), GaussianData(0.5)
    x = jnp.linspace(-1.0, 1.0, 12).reshape(6, 2)

    @jax.jit
    def terms(keys, x):
        noise_at = fresh_noise(keys, (2,))
        return consistency.path_terms(x, noise_at, omegas, data.eps_hat, Gaussian())

    together, alone = terms(keys, x), terms(keys[4:5], x[4:5])
    for whole, part in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(whole[..., 4:5], part, rtol=1e-5, atol=1e-6)
    noise_at = fresh_noise(keys, (500,))
    noise = np.stack([noise_at(jnp.int32(i)) for i in range(2)])
    np.testing.assert_allclose(noise.std(axis=-1), 1, atol=0.15)
    assert abs(np.corrcoef(noise.reshape(12, 500)) - np.eye(12)).max() < 0.2


def test_one_random_level_agrees_with_elbo_of_finite_steps():
    # With the eps and omega_t of that level, `estimate_elbo` gives the same denoising term.
    rng, num_steps, data = np.random.default_rng(2), 4, GaussianData(0.9)
    index = jnp.array([0, 3, 2])
    noise = jnp.asarray(rng.normal(size=(3, 3, 2)), jnp.float32)
    x = jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)

    def schedule(t):
        return -4.0 + 7.0 * t

    @jax.jit
    def both(x, index, noise):
        omegas = schedule(jnp.linspace(0.0, 1.0, num_steps + 1))
        got = consistency.random_level_terms(x, index, noise, omegas, data.eps_hat).denoising
        omega_r = jnp.where(index == 0, -jnp.inf, omegas[index - 1])
        pairs = [(omega_r, omegas[index]), (omegas[index], omegas[index + 1])]
        eps = noise[0]
        for xi, pair in zip(noise[1:], pairs, strict=True):
            eps, _ = consistency.forward_noise(eps, xi, *pair)
        levels = elbo.noise_levels(schedule, (index + 0.5) / num_steps, num_steps)
        draws = elbo.Draws(levels.omega_t, eps, eps)
        want = elbo.estimate_elbo(x, draws, levels, data.eps_hat, Gaussian()).terms
        return got, want.denoising_matching

    np.testing.assert_allclose(*both(x, index, noise), rtol=2e-5)
