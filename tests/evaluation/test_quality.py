"""Distances of feature sets: closed forms first, then symmetry and order."""

import itertools

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.stats
from scipy.spatial.distance import cdist

from vdm.evaluation import pairs, quality
from vdm.evaluation.quality import (
    frechet_distance,
    kernel_distance,
    precision_recall,
    sliced_wasserstein,
)

DISTANCES = [frechet_distance, kernel_distance, precision_recall, sliced_wasserstein]


def normal(n, d, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d))


def whitened(n, d, seed=0):
    """n vectors of mean 0 and covariance I, exactly, up to rounding."""
    x = normal(n, d, seed)
    q = np.linalg.qr(x - x.mean(axis=0))[0]
    return q * np.sqrt(n - 1)


@pytest.mark.parametrize(("rank_a", "rank_b"), [(6, 6), (3, 6), (2, 3), (1, 1)])
@pytest.mark.parametrize("turned", [False, True])
def test_frechet_distance_is_the_formula_of_prescribed_moments(rank_a, rank_b, turned):
    # Commuting covariances: tr((C_a C_b)^(1/2)) is the sum of the products of both deviations.
    std_a = np.array([0.1, 1.0, 3.0, 2.0, 0.5, 1.5]) * (np.arange(6) < rank_a)
    std_b = np.array([0.2, 1.0, 2.0, 2.5, 3.0, 0.3]) * (np.arange(6) < rank_b)
    shift = np.array([0.3, 0.0, -1.0, 2.0, 0.0, 0.5])
    axes = np.linalg.qr(normal(6, 6, 3))[0] if turned else np.eye(6)
    a = whitened(50, 6, 1) * std_a @ axes + 5.0
    b = whitened(70, 6, 2) * std_b @ axes + 5.0 + shift
    expected = np.square(shift).sum() + np.square(std_a - std_b).sum()
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-9)


def test_frechet_distance_is_the_formula_where_covariances_do_not_commute():
    root_a, root_b = normal(4, 4, 5), normal(4, 4, 6)
    a, b = whitened(30, 4, 1) @ root_a, whitened(20, 4, 2) @ root_b + 1.0
    cov_a, cov_b = root_a.T @ root_a, root_b.T @ root_b
    cross = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = 4.0 + np.trace(cov_a + cov_b - 2 * cross)
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-9)


def test_frechet_distance_of_one_set_is_zero_with_fewer_rows_than_dimensions():
    # Square roots of the eigenvalues of a product would leave 1e-8 for each of the 180 lacking.
    x = normal(20, 200)
    assert frechet_distance(x, x) < 1e-11
    # Covariances of rank 1 along different axes have no cross term.
    a, b = np.zeros((2, 200)), np.zeros((2, 200))
    a[1, 0], b[1, 1] = 2.0, 4.0
    np.testing.assert_allclose(frechet_distance(a, b), 1 + 4 + 2 + 8, rtol=1e-12)


def squared_mmd(a, b):
    """The definition, pair by pair."""

    def k(x, y):
        return (sum(p * q for p, q in zip(x, y, strict=True)) / len(x) + 1) ** 3

    within = [
        np.mean([k(x, y) for x, y in itertools.permutations(set_, 2)])
        for set_ in (a.tolist(), b.tolist())
    ]
    return sum(within) - 2 * np.mean([k(x, y) for x in a.tolist() for y in b.tolist()])


def test_kernel_distance_is_the_double_loop_and_its_error_the_jackknife(monkeypatch):
    monkeypatch.setattr(quality, "BLOCK", 10)  # several blocks
    a, b = normal(7, 3, 1), 0.5 * normal(5, 3, 2) + 0.3
    found = kernel_distance(a, b)
    np.testing.assert_allclose(found.value, squared_mmd(a, b), rtol=1e-12)
    without_a = [squared_mmd(np.delete(a, i, axis=0), b) for i in range(7)]
    without_b = [squared_mmd(a, np.delete(b, i, axis=0)) for i in range(5)]
    variance = 6 * np.var(without_a) + 4 * np.var(without_b)
    np.testing.assert_allclose(found.stderr, np.sqrt(variance), rtol=1e-10)


def test_kernel_distance_is_unbiased_at_any_count():
    # All 20 ways to part six rows into two sets: a pair within a set and a pair across are then
    # the same pairs on average, and the mean is 0 exactly.
    points = normal(6, 2)
    draws = [
        kernel_distance(points[list(chosen)], points[[i for i in range(6) if i not in chosen]])
        for chosen in itertools.combinations(range(6), 3)
    ]
    np.testing.assert_allclose(np.mean([draw.value for draw in draws]), 0.0, atol=1e-13)
    assert min(draw.value for draw in draws) < 0 < max(draw.value for draw in draws)


