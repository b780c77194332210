"""The kernels of the laboratory of one-dimensional densities against closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.dpm_lab import (
    kernels,
)
from experiments.dpm_lab.densities import (
    DENSITIES,
    MIXTURES,
    diffuse_mixture,
    on_grid,
)
from experiments.dpm_lab.divergences import js
from tests.experiments.dpm_grids import GRID, gaussian_conditional, normal, omega_of
from vdm.diffusion.noise import transition

LAB = "experiments.dpm_lab"


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
    # Even far from the support the kernel is a density.
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
    # The mean has shrunk to sqrt(0.6^40) = 3.7e-5 of the mean of x.
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
