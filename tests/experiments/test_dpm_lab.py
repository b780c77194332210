"""The laboratory of one-dimensional densities against closed forms, and the slips that it shows."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.dpm_lab import (
    contraction,
    deconvolution,
    fixed_points,
    gaussian_fits,
    kernels,
    objective,
)
from experiments.dpm_lab.densities import (
    DENSITIES,
    MIXTURES,
    diffuse_mixture,
    mixture,
    on_grid,
    random_densities,
    smooth_noise,
)
from experiments.dpm_lab.divergences import DIVERGENCES, chi_squared, hellinger, js, kl
from experiments.dpm_lab.divergences import total_variation as tv
from experiments.dpm_lab.grid import Grid
from vdm.diffusion.noise import posterior, transition

GRID = Grid(7.0, 0.05)
NARROW = Grid(4.0, 0.05)
COARSE = Grid(5.0, 0.1)
LAB = "experiments.dpm_lab"


def normal(mean=0.0, std=1.0, grid=GRID):
    return grid.normalise(mixture([1.0], [mean], [std])(grid.points))


def omega_of(alpha_bar):
    """The source's alpha_bar is alpha_t^2 = sigmoid(-omega)."""
    return jnp.log1p(-alpha_bar) - jnp.log(alpha_bar)


def gaussian_conditional(variance, alpha):
    """k and v of K(. | z) = N(k z, v) for q(z_{t-1}) = N(0, variance)."""
    total = alpha * variance + 1 - alpha
    return math.sqrt(alpha) * variance / total, variance * (1 - alpha) / total


@pytest.mark.equation("S4 108", f"{LAB}.kernels:log_forward")
def test_forward_kernel_is_the_library_s_transition():
    with jax.enable_x64(True):
        scale, variance = transition(omega_of(jnp.float64(0.7)), omega_of(jnp.float64(0.7 * 0.93)))
    kernel = np.exp(kernels.log_forward(GRID, 0.93))
    mean, spread = kernels.moments(GRID, kernel)
    inside = np.abs(GRID.points) < 5
    np.testing.assert_allclose(mean[inside], float(scale) * GRID.points[inside], atol=1e-12)
    np.testing.assert_allclose(spread[inside], float(variance), rtol=1e-9)


@pytest.mark.equation("S4 123", f"{LAB}.kernels:push")
@pytest.mark.equation("S4 125", f"{LAB}.kernels:log_reverse")
@pytest.mark.parametrize("name", DENSITIES)
def test_every_kernel_takes_its_marginal_back(name):
    alphas = [0.99, 0.98, 0.9, 0.9, 0.6]
    marginals = kernels.chain(GRID, on_grid(name, GRID), alphas)
    for before, after, alpha in zip(marginals, marginals[1:], alphas, strict=False):
        np.testing.assert_allclose(GRID.integrate(np.exp(after)), 1.0, rtol=0, atol=1e-8)
        restored = kernels.push(GRID, kernels.reverse(GRID, before, alpha), np.exp(after))
        np.testing.assert_allclose(restored, np.exp(before), rtol=0, atol=1e-8)
    # Off-grid far from a support the kernel is still a density.
    masses = GRID.integrate(kernels.reverse(GRID, marginals[0], 0.99), axis=0)
    np.testing.assert_allclose(masses, 1.0, rtol=1e-12)


@pytest.mark.equation("S4 109", f"{LAB}.kernels:chain")
@pytest.mark.equation("S4 109", f"{LAB}.densities:diffuse_mixture")
@pytest.mark.parametrize("name", MIXTURES)
def test_chain_of_a_mixture_has_its_closed_form(name):
    alphas = [0.99, 0.9, 0.7]
    marginals = kernels.chain(GRID, on_grid(name, GRID), alphas)
    exact = diffuse_mixture(*MIXTURES[name], math.prod(alphas))(GRID.points)
    np.testing.assert_allclose(np.exp(marginals[-1]), np.exp(exact), rtol=0, atol=1e-11)


