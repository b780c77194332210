"""Divergences of one-dimensional densities, and how much a reverse kernel contracts them."""

import math

import numpy as np
import pytest

from experiments.dpm_lab import (
    contraction,
    kernels,
)
from experiments.dpm_lab.densities import (
    on_grid,
    random_densities,
    smooth_noise,
)
from experiments.dpm_lab.divergences import DIVERGENCES, chi_squared, hellinger, js, kl
from experiments.dpm_lab.divergences import total_variation as tv
from tests.experiments.dpm_grids import GRID, NARROW, gaussian_conditional, normal

LAB = "experiments.dpm_lab"


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


def test_disturbed_density_has_the_wanted_distance():
    q = np.exp(on_grid("triangular", GRID))
    noise = smooth_noise(np.random.default_rng(0), 200, GRID, 0.2)
    np.testing.assert_allclose(np.mean(np.square(noise[:, 40:-40])), 1.0, rtol=0.02)
    disturbed = contraction.disturb(GRID, q, noise[0], 0.2)
    np.testing.assert_allclose(js(GRID, disturbed, q), 0.2, rtol=1e-9)
    with pytest.raises(ValueError, match=r"log 2 = 0\.693"):
        contraction.disturb(GRID, q, noise[0], 0.7)
