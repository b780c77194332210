"""Slips of S4 in the reconstruction, of a VAE and as L_1 of a diffusion model: what is printed, the
number that shows it, and the corrected statement; but for S4 56 on the four-step example of
experiments/elbo_forms.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.elbo_forms import four_steps
from tests.closed_forms import gauss_hermite, log_normal
from tests.equations.four_levels import ALPHA, BAR, X, level, next_mean, x_hat_of, z_nodes
from vdm.diffusion import elbo, hierarchy
from vdm.diffusion.hierarchy import Normal
from vdm.diffusion.likelihood import Gaussian

DECODER_VARIANCE = 0.05


def printed_c_1(std):
    """C_1 of S4 90, 91, 94 and 101, k = 1."""
    return np.log(np.sqrt(2 * np.pi * std)) / (2 * std**2)


PRINTED_C_1 = printed_c_1(np.sqrt(DECODER_VARIANCE))


def distance_of_x(decoder):
    """E ||x_hat - x||^2 at t = 1, by `decoder`: z_1 -> x_hat."""
    z, weights = z_nodes(1)
    return weights @ (decoder(z) - X) ** 2


def log_decoder(eps):
    """log p(x|z_1) of the example in the library, at z_1 = sqrt(alpha_1) x + sigma_1 eps."""
    x = jnp.full((len(eps), 1), X)
    return -np.asarray(four_steps.Decoder().reconstruction(x, jnp.asarray(eps)[:, None], level(1)))


def reconstruction(decoder):
    """E log p(x|z_1)."""
    z, weights = z_nodes(1)
    return weights @ log_normal(X, decoder(z), DECODER_VARIANCE)


def example(z):
    return x_hat_of(z, 1)


def always_nine(z):
    return np.full_like(z, 9.0)


def matching_by_means(t):
    """E KL_t as the distance of means of S4 90, t > 1."""
    z, weights = z_nodes(t)
    weight = (1 - BAR[t - 1]) / (2 * (1 - BAR[t - 2]) * (1 - ALPHA[t - 1]))
    return weight * (weights @ (next_mean(t, z, x_hat_of(z, t)) - next_mean(t, z, X)) ** 2)


def bound_of(decoder):
    """The bound, S4 88."""
    prior = float(elbo.prior_matching(jnp.full((1, 1), X), level(4))[0])
    return reconstruction(decoder) - sum(map(matching_by_means, (2, 3, 4))) - prior


def test_example_is_that_of_the_library():
    nodes, weights = gauss_hermite(12)
    np.testing.assert_allclose(reconstruction(example), weights @ log_decoder(nodes), rtol=1e-10)
    np.testing.assert_allclose(bound_of(example), -1.3865617261, atol=1e-9)


@pytest.mark.erratum("S4 55", "a sum over K draws of the noise, not their mean: times K = 4", 4.0)
def test_expectation_by_draws_is_their_mean(erratum_number):
    eps, omega = jnp.array([[1.0], [-1.0], [1.0], [-1.0]]), level(1)  # exact for a square
    terms = np.asarray(Gaussian().reconstruction(jnp.full((4, 1), X), eps, omega))
    nodes, weights = gauss_hermite(12)
    every = Gaussian().reconstruction(jnp.full((12, 1), X), jnp.asarray(nodes)[:, None], omega)
    expectation = weights @ np.asarray(every)
    np.testing.assert_allclose(terms.sum() / expectation, erratum_number, rtol=1e-9)
    np.testing.assert_allclose(terms.mean(), expectation, rtol=1e-9)


@pytest.mark.equation("S4 56", "vdm.diffusion.hierarchy:log_likelihood")
@pytest.mark.erratum(
    "S4 56", "the mean over ε is replaced by its value at ε = 0: for a decoder of slope a this "
    "leaves out a²σ_φ²/2σ², which holds parameters; with a = 1.5, σ_φ² = 0.16, σ² = 0.3 so many "
    "nats", 0.6,
)  # fmt: skip
def test_reconstruction_by_the_mean_of_the_noise_leaves_out_its_spread(erratum_number):
    slope, variance, (nodes, weights) = 1.5, 0.3, gauss_hermite(12)

    def log_p(eps, encoded_variance):  # at z = g(x, eps)
        x = jnp.full((len(eps), 1), X)
        encoded = Normal(0.4 * x - 0.1, jnp.full_like(x, np.log(encoded_variance)))
        z = hierarchy.reparameterise(encoded, jnp.asarray(eps)[:, None])
        decoded = Normal(slope * z + 0.2, jnp.full_like(z, np.log(variance)))
        return np.asarray(hierarchy.log_likelihood(Gaussian(), x, decoded))

    # at eps = 0 it is a square, alpha = -1/2 sigma^2, and a constant, whatever sigma_phi is
    distance = (X - (slope * (0.4 * X - 0.1) + 0.2)) ** 2
    printed = -distance / (2 * variance) - 0.5 * np.log(2 * np.pi * variance)
    for encoded_variance, spread in ((0.16, erratum_number), (0.32, 2 * erratum_number)):
        np.testing.assert_allclose(log_p(np.zeros(1), encoded_variance), printed, rtol=1e-12)
        expectation = weights @ log_p(nodes, encoded_variance)
        np.testing.assert_allclose(printed - expectation, spread, rtol=1e-10)


@pytest.mark.erratum(
    "S4 90", "log p(x|z_1) is a sum, not a product; C_1 for σ_1² = 0.05 where -10 is right", 1.7001
)
def test_log_density_of_the_decoder_is_a_negative_multiple_and_a_constant(erratum_number):
    np.testing.assert_allclose(PRINTED_C_1, erratum_number, rtol=1e-4)
    assert printed_c_1(0.01) < 0  # below (2 pi)^-k its sign is right, its size is not
    eps = np.array([-1.0, 0.3, 1.4])
    z = np.sqrt(BAR[0]) * X + np.sqrt(1 - BAR[0]) * eps
    distance = (x_hat_of(z, 1) - X) ** 2
    slope, constant = np.polyfit(distance, log_decoder(eps), 1)
    np.testing.assert_allclose(slope, -1 / (2 * DECODER_VARIANCE), rtol=1e-9)
    np.testing.assert_allclose(constant, -0.5 * np.log(2 * np.pi * DECODER_VARIANCE), rtol=1e-9)


@pytest.mark.erratum(
    "S4 91", "the sum begins at t = 2; from t = 1 it takes L_1 away again: a decoder that always "
    "says 9 in place of the example's changes the bound by 0 instead of so many nats", -687.86,
)  # fmt: skip
def test_sum_over_levels_begins_at_the_second(erratum_number):
    # m_1 = x, alpha-bar_0 being 1. (C_t with t = 1 would be 1/0; C_1 is that of L_1.)
    def printed(decoder):
        z, weights = z_nodes(1)
        first = PRINTED_C_1 * (weights @ (decoder(z) - next_mean(1, z, X)) ** 2)
        levels = [first, *map(matching_by_means, (2, 3, 4))]
        return PRINTED_C_1 * distance_of_x(decoder) - sum(levels)

    np.testing.assert_allclose(printed(always_nine) - printed(example), 0, atol=1e-9)
    change = bound_of(always_nine) - bound_of(example)
    np.testing.assert_allclose(change, erratum_number, rtol=1e-5)
    distances = distance_of_x(always_nine) - distance_of_x(example)
    np.testing.assert_allclose(change, -distances / (2 * DECODER_VARIANCE), rtol=1e-9)


@pytest.mark.erratum(
    "S4 94", "L_1 has C_1 of (90), positive here, and no constant: the example scores -0.7155, a "
    "decoder that always says 9 scores this; their bounds are -1.3866 and -689.25", 116.22,
)  # fmt: skip
def test_bound_falls_as_the_decoder_gets_worse(erratum_number):
    def printed(decoder):
        return PRINTED_C_1 * distance_of_x(decoder) - sum(map(matching_by_means, (2, 3, 4)))

    np.testing.assert_allclose(printed(always_nine), erratum_number, rtol=1e-4)
    np.testing.assert_allclose(printed(example), -0.7155, rtol=1e-4)
    np.testing.assert_allclose(bound_of(example), -1.3866, rtol=1e-4)
    np.testing.assert_allclose(bound_of(always_nine), -689.25, rtol=1e-5)


@pytest.mark.erratum(
    "S4 101", "C_1 of (90), no constant, and a sum over N + 1 draws, j = 0 to N, not their mean: "
    "by four draws L_1 is this; it is -0.4583", 0.7054,
)  # fmt: skip
def test_reconstruction_by_draws_of_the_noise(erratum_number):
    eps = np.array([1.0, -1.0, 1.0, -1.0])  # exact for a square
    z = np.sqrt(BAR[0]) * X + np.sqrt(1 - BAR[0]) * eps
    printed = PRINTED_C_1 * np.sum((x_hat_of(z, 1) - X) ** 2)
    np.testing.assert_allclose(printed, erratum_number, rtol=1e-4)
    nodes, weights = gauss_hermite(12)
    want = weights @ log_decoder(nodes)
    np.testing.assert_allclose(want, -0.4583, rtol=1e-4)
    np.testing.assert_allclose(np.mean(log_decoder(eps)), want, rtol=1e-10)
    distance = np.mean((x_hat_of(z, 1) - X) ** 2) / (2 * DECODER_VARIANCE)
    np.testing.assert_allclose(
        want, -distance - 0.5 * np.log(2 * np.pi * DECODER_VARIANCE), rtol=1e-10
    )