@pytest.mark.equation("S4 122", f"{LAB}.kernels:chain")
@pytest.mark.parametrize("name", DENSITIES)
def test_a_long_chain_ends_in_the_standard_normal(name):
    last = kernels.chain(GRID, on_grid(name, GRID), [0.6] * 40)[-1]
    # What is left of the mean is sqrt(0.6^40) = 3.7e-5 of x's.
    assert js(GRID, np.exp(last), np.exp(normal())) < 1e-9


@pytest.mark.equation("S4 105", f"{LAB}.kernels:log_forward")
@pytest.mark.equation("S4 106", f"{LAB}.kernels:log_reverse")
@pytest.mark.equation("S4 124", f"{LAB}.kernels:log_reverse")
def test_forward_and_backward_expansion_are_one_joint_density():
    q, q_1, q_2 = kernels.chain(GRID, on_grid("mixture", GRID), [0.9, 0.8])
    x, z_1, z_2 = np.random.default_rng(0).integers(90, 190, (3, 200))
    forward = [kernels.log_forward(GRID, alpha) for alpha in (0.9, 0.8)]
    backward = [kernels.log_reverse(GRID, *each) for each in ((q, 0.9), (q_1, 0.8))]
    np.testing.assert_allclose(
        q[x] + forward[0][z_1, x] + forward[1][z_2, z_1],
        backward[0][x, z_1] + backward[1][z_1, z_2] + q_2[z_2],
        rtol=1e-11,
    )


@pytest.mark.equation("S4 125", f"{LAB}.kernels:reverse")
@pytest.mark.parametrize("alpha", [0.6, 0.99])
def test_reverse_kernel_of_a_gaussian_has_its_closed_form(alpha):
    mean, variance = kernels.moments(GRID, kernels.reverse(GRID, normal(0.0, 0.5), alpha))
    k, v = gaussian_conditional(0.25, alpha)
    inside = np.abs(GRID.points) < 5
    np.testing.assert_allclose(mean[inside], k * GRID.points[inside], atol=1e-9)
    np.testing.assert_allclose(variance[inside], v, rtol=1e-9)


@pytest.mark.equation("S4 126", f"{LAB}.kernels:gaussian_factor")
@pytest.mark.equation("S4 127", f"{LAB}.kernels:gaussian_factor")
@pytest.mark.erratum(
    "S4 127", "1 - alpha in the normaliser, at alpha = 0.9; its root is meant", 3.162
)
def test_gaussian_factor_is_the_forward_kernel_read_backwards(erratum_number):
    alpha, log_q, index = 0.9, on_grid("mixture", GRID), 150
    forward = np.exp(kernels.log_forward(GRID, alpha))
    factor = kernels.gaussian_factor(GRID, GRID.points[index], alpha)
    np.testing.assert_allclose(factor, forward[index], rtol=1e-10)
    shape = factor * np.exp(log_q)
    want = kernels.reverse(GRID, log_q, alpha)[:, index]
    np.testing.assert_allclose(shape / GRID.integrate(shape), want, atol=1e-12)
    mass = GRID.integrate(forward[:, 140])
    np.testing.assert_allclose(mass, 1.0, rtol=1e-10)
    printed = mass * math.sqrt(2 * math.pi * (1 - alpha)) / (math.sqrt(2 * math.pi) * (1 - alpha))
    np.testing.assert_allclose(printed, erratum_number, rtol=1e-3)


@pytest.mark.erratum(
    "S4 127", "sqrt((1 - alpha)/alpha) is the standard deviation of GF, at alpha = 0.9", 0.3333
)
def test_gaussian_factor_has_this_standard_deviation(erratum_number):
    factor = math.sqrt(0.9) * kernels.gaussian_factor(GRID, 0.5, 0.9)
    mean, variance = kernels.moments(GRID, factor[:, None])
    np.testing.assert_allclose(mean[0], 0.5 / math.sqrt(0.9), rtol=1e-10)
    np.testing.assert_allclose(math.sqrt(variance[0]), erratum_number, rtol=1e-3)
    np.testing.assert_allclose(variance[0], 0.1 / 0.9, rtol=1e-10)