@pytest.mark.parametrize(("shift", "ratio"), [(0.0, 2.0), (1.0, 1.0)])
def test_kernel_distance_errors_have_the_size_of_the_spread(shift, ratio):
    # Where both distributions are one the jackknife gives twice the variance.
    rng = np.random.default_rng(3)
    found = np.array([
        kernel_distance(rng.standard_normal((40, 4)), rng.standard_normal((60, 4)) + shift)
        for _ in range(600)
    ])  # fmt: skip
    estimated = np.square(found[:, 1]).mean() / found[:, 0].var()
    assert 0.8 * ratio < estimated < 1.25 * ratio


def test_identical_sets_are_all_precision_and_recall():
    x = normal(20, 3)
    assert precision_recall(x, x) == (1.0, 1.0)
    copies = np.repeat(x[:2], 10, axis=0)  # radius 0: a point is still in its own ball
    assert precision_recall(copies, copies) == (1.0, 1.0)
    assert precision_recall(copies, copies + 1e-7) == (0.0, 0.0)


def test_distant_sets_have_neither_precision_nor_recall():
    assert precision_recall(normal(20, 3), normal(15, 3, 1) + 100.0) == (0.0, 0.0)


def test_part_of_a_set_has_full_precision_and_recalls_its_surroundings(monkeypatch):
    monkeypatch.setattr(quality, "BLOCK", 30)
    # On the integers 0 ... 19, samples 0 ... 4: with k = 3 the balls of 0 and 4 reach 3 to the
    # outside, so 5, 6 and 7 are covered: 8 of 20. With k = 1 only 5 is: 6 of 20.
    real = np.arange(20.0)[:, None]
    assert precision_recall(real, real[:5], neighbours=3) == (1.0, 8 / 20)
    assert precision_recall(real, real[:5], neighbours=1) == (1.0, 6 / 20)
    # The other way round the shares change places.
    assert precision_recall(real[:5], real, neighbours=3) == (8 / 20, 1.0)


def test_sliced_wasserstein_of_a_shift_is_its_length_by_the_root_of_the_dimensions():
    a, shift = normal(30, 5), np.array([3.0, 0.0, -4.0, 0.0, 12.0])
    for num_projections in (5, 20):
        got = sliced_wasserstein(a, a + shift, num_projections, seed=4)
        np.testing.assert_allclose(got, 13 / np.sqrt(5), rtol=1e-12)
    got = sliced_wasserstein(a, a + shift, 4001)
    np.testing.assert_allclose(got, 13 / np.sqrt(5), rtol=1e-3)


def test_sliced_wasserstein_of_gaussians_on_one_axis():
    # Deviation s along one of d axes, against a point: E(u_1^2) s^2, u_1^2 on average 1 / d.
    a = np.zeros((40, 4))
    a[:, 2] = 3.0 * whitened(40, 1)[:, 0] * np.sqrt(40 / 39)
    np.testing.assert_allclose(sliced_wasserstein(a, np.zeros((7, 4)), 8), 1.5, rtol=1e-12)


@pytest.mark.parametrize(("n", "m"), [(6, 6), (6, 4), (5, 7), (1, 9), (12, 4)])
def test_sliced_wasserstein_in_one_dimension_is_optimal_transport(n, m, monkeypatch):
    monkeypatch.setattr(quality, "BLOCK", 20)
    a, b = normal(n, 1, 1), 2 * normal(m, 1, 2)
    # Rows repeated to a common count, assigned to one another at the least squared cost.
    count = np.lcm(n, m)
    cost = np.square(np.repeat(a, count // n, axis=0) - np.repeat(b, count // m, axis=0).T)
    expected = np.sqrt(cost[scipy.optimize.linear_sum_assignment(cost)].mean())
    np.testing.assert_allclose(sliced_wasserstein(a, b, 3), expected, rtol=1e-12)
    # Between zeros and ones |x - y| is its own square, so that W_2^2 is W_1.
    a, b = (a > 0).astype(float), (b > 0.5).astype(float)
    first = scipy.stats.wasserstein_distance(a[:, 0], b[:, 0])
    np.testing.assert_allclose(sliced_wasserstein(a, b, 3) ** 2, first, rtol=1e-12, atol=1e-15)


def test_sliced_wasserstein_takes_its_directions_from_the_seed():
    a, b = normal(10, 6, 1), normal(12, 6, 2) * np.arange(1, 7)
    assert sliced_wasserstein(a, b, 4, seed=1) == sliced_wasserstein(a, b, 4, seed=1)
    assert sliced_wasserstein(a, b, 4, seed=1) != sliced_wasserstein(a, b, 4, seed=2)


@pytest.mark.parametrize("shift", [(1.0, 1.0, 1.0), (1.5, -1.5, 0.0)])
def test_sliced_wasserstein_takes_every_direction_as_often(shift):
    # One direction: u.s squared, on average |s|^2 / 3, with a deviation below its mean.
    point = np.zeros((1, 3))
    found = [sliced_wasserstein(point, point + shift, 1, seed) ** 2 for seed in range(2000)]
    expected = np.square(shift).sum() / 3
    assert abs(np.mean(found) - expected) < 4 * expected / np.sqrt(2000)


@pytest.mark.parametrize("distance", DISTANCES)
def test_distances_are_symmetric_and_blind_to_order(distance):
    a, b = normal(40, 5, 1), 1.2 * normal(25, 5, 2) + 0.4
    order = np.random.default_rng(0)
    there, back = distance(a, b), distance(b, a)
    back = back[::-1] if distance is precision_recall else back
    np.testing.assert_allclose(back, there, rtol=1e-10)
    shuffled = distance(order.permutation(a), order.permutation(b))
    np.testing.assert_allclose(shuffled, there, rtol=1e-10)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (np.zeros((9, 3)), np.zeros((9, 4)), "of 3 and of 4 dimensions: take both"),
        (np.zeros((9, 3)), np.zeros((0, 3)), "0 feature vectors: give at least"),
        (np.zeros(9), np.zeros(9), r"shape \(9,\): give \[n, d\]"),
        (np.zeros((9, 0)), np.zeros((9, 0)), r"shape \(9, 0\)"),
        (np.zeros((9, 1)), np.array([[0.0]] * 8 + [[np.nan]]), "1 of 9 .* row 8 the first"),
        (np.array([[np.inf]] * 9), np.zeros((9, 1)), "9 of 9 feature vectors are not finite"),
    ],
)
def test_arrays_that_are_not_two_feature_sets_are_refused(distance, a, b, expected):
    with pytest.raises(ValueError, match=expected):
        distance(a, b)


