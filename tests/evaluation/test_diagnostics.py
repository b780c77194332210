"""Where along the path the bound and its variance come from, and the best schedule."""

import numpy as np
import pytest

from vdm.evaluation.diagnostics import bin_means, bins_of, can_diagnose, diagnose


def uniform(num):
    return (np.arange(num) + 0.5) / num


@pytest.mark.parametrize("power", [1.0, 3.0])
def test_integral_does_not_depend_on_where_the_draws_lie(power):
    # The integral of sigmoid(-omega) from -8 to 5 is softplus(8) - softplus(-5) = 7.99362.
    u = uniform(200_000)
    omega = -8 + 13 * u**power
    density = 1 / (1 + np.exp(omega))
    slope = 13 * power * u ** (power - 1)
    found = diagnose(omega, density, slope * density, bins=200)
    np.testing.assert_allclose(found.integral, 7.99362, rtol=2e-4)
    np.testing.assert_allclose(found.density, 1 / (1 + np.exp(found.centre)), rtol=0.05)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_best_schedule_and_its_variance_are_those_of_gaussian_data(power):
    # N(0, I_8), ideal denoiser: d = 1/2 r(omega) chi^2_8. Whatever schedule the draws are from,
    # the best has softplus(-omega) straight in t and Var = (integral of 4 r)^2 / 4.
    rng = np.random.default_rng(0)
    u = uniform(400_000)
    omega = -8 + 13 * u**power
    slope = 13 * power * u ** (power - 1)
    share = 1 / (1 + np.exp(omega))
    density = 0.5 * share * rng.chisquare(8, u.size)
    found = diagnose(omega, density, slope * density, bins=100)
    total = np.logaddexp(0, 8.0) - np.logaddexp(0, -5.0)
    height = (np.logaddexp(0, 8.0) - np.logaddexp(0, -found.edges)) / total
    np.testing.assert_allclose(found.optimal_t, height, atol=5e-3)
    np.testing.assert_allclose(found.optimal_variance, (4 * total) ** 2 / 4, rtol=0.02)
    moment = np.mean((slope * share) ** 2) * (64 + 16) / 4
    np.testing.assert_allclose(found.variance, moment - (4 * total) ** 2, rtol=0.02)
    assert found.variance > 1.5 * found.optimal_variance


def test_the_best_schedule_is_recognised_from_its_own_draws():
    # 64 dimensions, default bins: Var = (integral of 32 r)^2 2 / 64, the same within every t.
    rng = np.random.default_rng(1)
    u, dims = uniform(300_000), 64
    total = np.logaddexp(0, 8.0) - np.logaddexp(0, -5.0)
    omega = -np.log(np.expm1((1 - u) * np.logaddexp(0, 8.0) + u * np.logaddexp(0, -5.0)))
    share = 1 / (1 + np.exp(omega))
    density = 0.5 * share * rng.chisquare(dims, u.size)
    found = diagnose(omega, density, total / share * density)
    assert abs(found.integral - dims * total / 2) < 4 * found.integral_stderr
    np.testing.assert_allclose(found.integral, dims * total / 2, rtol=1e-3)
    np.testing.assert_allclose(found.variance, (dims * total / 2) ** 2 * 2 / dims, rtol=0.02)
    np.testing.assert_allclose(found.optimal_variance, found.variance, rtol=0.02)
    np.testing.assert_allclose(np.interp(found.edges, omega, u), found.optimal_t, atol=2e-3)


def test_variance_shares_say_where_the_spread_is():
    omega = uniform(1000)
    term = np.where(omega < 0.25, np.tile([-10.0, 10.0], 500), np.tile([-1.0, 1.0], 500))
    found = diagnose(omega, np.ones(1000), term, bins=4)
    np.testing.assert_allclose(found.variance_share, np.array([100, 1, 1, 1]) / 103, rtol=1e-9)


def test_intervals_of_the_bins_are_as_wide_as_their_counts_ask():
    omega = np.linspace(-8.0, 5.0, 64)
    density = np.random.default_rng(0).chisquare(3, 64)
    found = diagnose(omega, density, 13 * density)  # 8 bins of 8 draws: 7 degrees of freedom
    assert len(found.centre) == 8
    np.testing.assert_allclose(found.half_width, 2.364624 * found.stderr, rtol=1e-6)


def test_bin_means_have_the_standard_error_of_a_mean():
    x = np.repeat([0.25, 0.75], 4) + np.tile([0.0, 0.1, 0.1, 0.2], 2)
    y = np.array([1.0, 3.0, 1.0, 3.0, 5.0, 5.0, 5.0, 5.0])
    edges, index = bins_of(x, 2)
    mean, stderr = bin_means(y, index)
    np.testing.assert_allclose(mean, [2.0, 5.0])
    np.testing.assert_allclose(stderr, [np.sqrt(4 / 3 / 4), 0.0])
    np.testing.assert_allclose(edges[-1] - edges[0], 0.7)


def test_the_error_of_a_bin_of_one_draw_is_unknown_not_zero():
    omega = np.concatenate([[0.0], np.ones(100), [2.0, 3.0]])
    found = diagnose(omega, np.arange(103.0), np.ones(103))
    np.testing.assert_array_equal(found.edges, [0.0, 1.0, 3.0])
    np.testing.assert_array_equal(np.isnan(found.stderr), [True, False])
    np.testing.assert_array_equal(np.isnan(found.half_width), [True, False])
    np.testing.assert_array_equal(found.density, [0.0, 51.5])


def test_no_bin_is_empty_when_a_few_levels_repeat():
    x = np.repeat([1.0, 2.0, 3.0], [100, 5, 3])
    edges, index = bins_of(x, 20)
    assert np.all(np.bincount(index) > 0)
    assert len(edges) == index.max() + 2
    assert np.all(np.diff(edges) > 0)
    assert (edges[0], edges[-1]) == (1.0, 3.0)


@pytest.mark.parametrize(("omega", "others"), [
    (np.ones(100), np.ones(100)), (np.arange(5.0), np.ones(5)), (np.arange(50.0), np.ones(49)),
])  # fmt: skip
def test_too_few_draws_are_refused(omega, others):
    with pytest.raises(ValueError, match="at least 16 draws"):
        diagnose(omega, others, others)
    assert can_diagnose(np.arange(50.0))