@pytest.mark.equation("S4 33", f"{LAB}.divergences:kl")
@pytest.mark.equation("S4 34", f"{LAB}.divergences:kl")
def test_divergences_of_two_gaussians_have_their_closed_forms():
    m, s = 0.7, 0.6
    p, r = np.exp(normal(m, s)), np.exp(normal())
    np.testing.assert_allclose(kl(GRID, p, r), 0.5 * (s**2 + m**2 - 1) - math.log(s), rtol=1e-9)
    backwards = 0.5 * ((1 + m**2) / s**2 - 1) + math.log(s)
    np.testing.assert_allclose(kl(GRID, r, p), backwards, rtol=1e-9)
    affinity = math.sqrt(2 * s / (1 + s**2)) * math.exp(-(m**2) / (4 * (1 + s**2)))
    np.testing.assert_allclose(hellinger(GRID, p, r), 1 - affinity, rtol=1e-9)
    square = math.exp(m**2 / (2 - s**2)) / (s * math.sqrt(2 - s**2))
    np.testing.assert_allclose(chi_squared(GRID, p, r), square - 1, rtol=1e-9)
    apart = np.exp(normal(1.0)), np.exp(normal(-1.0))
    np.testing.assert_allclose(tv(GRID, *apart), math.erf(1 / math.sqrt(2)), rtol=1e-3)
    far = np.exp(normal(-3.0, 0.1)), np.exp(normal(3.0, 0.1))
    np.testing.assert_allclose(js(GRID, *far), math.log(2), rtol=1e-12)
    np.testing.assert_allclose(js(GRID, p, r), js(GRID, r, p), rtol=1e-12)


@pytest.mark.parametrize("name", ["mixture", "uniform"])
@pytest.mark.parametrize("alpha", [0.6, 0.98])
def test_no_f_divergence_grows(name, alpha):
    p, r = np.split(random_densities(np.random.default_rng(0), 100, GRID), 2)
    np.testing.assert_allclose(GRID.integrate(p), 1.0, rtol=1e-10)
    kernel = kernels.reverse(GRID, on_grid(name, GRID), alpha)
    pushed = kernels.push(GRID, kernel, p), kernels.push(GRID, kernel, r)
    for kind, divergence in DIVERGENCES.items():
        before, after = divergence(GRID, p, r), divergence(GRID, *pushed)
        assert np.all(np.isfinite(before)), kind
        assert np.all(after <= before + 1e-12), kind
        assert np.all(after > 0), kind


@pytest.mark.parametrize("alpha", [0.90, 0.95, 0.98, 0.99])
def test_singular_values_of_a_gaussian_have_their_closed_form(alpha):
    values, functions = contraction.singular_values(NARROW, normal(0.0, 0.5, NARROW), alpha)
    rho = contraction.gaussian_singular_value(0.25, alpha)
    np.testing.assert_allclose(values[:3], rho ** np.arange(3), rtol=1e-8)
    np.testing.assert_allclose(rho, math.sqrt(alpha * 0.25 / (alpha * 0.25 + 1 - alpha)))
    # The second function is the first Hermite polynomial: a straight line.
    q_t = np.exp(kernels.diffuse(NARROW, normal(0.0, 0.5, NARROW), alpha))
    line = NARROW.points * np.sqrt(q_t)
    cosine = functions[1] @ line / np.linalg.norm(line)
    np.testing.assert_allclose(abs(cosine), 1.0, rtol=1e-8)


def test_second_singular_value_bounds_chi_squared_and_is_attained():
    log_q, alpha = on_grid("mixture", NARROW), 0.9
    kernel = kernels.reverse(NARROW, log_q, alpha)
    q, q_t = np.exp(log_q), np.exp(kernels.diffuse(NARROW, log_q, alpha))
    values, functions = contraction.singular_values(NARROW, log_q, alpha)
    p = q_t * (1 + 0.3 * np.sin(NARROW.points * np.arange(1, 30)[:, None]))
    p /= NARROW.integrate(p)[:, None]
    after = chi_squared(NARROW, kernels.push(NARROW, kernel, p), q)
    assert np.all(after <= values[1] ** 2 * chi_squared(NARROW, p, q_t) + 1e-12)
    ratio = contraction.local_js_ratio(NARROW, kernel, q_t, functions[1], 1e-3)
    np.testing.assert_allclose(ratio, values[1] ** 2, rtol=1e-6)


