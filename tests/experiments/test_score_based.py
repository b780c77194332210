"""The measures of the experiment where the answer is known."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.score_based import measures, rows
from experiments.score_based.measures import Data
from vdm.data.generated import swirl
from vdm.diffusion.exact import FiniteData, MixtureData

OMEGA = jnp.float32(-3.0)


def test_the_curve_is_the_swirl_without_noise():
    points = jnp.asarray(swirl("", 0, 2000, 10, noise=0.0).load("train").examples)
    shares, distance = measures.nearest(measures.curve(), points)
    assert distance.max() < 1.2e-3  # half the largest spacing of 4096 points
    np.testing.assert_allclose(shares, 1 / 6, atol=0.03)  # 3.6 standard errors


def test_shares_and_distances_of_points_at_the_means():
    data = measures.mixture()
    points = data.places[[0, 0, 1, 2, 2]] + [[0.1, 0.0]]
    row = rows.describe(data, 0.1, [points])
    np.testing.assert_allclose([row[f"share_{k}"] for k in (1, 2, 3)], [0.4, 0.2, 0.4], rtol=1e-12)
    np.testing.assert_allclose([row["distance"], row["std_ratio"]], [0.1, 0.5**0.5], rtol=1e-5)
    np.testing.assert_allclose([row["largest_error"], row["far"]], [0.2, 0.0], atol=1e-12)
    np.testing.assert_allclose(row["stderr"], (0.2 * 0.8 / 5) ** 0.5, rtol=1e-12)
    far = rows.describe(data, 0.019, [points, points])
    assert (far["far"], far["stderr"], far["num_samples"]) == (1.0, 0.0, 10)


def test_mean_square_score_is_the_dimension_over_the_variance():
    one, place, r = jnp.ones(1), np.array([[0.3, -0.2]]), jnp.array([0.02, 0.5])
    normal = MixtureData(one, jnp.asarray(place, jnp.float32), 0.1 * one)
    point = FiniteData(jnp.asarray(place, jnp.float32), one)
    for exact, std in ((normal, 0.1), (point, 0.0)):
        data = Data(exact, place, np.zeros(1, int), np.ones(1), std, 2)
        want = 2 / (std**2 + np.square(r))
        np.testing.assert_allclose(measures.mean_square_score(data, r), want, rtol=2e-5)


def errors(data, denoiser):
    """The errors on the data, from N(0, I), and in quarters of the range of noise."""
    kinds = (measures.error_on_data, measures.error_from_normal, measures.error_of_quarters)
    return jax.jit(lambda omega: [error(data, denoiser, omega) for error in kinds])(OMEGA)


def test_errors_of_a_score_that_is_a_tenth_too_long():
    data = measures.mixture().exact

    def longer(z, omega):
        return 1.1 * data.eps_hat(z, omega)

    for error in errors(data, longer):
        np.testing.assert_allclose(error, 0.01, rtol=1e-4)


def test_an_error_far_from_the_data_is_one_of_the_last_quarter():
    data = measures.mixture().exact

    def zero_far_out(z, omega):
        far = jnp.abs(z).max(axis=1, keepdims=True) > 1.4
        return jnp.where(far, 0.0, data.eps_hat(z, omega))

    on_data, from_normal, quarters = errors(data, zero_far_out)
    assert quarters[0] == 0
    assert quarters[3] > max(0.1, 2 * quarters[2])
    assert on_data < 0.01
    assert from_normal > 0.1
