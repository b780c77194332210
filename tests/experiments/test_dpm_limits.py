"""Fixed points of the reverse kernel, and deconvolution, which undoes a step of noise."""

import math

import numpy as np
import pytest

from experiments.dpm_lab import (
    deconvolution,
    fixed_points,
    kernels,
)
from experiments.dpm_lab.densities import (
    DENSITIES,
    MIXTURES,
    diffuse_mixture,
    mixture,
    on_grid,
)
from experiments.dpm_lab.divergences import js
from experiments.dpm_lab.divergences import total_variation as tv
from tests.experiments.dpm_grids import COARSE, GRID, gaussian_conditional, normal

LAB = "experiments.dpm_lab"


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
    # With another mean it is not the density either: the mean grows by the factor 1 + sqrt(alpha).
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
    # The longer the chain, the closer its fixed point is to q.
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
