"""Samplers with the exact denoiser: moments of Gaussian data, frames, evaluations, grids."""

import functools

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
    "dpm_solver, noisy below 1": samplers.dpm_solver(stochastic=True, noisy_below=1.0),
    "flow": flow.flow(1e-4),
    "predictor_corrector": langevin.predictor_corrector(),
    "annealed_langevin": langevin.annealed_langevin(),
}


@pytest.mark.parametrize(
    ("name", "theory"),
    [("ancestral", 1), ("forward", 1), ("ancestral, last step without noise", 1), ("ddim", 1),
     ("ddim 0.5", 1), ("euler_maruyama", 1), ("heun", 2), ("dpm_solver", 2),
     ("dpm_solver, stochastic", 2), ("dpm_solver, noisy below 1", 2)],
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


def test_every_draw_of_a_chain_is_another():
    # Each draw is added to z: no index may be used twice, and not that of z_1.
    seen = []

    def noise_at(index):
        jax.debug.callback(lambda i: seen.append(int(i)), index)
        return jnp.zeros((1, 1))

    omegas, data = jnp.linspace(-3.0, 3.0, 6), GaussianData(0.5)
    for name, draws in [("ancestral", 1), ("predictor_corrector", 2), ("annealed_langevin", 5)]:
        seen.clear()
        run = functools.partial(run_chain, denoiser=data.eps_hat, sampler=SAMPLERS[name])
        jax.jit(lambda z, run=run: run(z, noise_at, omegas).z_0)(jnp.ones((1, 1)))
        jax.effects_barrier()
        assert len(set(seen)) == len(seen) == 5 * draws
        assert 0 not in seen


@pytest.mark.slow  # 10 seconds of compilation
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
            # a denoiser that closes over the labels of its batch
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

    @jax.jit
    def solve(z):
        chain = run_chain(z, lambda i: z, omegas, data.eps_hat, flow.flow(1e-5))
        want = [z[:, d] * jnp.sqrt(data.flow_variance(*omegas[:, d])) for d in (0, 1)]
        return chain.z_0, jnp.stack(want, axis=1)

    np.testing.assert_allclose(*solve(jnp.array([[1.0, 1.0], [0.5, -1.0]])), rtol=1e-3)


@pytest.mark.parametrize(
    "name", ["ancestral", "heun", "dpm_solver", "dpm_solver, noisy below 1", "annealed_langevin"]
)
def test_samples_of_a_mixture_have_its_moments(name):
    keys = jax.random.split(jax.random.key(0), 4000)
    omegas = jnp.linspace(-10.0, 10.0, 201)
    draw = jax.jit(
        lambda keys: samplers.sample(keys, (2,), omegas, MIXTURE.eps_hat, SAMPLERS[name])
    )
    z_0 = np.asarray(draw(keys))
    left = np.mean(z_0[:, 0] < -0.2)
    assert abs(left - 0.2) < 0.025  # 4 standard errors
    np.testing.assert_allclose(z_0.mean(0), [0.32, 0.24], atol=0.04)
    var_x = 0.2 * (0.64 + 0.01) + 0.8 * (0.36 + 0.04) - 0.32**2
    np.testing.assert_allclose(z_0[:, 0].var(), var_x, rtol=0.06)


@pytest.mark.parametrize("name", ["ancestral", "predictor_corrector"])
def test_a_sample_does_not_depend_on_its_batch(name):
    data, omegas = GaussianData(0.5), jnp.linspace(-8.0, 5.0, 6)
    keys = jax.random.split(jax.random.key(3), 8)

    @jax.jit
    def draw(keys):
        return samplers.sample(keys, (4,), omegas, data.eps_hat, SAMPLERS[name])

    np.testing.assert_allclose(draw(keys)[2:5], draw(keys[2:5]), atol=1e-5)


@pytest.mark.parametrize("name", [n for n in SAMPLERS if n != "flow"])
def test_deterministic_samplers_are_functions_of_z_1(name):
    data, omegas, z_1 = GaussianData(0.5), jnp.linspace(-8.0, 5.0, 6), jnp.ones((1, 1))

    @jax.jit
    def z_0(xi):
        return run_chain(z_1, lambda i: xi, omegas, data.eps_hat, SAMPLERS[name]).z_0

    found = z_0(jnp.zeros((1, 1))), z_0(jnp.ones((1, 1)))
    assert np.array_equal(*found) == SAMPLERS[name].deterministic


def test_evaluations_are_those_that_are_made():
    calls = []

    def counting(z, omega):
        jax.debug.callback(lambda _: calls.append(1), z)
        return z

    omegas = jnp.linspace(-3.0, 3.0, 4)
    for name in ("ancestral", "heun", "dpm_solver", "predictor_corrector", "annealed_langevin"):
        calls.clear()
        run = functools.partial(run_chain, denoiser=counting, sampler=SAMPLERS[name])
        chain = jax.jit(lambda z, run=run: run(z, lambda i: z, omegas))(jnp.ones((2, 1)))
        jax.effects_barrier()
        assert len(calls) == chain.evaluations[0] == chain.evaluations[1]


def test_frames_are_latents_on_the_way_and_end_with_z_0():
    data, omegas, z_1 = GaussianData(0.5), jnp.linspace(-8.0, 5.0, 7), jnp.ones((2, 3))

    @functools.partial(jax.jit, static_argnums=0)
    def chain(num_frames):
        noise_at = noise.fresh_noise(jax.random.split(jax.random.key(0)), (3,))
        return run_chain(z_1, noise_at, omegas, data.eps_hat, samplers.ddim(), num_frames)

    steps, every_second = chain(6), chain(3)
    np.testing.assert_array_equal(steps.frames[-1], steps.z_0)
    np.testing.assert_array_equal(every_second.frames, steps.frames[1::2])
    assert len(chain(99).frames) == 6
    ddim, interval = samplers.ddim(), Interval(*omegas[-2:], jnp.bool_(False), lambda k: z_1)
    first, _ = ddim.step(data.eps_hat, z_1, ddim.init(z_1), interval)
    np.testing.assert_allclose(steps.frames[0], first, rtol=1e-6)


def test_grids_run_between_the_ends_of_the_schedule():
    def schedule(t):
        return -8.0 + 13.0 * t**2

    kinds = (grids.equal_times, grids.equal_omegas, grids.karras(7.0), grids.karras(3.0))
    every = [np.asarray(omegas) for omegas in jax.jit(lambda: [g(schedule, 10) for g in kinds])()]
    for omegas in every:
        assert omegas.shape == (11,)
        assert (np.diff(omegas) > 0).all()
        np.testing.assert_allclose(omegas[[0, -1]], [-8.0, 5.0], rtol=1e-5)
    equal_times, equal_omegas, _, cube_roots = every
    np.testing.assert_allclose(np.diff(equal_omegas), 1.3, rtol=1e-4)
    np.testing.assert_allclose(equal_times[5], -8.0 + 13.0 / 4)
    roots = np.exp(cube_roots / 6)  # r^(1/3), r = exp(omega / 2)
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