def test_dobrushin_coefficient_of_a_gaussian_on_an_interval():
    kernel = kernels.reverse(GRID, normal(0.0, 0.5), 0.9)
    k, v = gaussian_conditional(0.25, 0.9)
    for half_width in (0.25, 0.5):
        want = math.erf(k * half_width / math.sqrt(2 * v))
        got = contraction.dobrushin(GRID, kernel, half_width)
        np.testing.assert_allclose(got, want, rtol=4e-3)
    assert contraction.dobrushin(GRID, kernel, 7.0) > 1 - 1e-12


def test_overlap_on_a_support_bounds_what_the_second_kernel_keeps():
    log_q, everywhere = on_grid("uniform", GRID), np.ones(GRID.points.size, bool)
    kernel = kernels.reverse(GRID, log_q, 0.9)
    inside = np.isfinite(log_q)
    overlap = contraction.overlap(GRID, kernel, inside)
    # 1 minus the total variation of the kernels at the two ends, whose digits cancel here.
    ends = kernel[:, inside].T[[0, -1]]
    np.testing.assert_allclose(overlap, 1 - tv(GRID, *ends), rtol=1e-10)
    assert 1e-3 < overlap < 1e-2
    assert contraction.overlap(GRID, kernel, everywhere) < 1e-12
    far = [np.exp(normal(mean, 0.1)) for mean in (-4.0, 4.0)]
    once = [kernels.push(GRID, kernel, p) for p in far]
    twice = [kernels.push(GRID, kernel, p) for p in once]
    for divergence in (js, tv, hellinger):
        assert divergence(GRID, *once) > (1 - 1e-12) * divergence(GRID, *far)
        assert divergence(GRID, *twice) <= (1 - overlap) * divergence(GRID, *once)
        assert divergence(GRID, *twice) > 0.9 * divergence(GRID, *once)


def test_where_a_log_density_is_concave():
    z, bumps = GRID.points, on_grid("two_bumps", GRID)
    found = gaussian_fits._concave(GRID, bumps, z, 0.5)
    # Between the bumps, [-1.5, -0.1] and [0.4, 1.4], a window of length one sees both of them.
    assert found[np.isclose(z, -0.8)]
    assert found[np.isclose(z, 0.9)]
    assert not found[np.isclose(z, 0.15)]
    assert np.all(gaussian_fits._concave(GRID, on_grid("triangular", GRID), z, 3.0))
    assert np.all(gaussian_fits._concave(GRID, normal(), z, 3.0))
    assert not np.any(gaussian_fits._concave(GRID, on_grid("mixture", GRID), z, 8.0))
    # Two points with nothing between them have no second difference.
    points = np.where(np.isclose(np.abs(z), 1.0), 0.0, -np.inf)
    found = gaussian_fits._concave(GRID, points, z, 1.5)
    assert not found[np.isclose(z, 0.0)]
    assert found[np.isclose(z, 1.0)]


def test_disturbed_density_has_the_wanted_distance():
    q = np.exp(on_grid("triangular", GRID))
    noise = smooth_noise(np.random.default_rng(0), 200, GRID, 0.2)
    np.testing.assert_allclose(np.mean(np.square(noise[:, 40:-40])), 1.0, rtol=0.02)
    disturbed = contraction.disturb(GRID, q, noise[0], 0.2)
    np.testing.assert_allclose(js(GRID, disturbed, q), 0.2, rtol=1e-9)
    with pytest.raises(ValueError, match=r"log 2 = 0\.693"):
        contraction.disturb(GRID, q, noise[0], 0.7)


@pytest.mark.equation("S4 106", f"{LAB}.kernels:reverse_chain")
@pytest.mark.erratum(
    "S4 §3.4.5", "five steps of 0.98 are one of their product, not of 1 - 5 x 0.02 = 0.90", 0.9039
)
def test_small_steps_are_one_step_of_the_product(erratum_number):
    log_q = on_grid("two_bumps", GRID)
    five = kernels.reverse_chain(GRID, log_q, [0.98] * 5)
    np.testing.assert_allclose(five, kernels.reverse(GRID, log_q, 0.98**5), atol=1e-10)
    assert np.max(np.abs(five - kernels.reverse(GRID, log_q, 0.90))) > 0.01
    np.testing.assert_allclose(0.98**5, erratum_number, rtol=1e-4)


