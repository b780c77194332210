"""One step of each sampler against its formula, for given noise and a given denoiser."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.closed_forms import alpha, sigma
from vdm.diffusion import langevin, noise, samplers
from vdm.diffusion.samplers import Interval, run_chain

OMEGA_S, OMEGA_T = -1.5, 0.4
Z, EPS, XI = np.random.default_rng(0).normal(size=(3, 4, 2))
X_HAT = (Z - sigma(OMEGA_T) * EPS) / alpha(OMEGA_T)


@functools.partial(jax.jit, static_argnums=0)
def step(sampler, eps, z, omega_s, omega_t, xi, last):
    interval = Interval(omega_s, omega_t, last, lambda k: xi)
    return sampler.step(lambda z, omega: eps, z, sampler.init(z), interval)[0]


def one_step(sampler, last=False):
    """z_s of one step from Z, where the denoiser returns EPS and every draw is XI; float64."""
    with jax.enable_x64(True):
        return np.asarray(step(sampler, EPS, Z, np.float64(OMEGA_S), np.float64(OMEGA_T), XI, last))


def posterior_of_x_hat():
    """Mean and variance of q(z_s | z_t, x = x_hat) and variance of q(z_t | z_s). By Bayes' rule:
    precisions add."""
    scale = alpha(OMEGA_T) / alpha(OMEGA_S)
    step_var = sigma(OMEGA_T) ** 2 - scale**2 * sigma(OMEGA_S) ** 2
    var = 1 / (1 / sigma(OMEGA_S) ** 2 + scale**2 / step_var)
    mean = var * (scale / step_var * Z + alpha(OMEGA_S) / sigma(OMEGA_S) ** 2 * X_HAT)
    return mean, var, step_var


@pytest.mark.parametrize("variance", ["posterior", "forward"])
@pytest.mark.equation("S4 60", "vdm.diffusion.samplers:ancestral")
@pytest.mark.equation("S1 1.154", "vdm.diffusion.samplers:ancestral")
def test_ancestral_step_is_the_posterior_with_x_hat(variance):
    mean, var, step_var = posterior_of_x_hat()
    std = np.sqrt(var if variance == "posterior" else step_var)
    got = one_step(samplers.ancestral(variance))
    np.testing.assert_allclose(got, mean + std * XI, rtol=1e-10)
    silent = samplers.ancestral(variance, last_noise=False)
    np.testing.assert_allclose(one_step(silent, last=True), mean, rtol=1e-10)
    np.testing.assert_allclose(one_step(silent, last=False), mean + std * XI, rtol=1e-10)


def test_ddim_with_eta_one_is_ancestral():
    got, want = one_step(samplers.ddim(1.0)), one_step(samplers.ancestral())
    np.testing.assert_allclose(got, want, rtol=1e-10)


@pytest.mark.parametrize("eta", [0.3, 0.5, 1.0])
def test_ddim_adds_the_share_eta_squared_of_the_posterior_variance(eta):
    # DDIM Eq. 12 and 16 in numbers: eta scales the standard deviation, so its square the variance.
    # Gaussian data do not distinguish eta^2 from eta: both converge at the same order.
    std = eta * np.sqrt(posterior_of_x_hat()[1])
    direction = np.sqrt(sigma(OMEGA_S) ** 2 - std**2)
    want = alpha(OMEGA_S) * X_HAT + direction * EPS + std * XI
    np.testing.assert_allclose(one_step(samplers.ddim(eta)), want, rtol=1e-10)


def test_euler_maruyama_step_is_that_of_the_reverse_sde():
    variance = sigma(OMEGA_T) ** 2
    mean = Z + 1.9 * (0.5 * variance * Z - np.sqrt(variance) * EPS)
    for last_noise, last, factor in ((True, True, 1), (False, True, 0), (False, False, 1)):
        got = one_step(samplers.euler_maruyama(last_noise), last)
        want = mean + factor * np.sqrt(1.9 * variance) * XI
        np.testing.assert_allclose(got, want, rtol=1e-10)


@pytest.mark.equation("S2 102", "vdm.diffusion.langevin:langevin_steps")
def test_steps_of_langevin_samplers_are_a_move_and_then_langevin_dynamics():
    # eps_hat does not depend on z, so that sums can be written out.
    def langevin_sum(c):  # two steps of the share c of sigma_s^2
        return -2 * c * sigma(OMEGA_S) * EPS + 2 * np.sqrt(2 * c) * sigma(OMEGA_S) * XI

    got = one_step(langevin.annealed_langevin(2, 0.3))
    kept = alpha(OMEGA_S) / alpha(OMEGA_T) * Z  # z / alpha stays
    np.testing.assert_allclose(got, kept + langevin_sum(0.3), rtol=1e-10)
    got = one_step(langevin.predictor_corrector(2, 0.5))
    predicted = one_step(samplers.ancestral())
    np.testing.assert_allclose(got, predicted + langevin_sum(2 * 0.5**2), rtol=1e-10)


def test_dpm_solver_weighs_the_step_before_by_unequal_steps():
    # For x_hat linear in log(alpha / sigma) the second order is exact at the middle of a step:
    # D = x_hat(lambda_t + h/2), whatever the step before was.
    with jax.enable_x64(True):
        omegas = jnp.array([-3.0, -1.0, 2.0, 2.5])

        def x_hat_at(omega):
            return 0.3 - 0.2 * (-omega / 2)

        def denoiser(z, omega):
            w = omega[:, None]
            return (z - noise.alpha(w) * x_hat_at(w)) / noise.sigma(w)

        z, solver = np.array([[0.7]]), samplers.dpm_solver()
        got = jax.jit(lambda z: run_chain(z, lambda i: 0.0, omegas, denoiser, solver).z_0)(z)
        for k, (s, t) in enumerate([(2.0, 2.5), (-1.0, 2.0), (-3.0, -1.0)]):
            h = 0.5 * (t - s)
            d = x_hat_at(t - (h if k else 0.0))  # h in lambda is 2 h in omega; half of it is h
            z = sigma(s) / sigma(t) * z - alpha(s) * np.expm1(-h) * d
        np.testing.assert_allclose(got, z, rtol=1e-12)


def test_stochastic_steps_of_dpm_solver_begin_below_a_level():
    # This first step, of constant x_hat, is from omega_t = 0.4.
    for below, same in ((0.39, samplers.ddim()), (0.41, samplers.ancestral())):
        got = one_step(samplers.dpm_solver(stochastic=True, noisy_below=below))
        np.testing.assert_allclose(got, one_step(same), rtol=1e-10)


@pytest.mark.equation("S2 102", "vdm.diffusion.langevin:langevin_steps")
def test_langevin_dynamics_have_the_variance_of_their_step():
    # Of q(z_t) = N(0, sigma^2): sigma^2 / (1 - step / 2), after many steps from anywhere.
    def denoiser(z, omega):
        return z / noise.sigma(omega)[:, None]

    with jax.enable_x64(True):
        omega = jnp.float64(-2.0)

        def z_0(xi):
            z = jnp.full((1, 1), 9.0)
            return langevin.langevin_steps(denoiser, z, omega, lambda k: xi[k], 300, 0.2)[0, 0]

        mean, by_noise = jax.jit(jax.value_and_grad(z_0))(np.zeros((300, 1, 1)))
        assert abs(mean) < 1e-9
        variance = np.sum(np.square(by_noise)) / sigma(-2.0) ** 2
        np.testing.assert_allclose(variance, 1 / (1 - 0.1), rtol=1e-10)
