import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdm.diffusion import noise

omegas = st.floats(-14, 12)
# Each whole function is one program, compiled once for all examples.
alpha, sigma, transition, posterior, diffuse = map(
    jax.jit, (noise.alpha, noise.sigma, noise.transition, noise.posterior, noise.diffuse)
)


@pytest.mark.equation("S2 64", "vdm.diffusion.noise:snr")
@pytest.mark.equation("S2 66", "vdm.diffusion.noise:snr")
@pytest.mark.equation("S2 68", "vdm.diffusion.noise:snr")
@pytest.mark.equation("S2 69", "vdm.diffusion.noise:alpha")
@pytest.mark.equation("S2 70", "vdm.diffusion.noise:sigma")
def test_noise_levels_are_sigmoids_of_minus_log_snr():
    omega = jnp.linspace(-20, 20, 401)
    a, s, snr = (np.asarray(f(omega)) for f in (alpha, sigma, jax.jit(noise.snr)))
    exp = np.exp(np.float64(omega))
    np.testing.assert_allclose(snr, 1 / exp, rtol=1e-5)
    np.testing.assert_allclose(a**2, 1 / (1 + exp), rtol=1e-5)
    np.testing.assert_allclose(s**2, exp / (1 + exp), rtol=1e-5)
    np.testing.assert_allclose(a**2 / s**2, snr, rtol=1e-5)
    np.testing.assert_allclose(a**2 + s**2, 1, rtol=1e-6)


@given(omega_s=omegas, gap_1=st.floats(0.01, 5), gap_2=st.floats(0.01, 5))
@pytest.mark.equation("S4 11", "vdm.diffusion.noise:transition")
@pytest.mark.equation("S4 12", "vdm.diffusion.noise:transition")
@pytest.mark.equation("S4 81", "vdm.diffusion.noise:transition")
@pytest.mark.equation("S4 82", "vdm.diffusion.noise:transition")
@pytest.mark.equation("S1 1.63", "vdm.diffusion.noise:transition")
@pytest.mark.equation("S1 1.69", "vdm.diffusion.noise:transition")
@pytest.mark.equation("S1 1.73", "vdm.diffusion.noise:transition")
def test_transitions_compose_to_the_marginal(omega_s, gap_1, gap_2):
    # q(z_t|z_s) after q(z_s|x) is q(z_t|x), and two steps are one: mean scales multiply,
    # variances add after scaling.
    with jax.enable_x64(True):
        s, m, t = (np.float64(o) for o in (omega_s, omega_s + gap_1, omega_s + gap_1 + gap_2))
        scale_st, var_st = map(np.asarray, transition(s, t))
        scale_sm, var_sm = map(np.asarray, transition(s, m))
        scale_mt, var_mt = map(np.asarray, transition(m, t))
        np.testing.assert_allclose(scale_sm * scale_mt, scale_st, rtol=1e-12)
        np.testing.assert_allclose(scale_mt**2 * var_sm + var_mt, var_st, rtol=1e-9)
        alpha_s, alpha_t, sigma_s, sigma_t = (float(f(o)) for f in (alpha, sigma) for o in (s, t))
        np.testing.assert_allclose(scale_st * alpha_s, alpha_t, rtol=1e-12)
        np.testing.assert_allclose(scale_st**2 * sigma_s**2 + var_st, sigma_t**2, rtol=1e-12)


@given(omega_s=omegas, gap=st.floats(0.001, 5))
@pytest.mark.equation("S4 20", "vdm.diffusion.noise:posterior")
@pytest.mark.equation("S4 83", "vdm.diffusion.noise:posterior")
@pytest.mark.equation("S1 1.74", "vdm.diffusion.noise:posterior")
@pytest.mark.equation("S1 1.87", "vdm.diffusion.noise:posterior")
def test_posterior_is_bayes_rule(omega_s, gap):
    # Precisions add: 1/var = 1/sigma_s^2 + alpha_{t|s}^2 / sigma_{t|s}^2 (VDM appendix A.2).
    with jax.enable_x64(True):
        s, t = np.float64(omega_s), np.float64(omega_s + gap)
        x, eps = np.array([[0.3, -0.9]]), np.array([[1.2, 0.4]])
        z_t = np.asarray(diffuse(x, eps, t))
        scale, step_var = map(float, transition(s, t))
        alpha_s, precision_s = float(alpha(s)), 1 / float(sigma(s)) ** 2
        var = 1 / (precision_s + scale**2 / step_var)
        mean = var * (scale / step_var * z_t + alpha_s * precision_s * x)
        got_mean, got_var = posterior(z_t, eps, s, t)
        np.testing.assert_allclose(got_var, var, rtol=1e-8)
        np.testing.assert_allclose(got_mean, mean, rtol=1e-7, atol=1e-9)


def test_transition_variance_keeps_its_digits_for_small_steps():
    with jax.enable_x64(True):
        _, exact = transition(jnp.float64(5.0), jnp.float64(5.0 + 2**-10))
    _, got = transition(jnp.float32(5.0), jnp.float32(5.0 + 2**-10))
    np.testing.assert_allclose(got, exact, rtol=1e-6)
    # a difference of two softplus, for comparison, fails this tolerance
    low, high = jax.nn.softplus(jnp.float32([5.0, 5.0 + 2**-10]))
    assert abs(-jnp.expm1(low - high) / exact - 1) > 1e-5


def test_expand_refuses_a_column_of_omegas():
    # Shape (batch, 1) against (batch,) would broadcast a loss to (batch, batch).
    with pytest.raises(ValueError, match="cannot spread"):
        noise.expand(jnp.zeros((4, 1)), jnp.zeros((4, 8, 8, 1)))