def test_fits_of_a_gaussian_lose_nothing():
    log_q = normal(0.0, 0.5)
    p = gaussian_fits.through_fits(GRID, log_q, [0.9, 0.8, 0.7])
    np.testing.assert_allclose(p, np.exp(log_q), atol=1e-10)
    found = gaussian_fits.shape(GRID, log_q, 0.9)
    _, v = gaussian_conditional(0.25, 0.9)
    for key in ("variance_ratio", "variance_ratio_worst", "variance_ratio_smooth"):
        np.testing.assert_allclose(found[key], v * 0.9 / 0.1, rtol=1e-9)
    for key in ("nongaussian", "nongaussian_worst", "bend", "loss_kl"):
        assert abs(found[key]) < 1e-12, key


def test_shape_of_a_conditional_and_what_its_fit_costs():
    log_q, alpha = on_grid("triangular", GRID), 0.9
    found = gaussian_fits.shape(GRID, log_q, alpha)
    kernel = kernels.reverse(GRID, log_q, alpha)
    fit = np.exp(gaussian_fits.log_fitted(GRID, kernel))
    q_t = np.exp(kernels.diffuse(GRID, log_q, alpha))
    each = kl(GRID, kernel.T, fit.T)
    seen = q_t > 1e-6
    np.testing.assert_allclose(found["nongaussian"], GRID.integrate((q_t * each)[seen]), rtol=1e-3)
    assert found["nongaussian_worst"] < np.max(each[seen])
    np.testing.assert_allclose(found["loss_kl"], kl(GRID, np.exp(log_q), fit @ q_t * 0.05))
    assert found["loss_kl"] < found["nongaussian"]  # data processing
    small = gaussian_fits.through_fits(GRID, log_q, [0.9**0.25] * 4)
    assert kl(GRID, np.exp(log_q), small) < found["loss_kl"]


@pytest.mark.erratum(
    "S4 35",
    "standard deviation of the Gaussian of least KL(q||p) over that of least KL(p||q), q bimodal",
    3.80,
)
def test_the_two_orders_of_kl_seek_the_mean_and_a_mode(erratum_number):
    q = np.exp(GRID.normalise(mixture([0.6, 0.4], [-1.5, 1.5], [0.4, 0.4])(GRID.points)))
    mean, std = gaussian_fits.best_gaussian(GRID, q, "q||p")
    np.testing.assert_allclose(mean, -0.3, rtol=1e-9)
    np.testing.assert_allclose(std, math.sqrt(0.16 + 2.25 - 0.09), rtol=1e-9)
    mode, narrow = gaussian_fits.best_gaussian(GRID, q, "p||q")
    # One mode alone would be N(-1.5, 0.4^2) at KL = -log 0.6.
    np.testing.assert_allclose([mode, narrow], [-1.5, 0.4], atol=2e-3)
    p = np.exp(normal(mode, narrow))
    np.testing.assert_allclose(kl(GRID, p, q), -math.log(0.6), atol=1e-3)
    np.testing.assert_allclose(std / narrow, erratum_number, rtol=2e-3)
    one = np.exp(normal(0.4, 0.7))
    for order in ("q||p", "p||q"):  # the claim is true where the family holds q
        np.testing.assert_allclose(gaussian_fits.best_gaussian(GRID, one, order), [0.4, 0.7],
                                   atol=1e-7)  # fmt: skip
    with pytest.raises(ValueError, match="known are"):
        gaussian_fits.best_gaussian(GRID, q, "js")


@pytest.mark.equation("S4 110", f"{LAB}.objective:posterior")
def test_posterior_is_the_library_s():
    a, b, v = objective.posterior([0.9, 0.8])
    x, eps = 0.6, -1.1
    z_2 = math.sqrt(0.72) * x + math.sqrt(0.28) * eps
    with jax.enable_x64(True):
        omega_s, omega_t = omega_of(jnp.float64(0.9)), omega_of(jnp.float64(0.72))
        arrays = (jnp.full((1, 1), value, jnp.float64) for value in (z_2, eps))
        mean, variance = posterior(*arrays, omega_s, omega_t)
    np.testing.assert_allclose(np.ravel(mean)[0], a * z_2 + b * x, rtol=1e-9)
    np.testing.assert_allclose(np.ravel(variance)[0], v, rtol=1e-9)


