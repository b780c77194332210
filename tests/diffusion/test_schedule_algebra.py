import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm.diffusion import schedule_algebra as algebra
from vdm.diffusion.exact import GaussianData
from vdm.nn import schedules


def bent(t):
    return -8.0 + 13.0 * (0.2 * t + 0.8 * t**3)


def cosine(t):
    return schedules.Cosine(-8.0, 5.0, learn_ends=False).apply({}, t)


def learned(t):
    module = schedules.Monotone(-8.0, 5.0, hidden_features=16)
    params = module.init(jax.random.key(0), jnp.zeros(()))["params"]
    noise = 0.5 * jax.random.normal(jax.random.key(1), (16,))
    return module.apply({"params": params | {"log_heights": noise}}, t)


ALL = [bent, cosine, learned]


@pytest.mark.parametrize("schedule", ALL)
def test_inverse_undoes_the_schedule(schedule):
    t = jnp.linspace(0.0, 1.0, 65)
    omega = schedule(t)
    # Ten roundings of an omega near 8.
    np.testing.assert_allclose(schedule(algebra.inverse(schedule, omega)), omega, atol=5e-6)
    np.testing.assert_array_equal(algebra.inverse(schedule, jnp.array([-9.0, 6.0])), [0.0, 1.0])


@pytest.mark.parametrize("num", [50, 101, 333])
def test_the_best_schedule_keeps_its_ends_in_float32_and_can_be_inverted_there(num):
    omegas = jnp.linspace(-8.0, 5.0, num)
    schedule = algebra.optimal(omegas, jax.nn.sigmoid(-omegas) ** 2)
    assert float(schedule(jnp.ones(()))) == 5.0
    assert float(schedule(jnp.zeros(()))) == -8.0
    t = algebra.inverse(schedule, jnp.array([-9.0, 0.0, 5.0, 6.0]))
    np.testing.assert_allclose(schedule(t), [-8.0, 0.0, 5.0, 5.0], atol=1e-4)
    assert float(algebra.inverse(lambda t: t**2, jnp.zeros(()))) == 0.0  # flat at its start


def test_inverse_has_the_derivatives_of_the_implicit_function():
    def solve(omega, scale):  # omega = scale t^2 (1 + t), at t = 1/2: slope scale (2 t + 3 t^2)
        return algebra.inverse(lambda t: scale * t**2 * (1 + t), omega)

    with jax.enable_x64():
        t, scale = 0.5, 3.0
        omega = jnp.asarray(scale * t**2 * (1 + t))
        slope = scale * (2 * t + 3 * t**2)
        by_omega, by_scale = jax.grad(solve, (0, 1))(omega, jnp.asarray(scale))
        np.testing.assert_allclose(by_omega, 1 / slope, rtol=1e-12)
        np.testing.assert_allclose(by_scale, -(t**2) * (1 + t) / slope, rtol=1e-12)


@pytest.mark.parametrize("schedule", ALL)
def test_density_is_that_of_omega_for_uniform_times(schedule):
    # P(omega(t) < w) = t(w): the integral of the density up to w, by Gauss and Legendre.
    with jax.enable_x64():
        nodes, weights = np.polynomial.legendre.leggauss(200)
        for top in (-3.0, 1.0, 5.0):
            omega = jnp.asarray(-8.0 + (top + 8.0) * (nodes + 1) / 2)
            mass = np.sum(weights * algebra.density(schedule, omega)) * (top + 8.0) / 2
            want = algebra.inverse(schedule, jnp.asarray(top))
            np.testing.assert_allclose(mass, want, rtol=1e-4)


@pytest.mark.parametrize("schedule", ALL)
def test_between_cuts_and_stretched_maps(schedule):
    cut = algebra.between(schedule, jnp.float32(-5.0), jnp.float32(2.0))
    wide = algebra.stretched(schedule, jnp.float32(-12.0), jnp.float32(7.0))
    t = jnp.linspace(0.0, 1.0, 33)
    np.testing.assert_allclose(cut(t)[jnp.array([0, -1])], [-5.0, 2.0], atol=1e-5)
    np.testing.assert_allclose(wide(t)[jnp.array([0, -1])], [-12.0, 7.0], atol=1e-5)
    # Within its range `between` keeps the density up to its normalisation ...
    omega = jnp.array([-4.0, -1.0, 1.5])
    ratio = algebra.density(cut, omega) / algebra.density(schedule, omega)
    np.testing.assert_allclose(ratio, ratio[0], rtol=2e-4)
    # ... and `stretched` the slope up to the range.
    scale = 19.0 / 13.0
    np.testing.assert_allclose(
        algebra.omega_dot(wide, t), scale * algebra.omega_dot(schedule, t), rtol=1e-4
    )


def test_retimed_is_composition():
    t = jnp.linspace(0.0, 1.0, 9)
    np.testing.assert_array_equal(algebra.retimed(bent, jnp.square)(t), bent(t**2))


def second_moment(schedule, moment):
    """E[l^2] = E_t omega'(t)^2 E[d^2 | omega(t)]."""
    t = (jnp.arange(20_000) + 0.5) / 20_000
    return float(np.mean(algebra.omega_dot(schedule, t) ** 2 * moment(schedule(t))))


def test_optimal_schedule_is_the_closed_form_for_gaussian_data_and_beats_all_others():
    with jax.enable_x64():
        data, dims = GaussianData(0.5), 8
        low, high = jnp.asarray(-8.0), jnp.asarray(5.0)

        def moment(omega):
            return 0.25 * data.share(omega) ** 2 * (dims**2 + 2 * dims)

        def exact(t):
            return data.least_variance_omega(t, low, high)

        omegas = jnp.linspace(-8.0, 5.0, 4001)
        best = algebra.optimal(omegas, moment(omegas))
        t = jnp.linspace(0.0, 1.0, 101)
        np.testing.assert_allclose(best(t), exact(t), atol=3e-3)
        least = second_moment(exact, moment)
        mean = dims * float(data.denoising_term(low, high))
        np.testing.assert_allclose(least, mean**2 * (1 + 2 / dims), rtol=1e-5)
        np.testing.assert_allclose(second_moment(best, moment), least, rtol=1e-4)
        for other in (bent, cosine, lambda t: low + 13.0 * t):
            assert second_moment(other, moment) > 1.1 * least


@pytest.mark.parametrize("schedule", ALL)
def test_next_omega_is_one_step_back_and_goes_on_below_zero(schedule):
    with jax.enable_x64():
        t = jnp.asarray([0.0, 0.003, 0.04, 0.1, 0.37, 1.0])

        @jax.jit
        def step_back():
            found = algebra.next_omega(schedule, schedule(t), 10)
            return found, schedule(jnp.abs(t - 0.1)), schedule(t)

        found, omega, omega_t = step_back()
        # below t = 0 as far under omega_0 as the mirrored time is above it
        want = np.where(t < 0.1, 2 * omega_t[0] - omega, omega)
        np.testing.assert_allclose(found, want, rtol=1e-8, atol=1e-8)
        assert np.all(found < omega_t)
