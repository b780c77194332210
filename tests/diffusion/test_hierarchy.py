"""The bound of a hierarchy of latents, against a linear Gaussian model whose p(x) is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from tests.closed_forms import gauss_hermite, gauss_hermite_grid
from vdm.diffusion import hierarchy
from vdm.diffusion.hierarchy import Normal
from vdm.diffusion.likelihood import Discretised, Gaussian

SCALES = (0.8, -1.3, 0.6)
NOISES = (0.3, 0.5, 1.2)


def linear_model(num_levels):
    """z_T ~ N(0, 1), z_{t-1} = SCALES[t-1] z_t + noise of variance NOISES[t-1], z_0 = x: its
    decoders, log p(x | z_1), log p(x), and the exact posteriors q(z_t | z_{t-1})."""

    def down(scale, noise):
        return lambda z: Normal(scale * z, jnp.full_like(z, np.log(noise)))

    def up(scale, noise, variance):  # the conditional of z given the level below it
        of_below = scale**2 * variance + noise
        return lambda below: Normal(
            scale * variance / of_below * below,
            jnp.full_like(below, np.log(variance - (scale * variance) ** 2 / of_below)),
        )

    variance, encoders, decoders = 1.0, [], []
    for scale, noise in reversed(list(zip(SCALES[:num_levels], NOISES, strict=False))):
        encoders.insert(0, up(scale, noise, variance))
        decoders.insert(0, down(scale, noise))
        variance = scale**2 * variance + noise
    to_data, *decoders = decoders

    def log_likelihood(x, z):
        return hierarchy.log_density(to_data(z), x)

    return encoders, decoders, log_likelihood, scipy.stats.norm(0, np.sqrt(variance))


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def noise(float64):
    return list(jnp.asarray(np.random.default_rng(0).standard_normal((3, 500, 1))))


@pytest.fixture
def x(float64):
    return jnp.linspace(-3, 3, 500)[:, None]


@pytest.mark.parametrize("num_levels", [1, 2, 3])
@pytest.mark.equation("S1 1.15", "vdm.diffusion.hierarchy:log_weight")
@pytest.mark.equation("S1 1.26", "vdm.diffusion.hierarchy:log_weight")
@pytest.mark.equation("S1 1.27", "vdm.diffusion.hierarchy:encode_path")
@pytest.mark.equation("S1 1.32", "vdm.diffusion.hierarchy:log_weight")
def test_log_weight_is_log_p_along_every_path_of_the_exact_posterior(num_levels, noise, x):
    encoders, decoders, log_likelihood, p = linear_model(num_levels)

    @jax.jit
    def weigh(x, noise):
        path = hierarchy.encode_path(x, encoders, noise)
        return hierarchy.log_weight(path, decoders, log_likelihood(x, path.latents[0]))

    weight = weigh(x, noise[:num_levels])
    np.testing.assert_allclose(weight, p.logpdf(x[:, 0]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_levels", [1, 2, 3])
@pytest.mark.equation("S1 1.31", "vdm.diffusion.hierarchy:negative_elbo")
@pytest.mark.equation("S1 1.46", "vdm.diffusion.hierarchy:negative_elbo")
@pytest.mark.equation("S4 49", "vdm.diffusion.hierarchy:log_weight")
@pytest.mark.equation("S4 50", "vdm.diffusion.hierarchy:log_weight")
@pytest.mark.equation("S4 51", "vdm.diffusion.hierarchy:negative_elbo")
@pytest.mark.equation("S4 54", "vdm.diffusion.hierarchy:encode_path")
def test_bound_falls_short_of_log_p_by_the_divergence_to_the_posterior(num_levels):
    # At every level of q the mean is shifted and the variance scaled by the same amounts, so the
    # gap is a sum of Gaussian KLs. Quadrature over z_1 .. z_T is exact, as the integrand is
    # quadratic.
    shift, (grid, weights) = 0.4, gauss_hermite_grid(num_levels, 4)
    exact, decoders, log_likelihood, p = linear_model(num_levels)
    moved = [lambda z, q=q: Normal(q(z).mean + shift, q(z).log_variance + 0.2) for q in exact]

    @jax.jit
    def along_paths(x, noise):
        path = hierarchy.encode_path(x, moved, noise)
        reconstruction = log_likelihood(x, path.latents[0])
        below = [x, *path.latents[:-1]]
        return (
            hierarchy.log_weight(path, decoders, reconstruction),
            hierarchy.negative_elbo(path, decoders, reconstruction).total,
            [jnp.exp(q(z).log_variance[0, 0]) for q, z in zip(exact, below, strict=True)],
        )

    weight, total, variances = along_paths(np.full((len(grid), 1), 0.7), list(grid.T[..., None]))
    gap = sum(0.5 * (np.exp(0.2) - 1 - 0.2 + shift**2 / v) for v in variances)
    np.testing.assert_allclose(weights @ weight, p.logpdf(0.7) - gap, rtol=1e-12)
    np.testing.assert_allclose(weights @ -np.asarray(total), p.logpdf(0.7) - gap, rtol=1e-12)


@pytest.mark.parametrize("num_levels", [2, 3])
def test_gradient_of_the_bound_is_that_of_the_log_weight_in_expectation(num_levels):
    # The gradients with respect to the parameters of every encoder and decoder agree in
    # expectation, by quadrature over all paths. On a single path those of the encoders differ, as
    # the gradient of the bound omits the score of q.
    grid, weights = gauss_hermite_grid(num_levels, 4)
    exact, decoders, log_likelihood, _ = linear_model(num_levels)
    x, noise = jnp.full((len(grid), 1), 0.7), list(jnp.asarray(grid.T[..., None]))

    def moved(kernel, shift, factor):
        def of(z):
            normal = kernel(z)
            return Normal(normal.mean + shift, normal.log_variance + factor)

        return of

    def bound(params, use_log_weight):
        ups, downs = params
        path = hierarchy.encode_path(x, list(map(moved, exact, *ups)), noise)
        down = list(map(moved, decoders, *downs))
        log_p_x = log_likelihood(x, path.latents[0])
        if use_log_weight:
            return -hierarchy.log_weight(path, down, log_p_x)
        return hierarchy.negative_elbo(path, down, log_p_x).total

    params = (jnp.full((2, num_levels), 0.3), jnp.full((2, num_levels - 1), -0.2))
    ours, theirs = (
        jax.jit(jax.jacrev(bound), static_argnums=1)(params, choice) for choice in (False, True)
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(
            np.tensordot(weights, a, 1), np.tensordot(weights, b, 1), rtol=1e-9, atol=1e-12
        )
    assert np.abs(np.asarray(ours[0]) - theirs[0]).max() > 0.1


@pytest.mark.parametrize("num_levels", [2, 3])
def test_where_q_is_p_no_path_moves_the_encoders(num_levels, noise):
    # The reason for the stop_gradient: where q = p = N(0, I) at every level, the score of q would
    # add noise of mean 0 to the gradient of every path, and training with T = 2 would not leave
    # this point.
    def bound(params):
        means, log_variances = params
        path = hierarchy.encode_path(
            jnp.zeros((500, 1)),
            [
                lambda z, m=m, v=v: Normal(jnp.full_like(z, m), jnp.full_like(z, v))
                for m, v in zip(means, log_variances, strict=True)
            ],
            noise[:num_levels],
        )
        standard = Normal(jnp.zeros((500, 1)), jnp.zeros((500, 1)))
        terms = hierarchy.negative_elbo(
            path, [lambda z: standard] * (num_levels - 1), jnp.zeros(500)
        )
        return terms.total

    slopes = jax.jit(jax.jacrev(bound))
    by_params = slopes(np.zeros((2, num_levels)))
    np.testing.assert_allclose(by_params, 0.0, atol=1e-12)
    away = slopes(np.full((2, num_levels), 0.3))
    assert np.abs(away).min(axis=0).max() > 0.1  # elsewhere the gradient is not 0


@pytest.mark.equation("S1 1.30", "vdm.diffusion.hierarchy:log_weight")
@pytest.mark.equation("S4 47", "vdm.diffusion.hierarchy:log_weight")
def test_mean_weight_is_the_evidence_whatever_the_encoder():
    exact, _, log_likelihood, p = linear_model(1)
    nodes, weights = gauss_hermite(60)
    wide = [lambda z: Normal(exact[0](z).mean + 0.3, exact[0](z).log_variance + 0.5)]

    @jax.jit
    def weigh(x, noise):
        path = hierarchy.encode_path(x, wide, noise)
        return hierarchy.log_weight(path, [], log_likelihood(x, path.latents[0]))

    mean = weights @ np.exp(weigh(np.full((60, 1), 0.7), [nodes[:, None]]))
    np.testing.assert_allclose(mean, p.pdf(0.7), rtol=1e-8)


def test_gaussian_likelihood_of_a_decoder_is_a_square_and_a_constant():
    rng = np.random.default_rng(4)
    data, mean = jnp.asarray(rng.standard_normal((2, 5, 3)))
    got = hierarchy.log_likelihood(Gaussian(), data, Normal(mean, jnp.full((1, 3), np.log(0.3))))
    expected = -((data - mean) ** 2).sum(1) / 0.6 - 1.5 * np.log(2 * np.pi * 0.3)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.equation("S1 1.20", "vdm.diffusion.hierarchy:negative_elbo")
@pytest.mark.equation("S1 1.25", "vdm.diffusion.hierarchy:reparameterise")
@pytest.mark.equation("S4 52", "vdm.diffusion.hierarchy:negative_elbo")
@pytest.mark.equation("S4 53", "vdm.diffusion.hierarchy:reparameterise")
def test_one_level_is_the_vae_with_its_closed_form_divergence(noise, x):
    def encoder(x):
        return Normal(0.3 * x + 0.1, jnp.full_like(x, -0.7))

    @jax.jit
    def terms_of(x, noise):
        path = hierarchy.encode_path(x, [encoder], noise)
        log_likelihood = linear_model(1)[2](x, path.latents[0])
        return path.latents[0], log_likelihood, hierarchy.negative_elbo(path, [], log_likelihood)

    latent, log_likelihood, terms = terms_of(x, noise[:1])
    x, xi = np.asarray(x), np.asarray(noise[0])
    np.testing.assert_allclose(latent, 0.3 * x + 0.1 + np.exp(-0.35) * xi, rtol=1e-14)
    variance, mean = np.exp(-0.7), 0.3 * x[:, 0] + 0.1
    np.testing.assert_array_equal(terms.reconstruction, -np.asarray(log_likelihood))
    np.testing.assert_array_equal(terms.denoising_matching, 0)
    np.testing.assert_allclose(
        terms.prior_matching, 0.5 * (variance + mean**2 - 1 + 0.7), rtol=1e-12
    )


@pytest.mark.equation("S1 1.23", "vdm.diffusion.hierarchy:kl_to_standard")
@pytest.mark.parametrize("log_variance", [-3.0, 1e-4, 0.0, 2.0])
def test_kl_to_standard_equals_quadrature_and_keeps_its_digits(log_variance):
    mean = np.array([[0.0, 0.02], [0.5, -1.5]])
    q = Normal(jnp.float32(mean), jnp.full((1, 2), log_variance, jnp.float32))
    # The KL is the integral of q log(q/p); Gauss-Hermite nodes of q are exact, as log(q/p) is
    # quadratic.
    (nodes, weights), std = gauss_hermite(3), np.exp(0.5 * log_variance)
    z = mean[..., None] + std * nodes
    ratio = scipy.stats.norm.logpdf(z, mean[..., None], std) - scipy.stats.norm.logpdf(z)
    np.testing.assert_allclose(
        jax.jit(hierarchy.kl_to_standard)(q), (ratio @ weights).sum(-1), rtol=3e-5, atol=1e-9
    )


def test_log_densities_equal_scipy():
    rng = np.random.default_rng(1)
    mean, log_variance, z = jnp.asarray(rng.standard_normal((3, 5, 2, 3)))
    got = hierarchy.log_density(Normal(mean, log_variance), z)
    standard = hierarchy.log_standard(z)
    expected = scipy.stats.norm.logpdf(z, mean, np.exp(0.5 * log_variance)).sum((1, 2))
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    np.testing.assert_allclose(standard, scipy.stats.norm.logpdf(z).sum((1, 2)), rtol=1e-12)


def test_decoded_likelihood_is_a_softmax_over_codes_and_has_its_gradient():
    likelihood, rng = Discretised(5), np.random.default_rng(2)
    codes = jnp.asarray(rng.integers(0, 5, (4, 3)))
    mean, log_variance = rng.standard_normal((4, 3)), rng.uniform(-6, 1, (4, 3))

    def direct(mean, log_variance):
        x = 2 * (jnp.arange(5) + 0.5) / 5 - 1
        logits = -0.5 * (mean[..., None] - x[None, None]) ** 2 * jnp.exp(-log_variance)[..., None]
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), codes[..., None], -1)
        return chosen.sum((1, 2))

    def ours(mean, log_variance):
        return hierarchy.log_likelihood(likelihood, codes, Normal(mean, log_variance))

    arguments = jnp.asarray(mean), jnp.asarray(log_variance)

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_slopes(function, *arguments):
        return function(*arguments), jax.jacrev(function, argnums=(0, 1))(*arguments)

    (value, got), (want, expected) = (value_and_slopes(f, *arguments) for f in (ours, direct))
    np.testing.assert_allclose(value, want, rtol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), got, expected)
    most_likely = hierarchy.most_likely(likelihood, Normal(*arguments))
    nearest = np.abs(np.asarray(mean)[..., None] - (2 * (np.arange(5) + 0.5) / 5 - 1)).argmin(-1)
    np.testing.assert_array_equal(most_likely, nearest)