@pytest.mark.equation("S4 116", f"{LAB}.objective:middle_term")
@pytest.mark.equation("S4 117", f"{LAB}.objective:middle_term")
@pytest.mark.equation("S4 119", f"{LAB}.objective:reversed_middle_term")
def test_middle_terms_by_brute_force_over_x():
    alphas, log_q = [0.8, 0.7], on_grid("mixture", COARSE)
    _, q_1, q_2 = kernels.chain(COARSE, log_q, alphas)
    log_p = gaussian_fits.log_fitted(COARSE, kernels.reverse(COARSE, q_1, alphas[1]))
    to_x = kernels.reverse_chain(COARSE, log_q, alphas)
    z, (a, b, v) = COARSE.points, objective.posterior(alphas)
    middle, reverse = 0.0, np.zeros(z.size)
    for index in range(z.size):  # over z_2
        mean = a * z[index] + b * z  # by x
        log_post = gaussian_fits.log_gaussian_columns(COARSE, mean, np.full(z.size, v))
        difference = log_post - log_p[:, [index]]
        weights = to_x[:, index] * COARSE.spacing
        forward = COARSE.integrate(np.exp(log_post) * difference, axis=0)
        backward = COARSE.integrate(np.exp(log_p[:, [index]]) * -difference, axis=0)
        middle += COARSE.spacing * np.exp(q_2[index]) * (forward @ weights)
        reverse[index] = backward @ weights
    np.testing.assert_allclose(
        objective.middle_term(COARSE, log_q, alphas, log_p), middle, rtol=1e-6
    )
    got = objective.reversed_middle_term(COARSE, log_q, alphas, log_p)
    seen = np.abs(z) < 3
    np.testing.assert_allclose(got[seen], reverse[seen], rtol=1e-6)


@pytest.mark.equation("S4 120", f"{LAB}.objective:reversed_middle_term")
@pytest.mark.equation("S4 36", f"{LAB}.objective:reversed_middle_term")
def test_reversed_middle_term_bounds_the_divergence_from_the_kernel():
    alphas, log_q = [0.9, 0.9], on_grid("mixture", GRID)
    q_1 = kernels.diffuse(GRID, log_q, alphas[0])
    kernel = kernels.reverse(GRID, q_1, alphas[1])
    log_p = gaussian_fits.log_fitted(GRID, kernel)
    upper = objective.reversed_middle_term(GRID, log_q, alphas, log_p)
    seen = np.abs(GRID.points) < 3
    assert np.all(upper[seen] > kl(GRID, np.exp(log_p).T, kernel.T)[seen])


@pytest.mark.equation("S4 117", f"{LAB}.objective:middle_term")
def test_middle_term_is_a_mutual_information_and_the_distance_from_the_kernel():
    alphas, log_q = [0.9, 0.9], normal(0.0, 0.5)
    _, q_1, q_2 = kernels.chain(GRID, log_q, alphas)
    best = kernels.log_reverse(GRID, q_1, alphas[1])
    least = objective.middle_term(GRID, log_q, alphas, best)
    # I(x; z_1 | z_2) of Gaussians: Var(z_1 | z_2) over Var(z_1 | z_2, x).
    _, spread = gaussian_conditional(0.9 * 0.25 + 0.1, 0.9)
    want = 0.5 * math.log(spread / objective.posterior(alphas)[2])
    np.testing.assert_allclose(least, want, rtol=1e-8)
    log_p = gaussian_fits.log_gaussian_columns(GRID, 0.8 * GRID.points, np.full(281, 0.2))
    each = kl(GRID, np.exp(best).T, np.exp(log_p).T)
    got = objective.middle_term(GRID, log_q, alphas, log_p) - least
    np.testing.assert_allclose(got, GRID.integrate(np.exp(q_2) * each), rtol=1e-6)


