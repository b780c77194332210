"""The bound of a hierarchy of latents, against a linear Gaussian model whose p(x) is known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

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
    path = hierarchy.encode_path(x, encoders, noise[:num_levels])
    weight = hierarchy.log_weight(path, decoders, log_likelihood(x, path.latents[0]))
    np.testing.assert_allclose(weight, p.logpdf(x[:, 0]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_levels", [1, 2, 3])
@pytest.mark.equation("S1 1.31", "vdm.diffusion.hierarchy:negative_elbo")
@pytest.mark.equation("S1 1.46", "vdm.diffusion.hierarchy:negative_elbo")
@pytest.mark.equation("S4 49", "vdm.diffusion.hierarchy:log_weight")
@pytest.mark.equation("S4 50", "vdm.diffusion.hierarchy:log_weight")
@pytest.mark.equation("S4 51", "vdm.diffusion.hierarchy:negative_elbo")
@pytest.mark.equation("S4 54", "vdm.diffusion.hierarchy:encode_path")
def test_bound_falls_short_of_log_p_by_the_divergence_to_the_posterior(num_levels):
    # Every level of q is moved by the same shift: the gap is a sum of Gaussian KLs, shift^2 / 2 var
    # and more, that quadrature over z_1 .. z_T gives exactly (the integrand is quadratic).
    shift, nodes = 0.4, np.polynomial.hermite_e.hermegauss(4)
    grid = np.stack(np.meshgrid(*[nodes[0]] * num_levels, indexing="ij"), -1)
    grid = grid.reshape(-1, num_levels)
    weights = np.prod(np.stack(np.meshgrid(*[nodes[1]] * num_levels), -1), -1).ravel()
    weights /= weights.sum()
    x = jnp.full((len(grid), 1), 0.7)
    exact, decoders, log_likelihood, p = linear_model(num_levels)
    moved = [lambda z, q=q: Normal(q(z).mean + shift, q(z).log_variance + 0.2) for q in exact]
    path = hierarchy.encode_path(x, moved, list(jnp.asarray(grid.T[..., None])))
    reconstruction = log_likelihood(x, path.latents[0])
    weight = hierarchy.log_weight(path, decoders, reconstruction)
    terms = hierarchy.negative_elbo(path, decoders, reconstruction)
    below = [jnp.asarray(x), *path.latents[:-1]]
    variances = [jnp.exp(q(z).log_variance[0, 0]) for q, z in zip(exact, below, strict=True)]
    gap = sum(0.5 * (np.exp(0.2) - 1 - 0.2 + shift**2 / v) for v in variances)
    np.testing.assert_allclose(weights @ weight, p.logpdf(0.7) - gap, rtol=1e-12)
    np.testing.assert_allclose(weights @ -terms.total, p.logpdf(0.7) - gap, rtol=1e-12)


@pytest.mark.parametrize("num_levels", [2, 3])
def test_gradient_of_the_bound_is_that_of_the_log_weight_in_expectation(num_levels):
    # By quadrature over all paths, in the parameters of every encoder and decoder; path by path the
    # two differ, and the encoder's has no noise but that of the levels above.
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    grid = np.array(list(itertools.product(nodes, repeat=num_levels)))
    weights = np.prod(list(itertools.product(weights / weights.sum(), repeat=num_levels)), axis=1)
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
    ours, theirs = (jax.jacrev(bound)(params, choice) for choice in (False, True))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(
            np.tensordot(weights, a, 1), np.tensordot(weights, b, 1), rtol=1e-9, atol=1e-12
        )
    assert float(jnp.abs(ours[0] - theirs[0]).max()) > 0.1


@pytest.mark.parametrize("num_levels", [2, 3])
def test_where_q_is_p_no_path_moves_the_encoders(num_levels, noise):
    # The reason of the stop_gradient: with q = p = N(0, I) at every level the score of q would be
    # noise of mean 0 in the gradient of every path, in which a hierarchy of T = 2 stays for ever.
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

    by_params = jax.jacrev(bound)(jnp.zeros((2, num_levels)))
    np.testing.assert_allclose(by_params, 0.0, atol=1e-12)
    away = jax.jacrev(bound)(jnp.full((2, num_levels), 0.3))
    assert float(jnp.abs(away).min(axis=0).max()) > 0.1  # it is no gradient that is always 0


@pytest.mark.equation("S1 1.30", "vdm.diffusion.hierarchy:log_weight")
@pytest.mark.equation("S4 47", "vdm.diffusion.hierarchy:log_weight")
def test_mean_weight_is_the_evidence_whatever_the_encoder():
    exact, _, log_likelihood, p = linear_model(1)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    x = jnp.full((60, 1), 0.7)
    wide = [lambda z: Normal(exact[0](z).mean + 0.3, exact[0](z).log_variance + 0.5)]
    path = hierarchy.encode_path(x, wide, [jnp.asarray(nodes[:, None])])
    weight = hierarchy.log_weight(path, [], log_likelihood(x, path.latents[0]))
    mean = weights @ np.exp(weight) / weights.sum()
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

    path = hierarchy.encode_path(x, [encoder], noise[:1])
    np.testing.assert_allclose(
        path.latents[0], 0.3 * x + 0.1 + np.exp(-0.35) * noise[0], rtol=1e-14
    )
    log_likelihood = linear_model(1)[2](x, path.latents[0])
    terms = hierarchy.negative_elbo(path, [], log_likelihood)
    variance, mean = np.exp(-0.7), 0.3 * x[:, 0] + 0.1
    np.testing.assert_array_equal(terms.reconstruction, -log_likelihood)
    np.testing.assert_array_equal(terms.denoising_matching, 0)
    np.testing.assert_allclose(
        terms.prior_matching, 0.5 * (variance + mean**2 - 1 + 0.7), rtol=1e-12
    )


@pytest.mark.equation("S1 1.23", "vdm.diffusion.hierarchy:kl_to_standard")
@pytest.mark.parametrize("log_variance", [-3.0, 1e-4, 0.0, 2.0])
def test_kl_to_standard_equals_quadrature_and_keeps_its_digits(log_variance):
    mean = np.array([[0.0, 0.02], [0.5, -1.5]])
    q = Normal(jnp.float32(mean), jnp.full((1, 2), log_variance, jnp.float32))
    # KL as an integral of q log(q/p), by Gauss-Hermite nodes of q: its integrand is quadratic.
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    weights, std = weights / weights.sum(), np.exp(0.5 * log_variance)
    z = mean[..., None] + std * nodes
    ratio = scipy.stats.norm.logpdf(z, mean[..., None], std) - scipy.stats.norm.logpdf(z)
    np.testing.assert_allclose(
        hierarchy.kl_to_standard(q), (ratio @ weights).sum(-1), rtol=3e-5, atol=1e-9
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
    np.testing.assert_allclose(ours(*arguments), direct(*arguments), rtol=1e-12)
    got = jax.jacrev(ours, argnums=(0, 1))(*arguments)
    expected = jax.jacrev(direct, argnums=(0, 1))(*arguments)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), got, expected)
    most_likely = hierarchy.most_likely(likelihood, Normal(*arguments))
    nearest = np.abs(np.asarray(mean)[..., None] - (2 * (np.arange(5) + 0.5) / 5 - 1)).argmin(-1)
    np.testing.assert_array_equal(most_likely, nearest)
