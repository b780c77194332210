"""Samplers with the exact denoiser: moments of Gaussian data, propagated without noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.sampler_orders.moments import error, fitted_order
from vdm.diffusion import flow, grids, langevin, noise, samplers
from vdm.diffusion.exact import GaussianData, MixtureData
from vdm.diffusion.samplers import Interval, run_chain

MIXTURE = MixtureData(
    jnp.array([0.2, 0.8]), jnp.array([[-0.8, 0.0], [0.6, 0.3]]), jnp.array([0.1, 0.2])
)
SAMPLERS = {
    "ancestral": samplers.ancestral(),
    "forward": samplers.ancestral("forward"),
    "ancestral, last step without noise": samplers.ancestral(last_noise=False),
    "ddim": samplers.ddim(),
    "ddim 0.5": samplers.ddim(0.5),
    "euler_maruyama": samplers.euler_maruyama(),
    "heun": samplers.heun(),
    "dpm_solver": samplers.dpm_solver(),
    "dpm_solver, stochastic": samplers.dpm_solver(stochastic=True),
    "flow": flow.flow(1e-4),
    "predictor_corrector": langevin.predictor_corrector(),
    "annealed_langevin": langevin.annealed_langevin(),
}


@pytest.mark.parametrize(
    ("name", "theory"),
    [("ancestral", 1), ("forward", 1), ("ancestral, last step without noise", 1), ("ddim", 1),
     ("ddim 0.5", 1), ("euler_maruyama", 1), ("heun", 2), ("dpm_solver", 2),
     ("dpm_solver, stochastic", 2)],
)  # fmt: skip
def test_mean_and_variance_converge_at_the_order_of_the_sampler(name, theory):
    steps = [50, 200]
    errors = [error(SAMPLERS[name], n) for n in steps]
    assert errors[-1] < 0.02
    assert abs(fitted_order(steps, errors) - theory) < 0.1


@pytest.mark.parametrize("name", ["predictor_corrector", "annealed_langevin"])
def test_langevin_dynamics_converge_to_the_truth(name):
    errors = [error(SAMPLERS[name], n, draws=5) for n in (50, 400)]
    assert errors[1] < min(0.01, errors[0] / 4)


def one_step(sampler, denoiser, z, omega_s, omega_t, xi, last=False):
    interval = Interval(omega_s, omega_t, jnp.bool_(last), lambda k: xi)
    return sampler.step(denoiser, z, sampler.init(z), interval)[0]


@pytest.mark.parametrize("variance", ["posterior", "forward"])
@pytest.mark.equation("S4 60", "vdm.diffusion.samplers:ancestral")
@pytest.mark.equation("S1 1.154", "vdm.diffusion.samplers:ancestral")
def test_ancestral_step_is_the_posterior_with_x_hat(variance):
    # Bayes' rule with x = x_hat: precisions add.
    with jax.enable_x64(True):
        z, eps, xi = jax.random.normal(jax.random.key(0), (3, 4, 2), jnp.float64)
        s, t = jnp.float64(-1.5), jnp.float64(0.4)
        x_hat = (z - noise.sigma(t) * eps) / noise.alpha(t)
        scale = noise.alpha(t) / noise.alpha(s)
        step_var = noise.sigma(t) ** 2 - scale**2 * noise.sigma(s) ** 2
        var = 1 / (1 / noise.sigma(s) ** 2 + scale**2 / step_var)
        mean = var * (scale / step_var * z + noise.alpha(s) / noise.sigma(s) ** 2 * x_hat)
        std = jnp.sqrt(var if variance == "posterior" else step_var)
        got = one_step(samplers.ancestral(variance), lambda z, w: eps, z, s, t, xi)
        np.testing.assert_allclose(got, mean + std * xi, rtol=1e-10)
        silent = samplers.ancestral(variance, last_noise=False)
        got = one_step(silent, lambda z, w: eps, z, s, t, xi, last=True)
        np.testing.assert_allclose(got, mean, rtol=1e-10)
        got = one_step(silent, lambda z, w: eps, z, s, t, xi, last=False)
        np.testing.assert_allclose(got, mean + std * xi, rtol=1e-10)


def test_ddim_with_eta_one_is_ancestral():
    with jax.enable_x64(True):
        z, eps, xi = jax.random.normal(jax.random.key(0), (3, 4, 2), jnp.float64)
        s, t = jnp.float64(-1.5), jnp.float64(0.4)
        both = [
            one_step(sampler, lambda z, w: eps, z, s, t, xi)
            for sampler in (samplers.ddim(1.0), samplers.ancestral())
        ]
        np.testing.assert_allclose(*both, rtol=1e-10)


@pytest.mark.parametrize("eta", [0.3, 0.5, 1.0])
def test_ddim_adds_the_share_eta_squared_of_the_posterior_variance(eta):
    # DDIM Eq. 12 and 16 in numbers: eta scales the standard deviation, so its square the variance.
    # Gaussian data cannot tell eta^2 from eta: both samplers converge at the same order.
    with jax.enable_x64(True):
        z, eps, xi = jax.random.normal(jax.random.key(0), (3, 4, 2), jnp.float64)
        s, t = jnp.float64(-1.5), jnp.float64(0.4)
        x_hat = (z - noise.sigma(t) * eps) / noise.alpha(t)
        std = eta * jnp.sqrt(noise.posterior(z, eps, s, t)[1])
        direction = jnp.sqrt(noise.sigma(s) ** 2 - std**2)
        got = one_step(samplers.ddim(eta), lambda z, w: eps, z, s, t, xi)
        np.testing.assert_allclose(
            got, noise.alpha(s) * x_hat + direction * eps + std * xi, rtol=1e-10
        )


def test_euler_maruyama_step_is_that_of_the_reverse_sde():
    with jax.enable_x64(True):
        z, eps, xi = jax.random.normal(jax.random.key(0), (3, 4, 2), jnp.float64)
        s, t = jnp.float64(-1.5), jnp.float64(0.4)
        variance = 1 / (1 + np.exp(-0.4))  # sigma_t^2
        mean = z + 1.9 * (0.5 * variance * z - np.sqrt(variance) * eps)
        for last_noise, last, factor in ((True, True, 1), (False, True, 0), (False, False, 1)):
            sampler = samplers.euler_maruyama(last_noise)
            got = one_step(sampler, lambda z, w: eps, z, s, t, xi, last)
            want = mean + factor * np.sqrt(1.9 * variance) * xi
            np.testing.assert_allclose(got, want, rtol=1e-10)


@pytest.mark.equation("S2 102", "vdm.diffusion.langevin:langevin_steps")
def test_steps_of_langevin_samplers_are_a_move_and_then_langevin_dynamics():
    # eps_hat does not depend on z, so that sums can be written out.
    with jax.enable_x64(True):
        z, eps, xi = jax.random.normal(jax.random.key(0), (3, 4, 2), jnp.float64)
        s, t = jnp.float64(-1.5), jnp.float64(0.4)
        sigma = noise.sigma(s)

        def langevin_sum(c):  # two steps of the share c of sigma_s^2
            return -2 * c * sigma * eps + 2 * np.sqrt(2 * c) * sigma * xi

        got = one_step(langevin.annealed_langevin(2, 0.3), lambda z, w: eps, z, s, t, xi)
        kept = noise.alpha(s) / noise.alpha(t) * z  # z / alpha stays
        np.testing.assert_allclose(got, kept + langevin_sum(0.3), rtol=1e-10)
        got = one_step(langevin.predictor_corrector(2, 0.5), lambda z, w: eps, z, s, t, xi)
        predicted = one_step(samplers.ancestral(), lambda z, w: eps, z, s, t, xi)
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

        z = jnp.array([[0.7]])
        got = run_chain(z, lambda i: 0.0, omegas, denoiser, samplers.dpm_solver()).z_0
        for k, (s, t) in enumerate([(2.0, 2.5), (-1.0, 2.0), (-3.0, -1.0)]):
            s, t = jnp.float64(s), jnp.float64(t)
            h = 0.5 * (t - s)
            d = x_hat_at(t - (h if k else 0.0))  # h in lambda is 2 h in omega; half of it is h
            z = noise.sigma(s) / noise.sigma(t) * z - noise.alpha(s) * jnp.expm1(-h) * d
        np.testing.assert_allclose(got, z, rtol=1e-12)


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

        mean, by_noise = jax.value_and_grad(z_0)(jnp.zeros((300, 1, 1)))
        assert abs(mean) < 1e-9
        variance = jnp.sum(by_noise**2) / noise.sigma(omega) ** 2
        np.testing.assert_allclose(variance, 1 / (1 - 0.1), rtol=1e-10)


def test_every_draw_of_a_chain_is_another():
    # Sampling adds all that it draws: no index may be used twice, not even z_1's.
    seen = []

    def noise_at(index):
        jax.debug.callback(lambda i: seen.append(int(i)), index)
        return jnp.zeros((1, 1))

    omegas = jnp.linspace(-3.0, 3.0, 6)
    for name, draws in [("ancestral", 1), ("predictor_corrector", 2), ("annealed_langevin", 5)]:
        seen.clear()
        data = GaussianData(0.5)
        run_chain(jnp.ones((1, 1)), noise_at, omegas, data.eps_hat, SAMPLERS[name])
        jax.effects_barrier()
        assert len(set(seen)) == len(seen) == 5 * draws
        assert 0 not in seen


@pytest.mark.slow  # of it 10 seconds of compilation
def test_flow_is_as_exact_as_its_tolerance_and_counts_its_calls():
    data = GaussianData(0.5)
    omegas = jnp.array([-8.0, 5.0])
    z = jnp.array([[1.0], [2.0], [-0.3]])
    want = z * jnp.sqrt(data.flow_variance(*omegas))
    labels = jnp.array([1.0, 2.0, 3.0])
    calls = []
    for tolerance in (1e-2, 1e-5):

        @jax.jit
        def solve(z, labels, tolerance=tolerance):
            # a denoiser that holds the labels of its batch
            def denoiser(z, omega):
                return data.eps_hat(z / labels[:, None], omega) * labels[:, None]

            return run_chain(z, lambda i: z, omegas, denoiser, flow.flow(tolerance))

        chain = solve(z, labels)
        np.testing.assert_allclose(chain.z_0, want, rtol=5 * tolerance + 2e-5)
        calls.append(chain.evaluations)
        alone = solve(z[1:2], labels[1:2])
        np.testing.assert_allclose(alone.z_0[0], chain.z_0[1], rtol=1e-5)
        assert alone.evaluations[0] == chain.evaluations[1]
    assert (calls[0] < calls[1]).all()


def test_flow_gives_each_dimension_its_own_noise_level():
    data = GaussianData(0.5)
    omegas = jnp.array([[-8.0, -4.0], [5.0, 3.0]])
    z = jnp.array([[1.0, 1.0], [0.5, -1.0]])
    chain = run_chain(z, lambda i: z, omegas, data.eps_hat, flow.flow(1e-5))
    want = [z[:, d] * jnp.sqrt(data.flow_variance(*omegas[:, d])) for d in (0, 1)]
    np.testing.assert_allclose(chain.z_0.T, want, rtol=1e-3)


@pytest.mark.parametrize("name", ["ancestral", "heun", "dpm_solver", "annealed_langevin"])
def test_samples_of_a_mixture_have_its_moments(name):
    keys = jax.random.split(jax.random.key(0), 4000)
    omegas = jnp.linspace(-10.0, 10.0, 201)
    z_0 = samplers.sample(keys, (2,), omegas, MIXTURE.eps_hat, SAMPLERS[name])
    left = np.mean(np.asarray(z_0)[:, 0] < -0.2)
    assert abs(left - 0.2) < 0.025  # 4 standard errors
    np.testing.assert_allclose(z_0.mean(0), [0.32, 0.24], atol=0.04)
    var_x = 0.2 * (0.64 + 0.01) + 0.8 * (0.36 + 0.04) - 0.32**2
    np.testing.assert_allclose(z_0[:, 0].var(), var_x, rtol=0.06)


@pytest.mark.parametrize("name", ["ancestral", "predictor_corrector"])
def test_a_sample_does_not_depend_on_its_batch(name):
    data, omegas = GaussianData(0.5), jnp.linspace(-8.0, 5.0, 6)
    keys = jax.random.split(jax.random.key(3), 8)

    def draw(keys):
        return samplers.sample(keys, (4,), omegas, data.eps_hat, SAMPLERS[name])

    np.testing.assert_allclose(draw(keys)[2:5], draw(keys[2:5]), atol=1e-5)


@pytest.mark.parametrize("name", [n for n in SAMPLERS if n != "flow"])
def test_deterministic_samplers_are_functions_of_z_1(name):
    data, omegas, z_1 = GaussianData(0.5), jnp.linspace(-8.0, 5.0, 6), jnp.ones((1, 1))
    z_0 = [
        run_chain(z_1, lambda i, c=c: jnp.full((1, 1), c), omegas, data.eps_hat, SAMPLERS[name]).z_0
        for c in (0.0, 1.0)
    ]
    assert np.array_equal(*z_0) == SAMPLERS[name].deterministic


def test_evaluations_are_those_that_are_made():
    calls = []

    def counting(z, omega):
        jax.debug.callback(lambda _: calls.append(1), z)
        return z

    for name in ("ancestral", "heun", "dpm_solver", "predictor_corrector", "annealed_langevin"):
        calls.clear()
        omegas, z = jnp.linspace(-3.0, 3.0, 4), jnp.ones((2, 1))
        chain = run_chain(z, lambda i, z=z: z, omegas, counting, SAMPLERS[name])
        jax.effects_barrier()
        assert len(calls) == chain.evaluations[0] == chain.evaluations[1]


def test_frames_are_latents_on_the_way_and_end_with_z_0():
    data, omegas, z_1 = GaussianData(0.5), jnp.linspace(-8.0, 5.0, 7), jnp.ones((2, 3))

    def chain(num_frames):
        noise_at = noise.fresh_noise(jax.random.split(jax.random.key(0)), (3,))
        return run_chain(z_1, noise_at, omegas, data.eps_hat, samplers.ddim(), num_frames)

    steps, every_second = chain(6), chain(3)
    np.testing.assert_array_equal(steps.frames[-1], steps.z_0)
    np.testing.assert_array_equal(every_second.frames, steps.frames[1::2])
    assert len(chain(99).frames) == 6
    first = one_step(samplers.ddim(), data.eps_hat, z_1, omegas[-2], omegas[-1], z_1)
    np.testing.assert_allclose(steps.frames[0], first, rtol=1e-6)


def test_grids_run_between_the_ends_of_the_schedule():
    def schedule(t):
        return -8.0 + 13.0 * t**2

    for grid in (grids.equal_times, grids.equal_omegas, grids.karras(7.0)):
        omegas = grid(schedule, 10)
        assert omegas.shape == (11,)
        assert (np.diff(omegas) > 0).all()
        np.testing.assert_allclose(omegas[jnp.array([0, -1])], [-8.0, 5.0], rtol=1e-5)
    np.testing.assert_allclose(np.diff(grids.equal_omegas(schedule, 10)), 1.3, rtol=1e-4)
    np.testing.assert_allclose(grids.equal_times(schedule, 10)[5], -8.0 + 13.0 / 4)
    roots = np.exp(grids.karras(3.0)(schedule, 10) / 6)  # r^(1/3), r = exp(omega / 2)
    np.testing.assert_allclose(np.diff(roots), np.diff(roots)[0], rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samplers.ancestral("prior"), "known: posterior, forward"),
        (lambda: samplers.ddim(1.5), r"in \[0, 1\]"),
        (lambda: flow.flow(0.0), r"in \(0, 1\)"),
        (lambda: langevin.annealed_langevin(0), "at least 1"),
        (lambda: langevin.predictor_corrector(1, -0.1), "snr = -0.1"),
        (lambda: grids.karras(0.0), "rho = 0.0"),
    ],
)
def test_settings_of_no_use_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