@pytest.mark.erratum(
    "S4 118",
    "variance at which (117) is least over that of (119): x ~ N(0, 0.25), alpha = 0.9, 0.9",
    1.573,
)
@pytest.mark.erratum(
    "S4 119",
    "variance at which (117) is least over that of (119): x ~ N(0, 0.25), alpha = 0.9, 0.9",
    1.573,
)
def test_the_two_middle_terms_have_different_minima(erratum_number):
    alphas, log_q = [0.9, 0.9], normal(0.0, 0.5)
    k, spread = gaussian_conditional(0.9 * 0.25 + 0.1, 0.9)
    narrow = objective.posterior(alphas)[2]

    def terms(variance):
        columns = k * GRID.points, np.full(GRID.points.size, variance)
        log_p = gaussian_fits.log_gaussian_columns(GRID, *columns)
        middle = objective.middle_term(GRID, log_q, alphas, log_p)
        return middle, objective.reversed_middle_term(GRID, log_q, alphas, log_p)[140]

    for which, at in ((0, spread), (1, narrow)):
        least = terms(at)[which]
        assert least < terms(0.99 * at)[which]
        assert least < terms(1.01 * at)[which]
    np.testing.assert_allclose(spread / narrow, erratum_number, rtol=1e-3)


@pytest.mark.equation("S4 121", f"{LAB}.objective:first_term")
def test_first_term_is_a_divergence_and_a_constant():
    log_q, alpha = on_grid("mixture", GRID), 0.9
    best = kernels.log_reverse(GRID, log_q, alpha)
    log_p = gaussian_fits.log_fitted(GRID, np.exp(best))
    constant = objective.first_term(GRID, log_q, alpha, best)
    got = objective.first_term(GRID, log_q, alpha, log_p) - constant
    divergence = gaussian_fits.shape(GRID, log_q, alpha)["nongaussian"]  # from the entropies
    np.testing.assert_allclose(got, -divergence, rtol=1e-8)
    assert got < -0.1


@pytest.mark.erratum(
    "S4 §3.4.7",
    "variance of K's fixed point for N(0, 0.25), alpha = 0.9, which would be q's 0.25",
    0.1646,
)
def test_fixed_point_of_a_gaussian_is_not_its_density(erratum_number):
    found = fixed_points.fixed_point(GRID, mixture([1.0], [0.0], [0.5]), 0.9)
    assert found.exists
    mean, variance = fixed_points.gaussian_fixed_point(0.0, 0.25, 0.9)
    np.testing.assert_allclose(variance, erratum_number, rtol=1e-3)
    np.testing.assert_allclose(found.density, np.exp(normal(mean, math.sqrt(variance))), atol=1e-8)
    np.testing.assert_allclose(1 / variance, 1 / 0.25 + 1 / (0.9 * 0.25 + 0.1) - 1, rtol=1e-12)


def test_fixed_point_of_a_gaussian_is_its_density_only_for_the_standard_normal():
    assert fixed_points.gaussian_fixed_point(0.0, 1.0, 0.9) == pytest.approx((0.0, 1.0))
    # Not for another mean either: it grows to 1 + sqrt(alpha) times as much.
    mean, variance = fixed_points.gaussian_fixed_point(0.3, 1.0, 0.9)
    assert (mean, variance) == pytest.approx((0.3 * (1 + math.sqrt(0.9)), 1.0))
    found = fixed_points.fixed_point(GRID, mixture([1.0], [0.3], [1.0]), 0.9)
    assert found.exists
    np.testing.assert_allclose(found.density, np.exp(normal(mean, 1.0)), atol=1e-8)


@pytest.mark.parametrize("alpha", [0.5, 0.9, 0.99])
def test_there_is_a_fixed_point_below_a_certain_variance_only(alpha):
    limit = (1 + math.sqrt(alpha)) / math.sqrt(alpha)
    assert fixed_points.gaussian_fixed_point(0.0, limit * (1 - 1e-6), alpha) is not None
    assert fixed_points.gaussian_fixed_point(0.0, limit * (1 + 1e-6), alpha) is None


def test_fixed_point_of_a_wide_gaussian_is_an_artefact_of_the_grid():
    assert fixed_points.gaussian_fixed_point(0.0, 4.0, 0.9) is None
    found = fixed_points.fixed_point(COARSE, mixture([1.0], [0.0], [2.0]), 0.9)
    assert not found.exists
    assert found.moved > 0.9


