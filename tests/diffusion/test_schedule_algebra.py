import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.closed_forms import gauss_legendre
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
inverse = jax.jit(algebra.inverse, static_argnums=0)
density = jax.jit(algebra.density, static_argnums=0)


@pytest.mark.parametrize("schedule", ALL)
def test_inverse_undoes_the_schedule(schedule):
    t = jnp.linspace(0.0, 1.0, 65)

    @jax.jit
    def there_and_back(t):
        omega = schedule(t)
        return schedule(algebra.inverse(schedule, omega)), omega

    # Ten roundings of an omega near 8.
    np.testing.assert_allclose(*there_and_back(t), atol=5e-6)
    np.testing.assert_array_equal(inverse(schedule, jnp.array([-9.0, 6.0])), [0.0, 1.0])


@pytest.mark.parametrize("num", [50, 101, 333])
def test_the_best_schedule_keeps_its_ends_in_float32_and_can_be_inverted_there(num):
    omegas = jnp.linspace(-8.0, 5.0, num)

    @jax.jit
    def at_ends_and_inverted(omegas, beyond):
        schedule = algebra.optimal(omegas, jax.nn.sigmoid(-omegas) ** 2)
        return schedule(jnp.array([0.0, 1.0])), schedule(algebra.inverse(schedule, beyond))

    ends, found = at_ends_and_inverted(omegas, jnp.array([-9.0, 0.0, 5.0, 6.0]))
    np.testing.assert_array_equal(ends, [-8.0, 5.0])
    np.testing.assert_allclose(found, [-8.0, 0.0, 5.0, 5.0], atol=1e-4)


def test_inverse_of_a_schedule_that_starts_flat_is_exact_there():
    assert float(inverse(jnp.square, jnp.zeros(()))) == 0.0


def test_inverse_has_the_derivatives_of_the_implicit_function():
    def solve(omega, scale):  # omega = scale t^2 (1 + t), at t = 1/2: slope scale (2 t + 3 t^2)
        return algebra.inverse(lambda t: scale * t**2 * (1 + t), omega)

    with jax.enable_x64():
        t, scale = 0.5, 3.0
        omega = jnp.asarray(scale * t**2 * (1 + t))
        slope = scale * (2 * t + 3 * t**2)
        by_omega, by_scale = jax.jit(jax.grad(solve, (0, 1)))(omega, jnp.asarray(scale))
        np.testing.assert_allclose(by_omega, 1 / slope, rtol=1e-12)
        np.testing.assert_allclose(by_scale, -(t**2) * (1 + t) / slope, rtol=1e-12)


@pytest.mark.parametrize("schedule", ALL)
def test_density_is_that_of_omega_for_uniform_times(schedule):
    # P(omega(t) < w) = t(w): the integral of the density up to w, by Gauss and Legendre.
    with jax.enable_x64():
        nodes, weights = gauss_legendre(200)
        for top in (-3.0, 1.0, 5.0):
            omega = jnp.asarray(-8.0 + (top + 8.0) * nodes)
            mass = np.sum(weights * density(schedule, omega)) * (top + 8.0)
            np.testing.assert_allclose(mass, inverse(schedule, jnp.asarray(top)), rtol=1e-4)


@pytest.mark.parametrize("schedule", ALL)
def test_between_cuts_and_stretched_maps(schedule):
    @jax.jit
    def evaluated(t, omega):
        cut = algebra.between(schedule, jnp.float32(-5.0), jnp.float32(2.0))
        wide = algebra.stretched(schedule, jnp.float32(-12.0), jnp.float32(7.0))
        slopes = [algebra.omega_dot(each, t) for each in (wide, schedule)]
        return cut(t), wide(t), *slopes, *(algebra.density(s, omega) for s in (cut, schedule))

    of_cut, of_wide, wide_slope, slope, *densities = map(
        np.asarray, evaluated(jnp.linspace(0.0, 1.0, 33), jnp.array([-4.0, -1.0, 1.5]))
    )
    np.testing.assert_allclose(of_cut[[0, -1]], [-5.0, 2.0], atol=1e-5)
    np.testing.assert_allclose(of_wide[[0, -1]], [-12.0, 7.0], atol=1e-5)
    # Within its range `between` keeps the density up to its normalisation ...
    ratio = densities[0] / densities[1]
    np.testing.assert_allclose(ratio, ratio[0], rtol=2e-4)
    # ... and `stretched` the slope up to the range.
    np.testing.assert_allclose(wide_slope, 19.0 / 13.0 * slope, rtol=1e-4)


def test_retimed_is_composition():
    t = jnp.linspace(0.0, 1.0, 9)
    np.testing.assert_array_equal(algebra.retimed(bent, jnp.square)(t), bent(t**2))


def second_moment(schedule, moment):
    """E[l^2] = E_t omega'(t)^2 E[d^2 | omega(t)]."""
    t = (jnp.arange(20_000) + 0.5) / 20_000
    return float(mean_square(schedule, moment, t))


@functools.partial(jax.jit, static_argnums=(0, 1))
def mean_square(schedule, moment, t):
    return jnp.mean(algebra.omega_dot(schedule, t) ** 2 * moment(schedule(t)))


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
        np.testing.assert_allclose(*jax.jit(lambda t: (best(t), exact(t)))(t), atol=3e-3)
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
