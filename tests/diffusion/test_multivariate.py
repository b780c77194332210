"""Schedules with one omega per dimension, compared with scalar schedules and closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.closed_forms import gauss_legendre, signs
from vdm.diffusion import elbo
from vdm.diffusion.bounds import path_log_weight
from vdm.diffusion.exact import GaussianData
from vdm.diffusion.likelihood import Discretised, Gaussian
from vdm.diffusion.samplers import ancestral, sample
from vdm.nn.schedules import Polynomial

TIMES, WEIGHTS = gauss_legendre(96)
STDS = np.array([0.2, 1.0, 3.0])


def bent(t):
    return -7.0 + 11.0 * (0.4 * t + 0.6 * t**2)


def same_for_all(t):
    return jnp.broadcast_to(bent(t)[..., None], (*t.shape, 3))


def one_for_each(t):
    """Ends (-8, 5), (-6, 4), (-5, 6) and three shapes."""
    t = t[..., None]
    low, span = jnp.array([-8.0, -6.0, -5.0], t.dtype), jnp.array([13.0, 10.0, 11.0], t.dtype)
    mix = jnp.array([0.3, 0.6, 0.9], t.dtype)
    shape = (1,) * (t.ndim - 1) + (3,)
    mix, low, span = (a.reshape(shape) for a in (mix, low, span))
    return low + span * (mix * t + (1 - mix) * t**3)


def shrinking(z, omega):
    """A denoiser that acts on each dimension separately."""
    omega = omega if omega.ndim == z.ndim else omega[:, None]
    return 0.8 * jax.nn.sigmoid(omega) * z


@pytest.mark.parametrize("num_steps", [0, 7])
@pytest.mark.parametrize("likelihood", [Gaussian(), Discretised(17), Discretised(256)])
def test_equal_dimensions_are_the_scalar_case(likelihood, num_steps):
    draws = elbo.draw(jax.random.key(0), jnp.linspace(0.0, 0.99, 16), (3,))
    data = jax.random.randint(jax.random.key(1), (16, 3), 0, 17)
    data = data if isinstance(likelihood, Discretised) else data / 10.0

    @jax.jit
    def both(data, draws):
        every_levels = (elbo.noise_levels(s, draws.t, num_steps) for s in (same_for_all, bent))
        return [elbo.estimate_elbo(data, draws, v, shrinking, likelihood) for v in every_levels]

    vector, scalar = both(data, draws)
    for name, want in scalar.terms.by_name.items():
        np.testing.assert_allclose(vector.terms.by_name[name], want, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(vector.loss_density, scalar.loss_density, rtol=1e-5)
    np.testing.assert_allclose(vector.levels.omega_mean, scalar.levels.omega_t, rtol=1e-5)


def test_paths_and_samples_of_equal_dimensions_are_the_scalar_ones():
    keys = jax.random.split(jax.random.key(0), 5)
    grid = jnp.linspace(0.0, 1.0, 9)
    x = jnp.linspace(-0.9, 0.9, 15).reshape(5, 3)
    weigh = jax.jit(lambda omegas: path_log_weight(keys, x, omegas, shrinking, Gaussian()))
    draw = jax.jit(lambda omegas: sample(keys, (3,), omegas, shrinking, ancestral()))
    weights = [weigh(schedule(grid)) for schedule in (same_for_all, bent)]
    np.testing.assert_allclose(weights[0], weights[1], rtol=1e-5)
    samples = [draw(schedule(grid)) for schedule in (same_for_all, bent)]
    np.testing.assert_allclose(samples[0], samples[1], rtol=1e-5)


def test_terms_with_ends_of_their_own_are_sums_of_one_dimensional_ones():
    # For a linear denoiser the sign patterns are exact in x and eps, and the nodes in t.
    x, eps = (np.tile(column, 96)[:, None] * np.ones((1, 3)) for column in signs(2).T)
    x = STDS * x
    ends = np.array([(-8.0, 5.0), (-6.0, 4.0), (-5.0, 6.0)])

    @jax.jit
    def terms(x, eps, t):
        levels = elbo.noise_levels(one_for_each, t, 0)
        denoiser, draws = GaussianData(jnp.asarray(STDS)[None]).eps_hat, elbo.Draws(t, eps, eps)
        return elbo.estimate_elbo(x, draws, levels, denoiser, Gaussian()).terms.by_name

    @functools.partial(jax.jit, static_argnums=4)
    def terms_of_one(x, eps, low, high, std):
        return {
            "reconstruction": jnp.mean(Gaussian().reconstruction(x, eps, low)),
            "prior_matching": jnp.mean(elbo.prior_matching(x, high)),
            "denoising_matching": GaussianData(std).denoising_term(low, high),
        }

    with jax.enable_x64():
        got = terms(x, eps, np.repeat(TIMES, 4))
        each = [
            terms_of_one(x[:, d : d + 1], eps[:, :1], *ends[d], float(STDS[d])) for d in range(3)
        ]
        assert set(got) == set(each[0])
        for name, values in got.items():
            mean = np.repeat(WEIGHTS, 4) @ np.asarray(values) / 4
            want = sum(float(one[name]) for one in each)
            np.testing.assert_allclose(mean, want, rtol=1e-9, err_msg=name)


def correlated_term(path, shrink):
    """Returns the denoising term for x ~ N(0, Sigma), where Sigma is not diagonal, and
    I(x; z_0) - I(x; z_1), in nats. The denoiser is the ideal one with the first dimension of its
    output multiplied by `shrink`."""
    covariance = np.array([[1.0, 0.8, 0.1], [0.8, 1.0, -0.3], [0.1, -0.3, 0.5]])

    def eps_hat(z, omega):  # sigma (A Sigma A + S^2)^-1 z
        a, s = jnp.sqrt(jax.nn.sigmoid(-omega)), jnp.sqrt(jax.nn.sigmoid(omega))
        noisy = a[:, :, None] * covariance[None] * a[:, None, :]
        noisy += jnp.eye(3)[None] * (s**2)[:, None, :]
        ideal = s * jnp.linalg.solve(noisy, z[..., None])[..., 0]
        return jnp.array([[shrink, 1.0, 1.0]]) * ideal

    # 12 points +-sqrt(6) e_i of (x, eps) whitened: exact for quadratic functions.
    points = np.sqrt(6) * np.concatenate([np.eye(6), -np.eye(6)])
    x = np.tile(points[:, :3] @ np.linalg.cholesky(covariance).T, (96, 1))
    eps = np.tile(points[:, 3:], (96, 1))

    @jax.jit
    def evaluated(x, eps, t):
        levels = elbo.noise_levels(path, t, 0)
        draws = elbo.Draws(t, eps, eps)
        terms = elbo.estimate_elbo(x, draws, levels, eps_hat, Gaussian()).terms
        return terms.denoising_matching, path(jnp.array([0.0, 1.0]))

    denoising, ends = evaluated(x, eps, np.repeat(TIMES, 12))

    def information(omega):
        root = np.exp(-0.5 * np.asarray(omega))
        return 0.5 * np.linalg.slogdet(np.eye(3) + root[:, None] * covariance * root)[1]

    exact = information(ends[0]) - information(ends[1])
    return np.repeat(WEIGHTS, 12) @ np.asarray(denoising) / 12, exact


def test_the_path_matters_for_an_imperfect_denoiser_only():
    # With the ideal denoiser the term is a line integral of the gradient of I(x; z) in the SNRs
    # (the I-MMSE relation), so only the ends of the path count. A denoiser shrunk by the same
    # factor in all dimensions would still have this property, so only the first is shrunk.
    with jax.enable_x64():
        ideal, exact = correlated_term(one_for_each, 1.0)
        elsewhere, _ = correlated_term(lambda t: one_for_each(t) + detour(t), 1.0)
        np.testing.assert_allclose(ideal, exact, rtol=1e-9)
        np.testing.assert_allclose(elsewhere, exact, rtol=1e-9)
        near, far = (
            correlated_term(path, 0.7)[0]
            for path in (one_for_each, lambda t: one_for_each(t) + detour(t))
        )
        assert abs(far - near) > 5e-4 * near


def detour(t):
    """A detour that is zero at both ends and has a different size in each dimension."""
    sizes = jnp.array([3.0, -2.0, 2.5], t.dtype).reshape((1,) * t.ndim + (3,))
    return sizes * (t * (1 - t))[..., None]


def test_best_schedule_of_each_dimension_spreads_its_term_evenly():
    # l = sum_d 1/2 omega_d' r_d chi^2_d. Its least variance is 2 sum_d Y_d^2, where Y_d is the term
    # of dimension d, and is reached when each Y_d is spread evenly over t.
    with jax.enable_x64():
        data = GaussianData(jnp.asarray(STDS)[None])
        low, high = jnp.asarray(-8.0), jnp.asarray(5.0)

        def moments(schedule):
            @jax.jit
            def means(t):  # E[l_d | t]
                levels = elbo.noise_levels(schedule, t, 0)
                return 0.5 * levels.weight * data.share(levels.omega_t)

            y = np.asarray(means(TIMES))
            variance = 2 * WEIGHTS @ np.sum(y**2, axis=1)  # within t
            mean = np.sum(y, axis=1)
            return y, variance + WEIGHTS @ mean**2 - (WEIGHTS @ mean) ** 2

        each = moments(lambda t: data.least_variance_omega(t[..., None], low, high)
                       .reshape(*t.shape, 3))  # fmt: skip
        term = np.asarray(data.denoising_term(low, high))
        np.testing.assert_allclose(each[0], np.broadcast_to(term, (96, 3)), rtol=1e-9)
        np.testing.assert_allclose(each[1], 2 * np.sum(term**2), rtol=1e-9)
        for std in (
            0.2,
            0.6,
            1.0,
            3.0,
        ):  # one schedule for all dimensions: the best one for this std
            shared = GaussianData(std)
            _, variance = moments(
                lambda t, shared=shared: jnp.broadcast_to(
                    shared.least_variance_omega(t, low, high)[..., None], (*t.shape, 3)
                )
            )
            assert variance > 1.05 * each[1]


@jax.jit
def value_and_slope_of_one(params, t):
    schedule = Polynomial(-8.0, 5.0)
    return jax.jvp(lambda t: schedule.apply({"params": params}, t), (t,), (jnp.ones_like(t),))


@pytest.mark.parametrize("seed", [0, 1])
def test_polynomial_per_dimension_is_that_many_polynomials(seed):
    dims = (2, 3)
    module = Polynomial(-8.0, 5.0, per_dimension=True, dims=dims)
    keys = jax.random.split(jax.random.key(seed), 3)
    params = {n: 3 * jax.random.normal(k, dims) for n, k in zip("abc", keys, strict=True)}
    t = jnp.linspace(0.0, 1.0, 65)
    omega = np.asarray(jax.jit(module.apply)({"params": params}, t))
    assert omega.shape == (65, 2, 3)
    assert np.all(np.diff(omega, axis=0) > 0)
    want = np.stack([np.full(dims, -8.0), np.full(dims, 5.0)])
    np.testing.assert_allclose(omega[[0, -1]], want, rtol=1e-6)
    one = {name: value[1, 2] for name, value in params.items()}
    single, slope = value_and_slope_of_one(one, t)
    np.testing.assert_allclose(single, omega[:, 1, 2], atol=3e-6)
    # its slope is a square
    a, b, c = (float(one[n]) for n in "abc")
    square = (a * np.asarray(t) ** 2 + b * np.asarray(t) + c) ** 2 + 1e-3
    np.testing.assert_allclose(slope / slope[0], square / square[0], rtol=1e-3)