@pytest.mark.parametrize(
    ("distance", "rows"), [(frechet_distance, 2), (kernel_distance, 3), (precision_recall, 4)]
)
def test_too_few_rows_are_refused(distance, rows):
    distance(normal(rows, 2), normal(rows, 2, 1))
    with pytest.raises(ValueError, match=f"give at least {rows}"):
        distance(normal(rows, 2), normal(rows - 1, 2))


def test_settings_below_one_are_refused():
    with pytest.raises(ValueError, match="neighbours = 0"):
        precision_recall(normal(9, 2), normal(9, 2), neighbours=0)
    with pytest.raises(ValueError, match="num_projections = 0"):
        sliced_wasserstein(normal(9, 2), normal(9, 2), 0)


def test_compare_has_the_samples_first_and_the_data_second():
    rng = np.random.default_rng(0)
    samples, real = rng.normal(size=(30, 2)), 2 + 3 * rng.normal(size=(40, 2))
    got = quality.compare(samples, real)
    kernel, kernel_stderr = quality.kernel_distance(samples, real)
    precision, recall = quality.precision_recall(real, samples)
    assert precision != recall
    assert got == {
        "frechet": quality.frechet_distance(samples, real),
        "kernel": kernel,
        "kernel_stderr": kernel_stderr,
        "precision": precision,
        "recall": recall,
    }


def test_compare_can_leave_out_precision_and_recall_and_reports_its_progress():
    samples, real = normal(30, 2), normal(40, 2, 1)
    places, places_without = [], []
    whole = quality.compare(samples, real, on_rows=lambda *place: places.append(place))
    without = quality.compare(samples, real, False, lambda *place: places_without.append(place))
    assert without == {key: whole[key] for key in ("frechet", "kernel", "kernel_stderr")}
    assert (places[0], places[-1]) == ((0, 200), (200, 200))
    assert (places_without[0], places_without[-1]) == ((0, 100), (100, 100))


def by_differences(real, generated, k):
    """The definition, with the distances that are summed from squared differences."""
    radii = [np.partition(cdist(x, x, "sqeuclidean"), k, axis=1)[:, k] for x in (real, generated)]
    distances = cdist(generated, real, "sqeuclidean")
    covered = distances <= radii[1][:, None]
    return (distances <= radii[0]).any(axis=1).mean(), covered.any(axis=0).mean()


@pytest.mark.parametrize("kind", ["ties", "far from 0", "copies", "one scale beside another"])
def test_precision_and_recall_are_those_of_exact_distances(kind, monkeypatch):
    monkeypatch.setattr(quality, "BLOCK", 700)
    monkeypatch.setattr(pairs, "EXACT_PAIRS", 100)
    rng = np.random.default_rng(1)
    for _ in range(20):
        n, m, d = rng.integers(5, 90, 3)
        a, b = rng.standard_normal((n, d)), 1.1 * rng.standard_normal((m, d))
        if kind == "ties":
            a, b = np.round(a), np.round(b)
        elif kind == "far from 0":
            a, b = a + 1e7, b + 1e7
        elif kind == "copies":
            a, b = np.repeat(a[:2], 5, axis=0), np.concatenate([a[:2], a[:2] + 1e-9, b])
        else:
            a[: n // 2], b[: m // 2] = 1e-6 * a[: n // 2], 1e6 * b[: m // 2]
        assert precision_recall(a, b) == by_differences(a, b, 3)
        assert precision_recall(b, a, 1) == by_differences(b, a, 1)
