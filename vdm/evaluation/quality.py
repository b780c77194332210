"""Distances between two sets of feature vectors, such as those of data and samples.

Feature vectors [n, d] may come from anywhere (`vdm.evaluation.features`); everything is computed in
float64. Every distance depends on the features, on the sizes of both sets and on the data: compare
distances only where these agree. A row that is repeated counts each time.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from vdm.evaluation.pairs import Pairs

BLOCK = 2**23
"""The size of the largest temporary array: 64 MiB."""


class KernelDistance(NamedTuple):
    """MMD^2, which may be below 0, and its standard error."""

    value: float
    stderr: float


class PrecisionRecall(NamedTuple):
    """The share of generated rows that look real, and the share of real rows that are covered."""

    precision: float
    recall: float


OnRows = Callable[[int], None]


def compare(
    samples: ArrayLike,
    real: ArrayLike,
    with_precision_recall: bool = True,
    on_rows: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """Computes all distances between two sets of features, under the names that results use.

    with_precision_recall: whether to add precision and recall, which take longest. on_rows(done,
    total) counts the rows of the tables of pairs.
    """
    samples, real = _feature_pair(samples, real, rows=4 if with_precision_recall else 3)
    total = (1 + with_precision_recall) * (2 * len(samples) + len(real))
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        on_rows(done, total)

    count(0)
    distances = {"frechet": frechet_distance(samples, real)}
    distances["kernel"], distances["kernel_stderr"] = kernel_distance(samples, real, count)
    if with_precision_recall:
        shares = precision_recall(real, samples, on_rows=count)
        distances |= shares._asdict()
    return distances


def frechet_distance(a: ArrayLike, b: ArrayLike) -> float:
    """Returns ||mu_a - mu_b||^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), squared as FID is.

    It is the squared Wasserstein-2 distance of two Gaussians with the sample means and (n - 1)
    covariances (Heusel et al. 2017, arXiv:1706.08500); fewer rows than dimensions suffice. It is
    biased upwards, roughly as 1 / n, by an amount that depends on the distributions: compare
    numbers of equally many rows only, and state how many (published ones use 50,000).

    Args:
        a, b: [n, d] and [m, d], n, m >= 2.
    """
    a, b = _feature_pair(a, b, rows=2)
    # The singular values of R_a R_b^T (C = R^T R) are the eigenvalues of (C_a C_b)^(1/2). Rounding
    # leaves those that should be 0 at 1e-16. As square roots of eigenvalues of C_a^(1/2) C_b
    # C_a^(1/2) they come out near 1e-7 and add up: -2e-5 for 20 rows of 200 dimensions against
    # themselves.
    root_a, root_b = _covariance_root(a), _covariance_root(b)
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    shift = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    return max(0.0, float(shift + np.square(root_a).sum() + np.square(root_b).sum() - 2 * cross))


def _covariance_root(x: np.ndarray) -> np.ndarray:
    """Returns R [min(n, d), d] such that R^T R is the covariance of the rows of x."""
    return np.asarray(np.linalg.qr((x - x.mean(axis=0)) / np.sqrt(len(x) - 1), mode="r"))


def kernel_distance(
    a: ArrayLike, b: ArrayLike, on_rows: OnRows = lambda rows: None
) -> KernelDistance:
    """Returns the squared maximum mean discrepancy with the kernel (x.y / d + 1)^3: KID.

    E k(a, a') + E k(b, b') - 2 E k(a, b) over pairs of different rows: unbiased, so that numbers
    of different counts may be compared (Binkowski et al. 2018, arXiv:1801.01401). The value is
    that of all pairs at once, not a mean over random subsets, and has no seed. The standard error
    is the jackknife's, leaving out each row of either set in turn; where a and b have one
    distribution it is too large, by up to sqrt(2). Takes of the order of (n + m)^2 d operations.

    Args:
        a, b: [n, d] and [m, d], n, m >= 3.
        on_rows: called with the number of rows of pairs, n + m + n in all, after each block.
    """
    a, b = _feature_pair(a, b, rows=3)
    n, m = len(a), len(b)
    within_a = _kernel_sums(a, a, on_rows)[0] - _kernel(np.square(a).sum(axis=1), a.shape[1])
    within_b = _kernel_sums(b, b, on_rows)[0] - _kernel(np.square(b).sum(axis=1), b.shape[1])
    across_a, across_b = _kernel_sums(a, b, on_rows)
    mean_a = within_a.sum() / (n * (n - 1))
    mean_b = within_b.sum() / (m * (m - 1))
    across = across_a.sum()

    without_a = (within_a.sum() - 2 * within_a) / ((n - 1) * (n - 2)) + mean_b
    without_a -= 2 * (across - across_a) / ((n - 1) * m)
    without_b = (within_b.sum() - 2 * within_b) / ((m - 1) * (m - 2)) + mean_a
    without_b -= 2 * (across - across_b) / (n * (m - 1))
    variance = (n - 1) * without_a.var() + (m - 1) * without_b.var()
    return KernelDistance(float(mean_a + mean_b - 2 * across / (n * m)), float(np.sqrt(variance)))


def _kernel(products: np.ndarray, dims: int) -> np.ndarray:
    base = products / dims + 1.0
    return base * base * base


def _kernel_sums(a: np.ndarray, b: np.ndarray, on_rows: OnRows) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sums of k(a_i, b_j) over j, [n], and over i, [m]."""
    rows, columns = np.empty(len(a)), np.zeros(len(b))
    for part in _blocks(len(a), len(b)):
        kernel = _kernel(a[part] @ b.T, a.shape[1])
        rows[part] = kernel.sum(axis=1)
        columns += kernel.sum(axis=0)
        on_rows(len(kernel))
    return rows, columns


