import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.closed_forms import gauss_legendre
from vdm.diffusion import noise, weightings
from vdm.diffusion.exact import GaussianData
from vdm.diffusion.schedule_algebra import omega_dot

OMEGA = jnp.linspace(-13.3, 10.0, 41)
WEIGHT = jnp.linspace(0.1, 900.0, 41)
ALL = [weightings.bound, weightings.simple, weightings.min_snr(), weightings.sigmoid()]


def linear(t):
    return -8.0 + 13.0 * t


def bent(t):
    return -8.0 + 13.0 * (0.2 * t + 0.8 * t**3)


def weighted_term(weighting, schedule, density):
    """E[w(omega) omega'(t) d(omega)] over t ~ U(0, 1), by Gauss and Legendre."""
    nodes, weights = gauss_legendre(200)

    @jax.jit
    def at(t):
        omega, weight = schedule(t), omega_dot(schedule, t)
        return omega, weighting(omega, weight) * weight

    omega, weight = map(np.asarray, at(nodes))
    return float(np.sum(weights * weight * density(omega)))


@pytest.mark.parametrize("weighting", ALL)
def test_multipliers_are_positive_and_have_the_shape_of_the_levels(weighting):
    for shape in ((41,), (1, 41), ()):
        found = weighting(jnp.broadcast_to(OMEGA[0], shape), jnp.broadcast_to(WEIGHT[0], shape))
        assert found.shape == shape
    multiplier = weighting(OMEGA, WEIGHT)
    assert np.all(np.isfinite(multiplier)) and np.all(multiplier > 0)  # noqa: PT018
    assert multiplier.dtype == jnp.float32


def test_bound_changes_nothing():
    np.testing.assert_array_equal(weightings.bound(OMEGA, WEIGHT), 1.0)


@pytest.mark.equation("S1 1.153", "vdm.diffusion.weightings:simple")
def test_simple_leaves_half_the_squared_error():
    np.testing.assert_allclose(weightings.simple(OMEGA, WEIGHT) * WEIGHT, 1.0, rtol=1e-6)


def test_min_snr_weighs_errors_of_x_by_the_snr_and_no_more_than_gamma():
    # ||eps - eps_hat||^2 = SNR ||x - x_hat||^2 at the same z
    for gamma, weighting in ((5.0, weightings.min_snr()), (0.3, weightings.min_snr(0.3))):
        of_x = weighting(OMEGA, WEIGHT) * WEIGHT * noise.snr(OMEGA)
        np.testing.assert_allclose(of_x, np.minimum(noise.snr(OMEGA), gamma), rtol=1e-5)
    assert float(weightings.min_snr()(jnp.float32(100.0), jnp.float32(1.0))) == pytest.approx(1.0)


@pytest.mark.parametrize("gamma", [0.0, -1.0, float("nan")])
def test_min_snr_refuses_a_gamma_that_is_not_positive(gamma):
    with pytest.raises(ValueError, match="must be positive"):
        weightings.min_snr(gamma)


def test_sigmoid_increases_with_noise_from_half_at_minus_its_shift():
    weighting = weightings.sigmoid()
    multiplier = weighting(OMEGA, WEIGHT)
    np.testing.assert_allclose(multiplier, 1 / (1 + np.exp(-2.0 - OMEGA)), rtol=1e-5)
    assert np.all(np.diff(multiplier) > 0)
    assert float(weightings.sigmoid(3.5)(jnp.float32(-3.5), jnp.float32(7.0))) == 0.5


def test_a_weighting_of_omega_alone_is_free_of_the_schedule_and_simple_is_not():
    # The ideal denoiser of N(0, s^2) has d(omega) = r(omega) / 2 for each dimension. The weighted
    # loss is an integral over omega that no schedule enters (VDM++); for 'simple' t is uniform.
    def density(omega):
        return 0.5 / (1 + np.exp(omega - 2 * np.log(0.5)))

    omega, t = np.linspace(-8.0, 5.0, 100_001), np.linspace(0.0, 1.0, 100_001)
    integral = np.trapezoid(density(omega) / (1 + np.exp(-omega - 2.0)), omega)
    with jax.enable_x64():
        for schedule in (linear, bent):
            got = weighted_term(weightings.sigmoid(), schedule, density)
            np.testing.assert_allclose(got, integral, rtol=1e-8)
            got = weighted_term(weightings.simple, schedule, density)
            np.testing.assert_allclose(got, np.trapezoid(density(schedule(t)), t), rtol=1e-8)
        got = weighted_term(weightings.bound, bent, density)
        term = GaussianData(0.5).denoising_term(jnp.asarray(-8.0), jnp.asarray(5.0))
        np.testing.assert_allclose(got, term, rtol=1e-8)