@pytest.mark.parametrize("name", DENSITIES)
def test_fixed_point_has_its_closed_form(name):
    log_q, alpha = on_grid(name, GRID), 0.98
    found = fixed_points.fixed_point(GRID, DENSITIES[name], alpha)
    assert found.exists
    np.testing.assert_allclose(
        found.density, fixed_points.closed_form(GRID, log_q, alpha), atol=1e-10
    )
    stays = kernels.push(GRID, kernels.reverse(GRID, log_q, alpha), found.density)
    np.testing.assert_allclose(stays, found.density, atol=1e-10)
    assert js(GRID, found.density, np.exp(log_q)) > 5e-4
    # The longer the chain, the nearer its fixed point to q.
    chains = [fixed_points.closed_form(GRID, log_q, alpha**n) for n in (100, 200, 400)]
    far, near, nearest = (js(GRID, p, np.exp(log_q)) for p in chains)
    assert far > near > nearest
    assert nearest < 1e-5


def test_iterates_approach_at_the_second_eigenvalue():
    log_q, alpha = normal(0.0, 0.5), 0.9
    second = fixed_points.second_eigenvalue(GRID, log_q, alpha)
    np.testing.assert_allclose(second, gaussian_conditional(0.25, alpha)[0], rtol=1e-9)
    kernel, limit = (
        kernels.reverse(GRID, log_q, alpha),
        fixed_points.closed_form(GRID, log_q, alpha),
    )
    p, distances = np.exp(normal(0.5, 0.3)), []
    for _ in range(30):
        p = kernels.push(GRID, kernel, p)
        distances.append(float(tv(GRID, p, limit)))
    np.testing.assert_allclose(distances[-1] / distances[-2], second, rtol=1e-3)


@pytest.mark.equation("S4 128", f"{LAB}.deconvolution:deconvolve")
def test_deconvolution_undoes_a_step_and_multiplies_a_wave():
    parts, alpha = MIXTURES["mixture"], 0.98
    q_t = np.exp(diffuse_mixture(*parts, alpha)(GRID.points))
    weights, means, stds = parts
    root = math.sqrt(alpha)
    scaled = mixture(weights, [root * m for m in means], [root * s for s in stds])(GRID.points)
    back = deconvolution.deconvolve(GRID, q_t, alpha, 45.0)
    np.testing.assert_allclose(back, np.exp(scaled), atol=1e-6)
    n = GRID.points.size
    frequency = 2 * math.pi * 30 / (n * GRID.spacing)
    wave = np.cos(frequency * GRID.points)
    gain = deconvolution.amplification(alpha, frequency)
    np.testing.assert_allclose(gain, math.exp(0.01 * frequency**2), rtol=1e-12)
    np.testing.assert_allclose(deconvolution.deconvolve(GRID, wave, alpha, 20.0), gain * wave,
                               atol=1e-7 * gain)  # fmt: skip
    np.testing.assert_allclose(deconvolution.deconvolve(GRID, wave, alpha, 10.0), 0.0, atol=1e-9)


def test_deconvolution_takes_the_standard_normal_to_itself():
    back = deconvolution.deconvolve(GRID, np.exp(normal()), 0.9, 12.0)
    np.testing.assert_allclose(back, np.exp(normal(0.0, math.sqrt(0.9))), atol=1e-8)


def test_noise_grows_by_deconvolution_and_shrinks_by_the_kernel():
    noises = deconvolution.band_noises(GRID, 25.0, np.random.default_rng(0), 5)
    strong, weak = (deconvolution.gain_deconvolution(GRID, noises, a, 25.0) for a in (0.95, 0.99))
    assert strong > 1e5 > 100 > weak > 1
    log_q = on_grid("uniform", GRID)
    low, high = (deconvolution.gain_kernel(GRID, log_q, noises, a) for a in (0.95, 0.99))
    assert low < high < 1
    # e^((1 - alpha) pi^2 / (2 spacing^2)) at the highest frequency of the grid, but for its ends.
    condition = deconvolution.condition_number(COARSE, 0.98)
    np.testing.assert_allclose(math.log(condition), 0.02 * math.pi**2 / (2 * 0.01), rtol=0.1)