def precision_recall(
    real: ArrayLike,
    generated: ArrayLike,
    neighbours: int = 3,
    on_rows: OnRows = lambda rows: None,
) -> PrecisionRecall:
    """Returns the share of each set inside the other's manifold.

    The definition is that of Kynkaanniemi et al. 2019 (arXiv:1904.06991). A set's manifold is the
    union of closed balls around its rows; the radius is the distance to the row's k-th nearest
    neighbour in its own set. precision: the share of generated rows inside the real manifold.
    recall: the share of real rows inside the generated one. Both depend on the sizes of the sets:
    compare numbers only for equal sizes. Distances are compared as sums of squared differences,
    exactly 0 for equal rows (`vdm.evaluation.pairs`).

    Args:
        real, generated: [n, d] and [m, d], n, m > neighbours.
        neighbours: k, the paper's is 3.
        on_rows: called with the number of rows of pairs, n + m + m in all, after each block.
    """
    if neighbours < 1:
        raise ValueError(f"neighbours = {neighbours}: choose 1 or more, the paper's is 3")
    real, generated = _feature_pair(real, generated, rows=neighbours + 1)
    real_radii = _squared_radii(real, neighbours, on_rows)
    generated_radii = _squared_radii(generated, neighbours, on_rows)
    looks_real = np.empty(len(generated), bool)
    covered = np.zeros(len(real), bool)
    pairs = Pairs(generated, real)
    for part in _blocks(len(generated), len(real)):
        distances = pairs.block(part)
        looks_real[part] = distances.within(real_radii[None]).any(axis=1)
        covered |= distances.within(generated_radii[part, None]).any(axis=0)
        on_rows(len(distances.squares))
    return PrecisionRecall(float(looks_real.mean()), float(covered.mean()))


def _squared_radii(x: np.ndarray, neighbours: int, on_rows: OnRows) -> np.ndarray:
    """Returns the squared distance of every row to its k-th nearest other row, [n]."""
    radii, pairs = np.empty(len(x)), Pairs(x, x)
    for part in _blocks(len(x), len(x)):
        distances = pairs.block(part)
        radii[part] = distances.smallest(neighbours)  # the 0th is the row itself
        on_rows(len(distances.squares))
    return radii


def sliced_wasserstein(
    a: ArrayLike, b: ArrayLike, num_projections: int = 512, seed: int = 0
) -> float:
    """Returns the sliced Wasserstein-2 distance, (mean over directions u of W_2(u.a, u.b)^2)^(1/2).

    It is in the units of the features. W_2 in one dimension is the root mean
    square difference of the quantile functions, exact for unequal counts too. Directions are
    uniform on the sphere and orthonormal within each d of them: where num_projections is a
    multiple of d, two sets that differ by a shift s are exactly |s| / sqrt(d) apart.

    Args:
        a, b: [n, d] and [m, d].
        num_projections, seed: how many directions are drawn, and with which seed.
    """
    if num_projections < 1:
        raise ValueError(f"num_projections = {num_projections}: choose 1 or more")
    a, b = _feature_pair(a, b, rows=1)
    directions = _directions(a.shape[1], num_projections, seed)
    index_a, index_b, weights = _common_quantiles(len(a), len(b))
    total = 0.0
    for part in _blocks(num_projections, len(weights)):
        sorted_a = np.sort(directions[part] @ a.T, axis=1)
        sorted_b = np.sort(directions[part] @ b.T, axis=1)
        total += float((np.square(sorted_a[:, index_a] - sorted_b[:, index_b]) @ weights).sum())
    return float(np.sqrt(total / num_projections))


def _directions(dims: int, count: int, seed: int) -> np.ndarray:
    """Returns unit vectors [count, dims]; each group of `dims` of them is orthogonal."""
    rng = np.random.default_rng(seed)
    frames = [
        np.linalg.qr(rng.standard_normal((dims, min(dims, count - start))))[0].T
        for start in range(0, count, dims)
    ]
    return np.concatenate(frames)


def _common_quantiles(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Divides [0, 1] into the intervals on which both quantile functions are constant. Returns
    (index into n sorted values, index into m sorted values, length) of each."""
    # In units of 1 / (n m), so that a common step of both is a single edge.
    edges = np.unique(np.concatenate([np.arange(n + 1) * m, np.arange(m + 1) * n]))
    return edges[:-1] // m, edges[:-1] // n, np.diff(edges) / (n * m)


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    """Yields slices of the rows of an array [rows, columns], each of at most BLOCK numbers."""
    size = max(1, BLOCK // columns)
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def _feature_pair(a: ArrayLike, b: ArrayLike, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns both sets in float64; ValueError unless each has `rows` or more finite vectors."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    for features in (a, b):
        if features.ndim != 2 or features.shape[1] == 0:
            raise ValueError(f"features of shape {features.shape}: give [n, d], a vector per row")
        if len(features) < rows:
            raise ValueError(f"{len(features)} feature vectors: give at least {rows}")
        bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if bad.size:
            raise ValueError(
                f"{bad.size} of {len(features)} feature vectors are not finite, row {bad[0]} the "
                "first: look at the samples they are from"
            )
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"features of {a.shape[1]} and of {b.shape[1]} dimensions: take both sets from one "
            "feature function"
        )
    return a, b
