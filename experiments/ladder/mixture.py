"""A Gaussian mixture fitted by EM, the first rung of the ladder: a latent z with K values.

This is S4 section 3.1 in float64 NumPy, with p(z = k) = w_k and p(x | z = k) = N(m_k, S_k). For
every q(z), log p(x) = L(theta, q) + KL(q || p(z | x)) (S4 46). The E-step chooses q = p(z | x),
which closes the gap; the M-step chooses the theta with the largest L. So log p(x) never falls.
"""

from typing import NamedTuple

import numpy as np


class Mixture(NamedTuple):
    """The parameters theta of a mixture: weights [K], means [K, D], covariances [K, D, D]."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    @property
    def num_parameters(self) -> int:
        """The number of free parameters: K - 1 for the weights, K D for the means and
        K D (D + 1) / 2 for the covariances."""
        k, d = self.means.shape
        return k - 1 + k * d + k * d * (d + 1) // 2


def log_joint(x: np.ndarray, params: Mixture) -> np.ndarray:
    """log p(x, z = k) = log w_k + log N(x; m_k, S_k), nats [n, K], for x [n, D] (S4 38, 39)."""
    components = zip(params.means, params.covariances, strict=True)
    log_normals = [log_normal(x, mean, covariance) for mean, covariance in components]
    with np.errstate(divide="ignore"):  # log 0 = -inf is right for an empty component
        return np.log(params.weights) + np.stack(log_normals, axis=1)


def log_normal(x: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """log N(x; mean, covariance), nats [n]."""
    root = np.linalg.cholesky(covariance)
    white = (x - mean) @ np.linalg.inv(root).T
    log_det = 2 * np.log(np.diag(root)).sum()
    return -0.5 * (np.sum(white**2, axis=1) + log_det + len(mean) * np.log(2 * np.pi))


def log_likelihood(x: np.ndarray, params: Mixture) -> np.ndarray:
    """log p(x) = log sum_k p(x, z = k), nats [n] (S4 37)."""
    return np.logaddexp.reduce(log_joint(x, params), axis=1)


def responsibilities(x: np.ndarray, params: Mixture) -> np.ndarray:
    """The E-step: q(z = k) = p(z = k | x) = p(x, z = k) / p(x) [n, K]."""
    return _posterior(log_joint(x, params))


def _posterior(joint: np.ndarray) -> np.ndarray:
    return np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))


def lower_bound(x: np.ndarray, params: Mixture, q: np.ndarray) -> np.ndarray:
    """L(theta, q) = E_q[log p(x, z)] + H(q), nats [n], for any q [n, K] whose rows sum to 1
    (S4 45)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = q * (log_joint(x, params) - np.log(q))
    return np.sum(np.where(q > 0, terms, 0.0), axis=1)  # 0 log 0 = 0


def m_step(x: np.ndarray, q: np.ndarray, floor: float) -> Mixture:
    """The M-step: the theta with the largest sum of L(theta, q) over the examples, among those
    whose covariances have no eigenvalue below `floor` > 0."""
    if not floor > 0:
        raise ValueError(
            f"floor = {floor} must be positive: a component on one example has no likelihood"
        )
    counts = q.sum(axis=0)
    # An empty component may have any mean, because its share of L is 0.
    shares = q / np.maximum(counts, np.finfo(float).tiny)
    means = shares.T @ x
    scatters = [
        (x - mean).T @ (share[:, None] * (x - mean))
        for mean, share in zip(means, shares.T, strict=True)
    ]
    covariances = np.stack([raise_eigenvalues(scatter, floor) for scatter in scatters])
    return Mixture(counts / len(x), means, covariances)


def raise_eigenvalues(scatter: np.ndarray, floor: float) -> np.ndarray:
    """The covariance S >= floor I that maximises -1/2 [log det S + tr(S^-1 scatter)]: the
    scatter with its eigenvalues raised to the floor.

    The usual remedy, adding floor I, is not the maximiser: with it the likelihood may fall.
    """
    # Proof. In P = S^-1 the objective 1/2 [log det P - tr(P scatter)] is concave and P <= I / floor
    # is a convex set, so P is the maximum if its gradient P^-1 - scatter = M is >= 0 and
    # M (I / floor - P) = 0 (M is the multiplier). For the returned S, M has the scatter's
    # eigenvectors and the eigenvalues max(l, floor) - l, which are never negative, and 0 except
    # where P's eigenvalue is 1 / floor.
    values, vectors = np.linalg.eigh(scatter)
    return (vectors * np.maximum(values, floor)) @ vectors.T


def em_step(x: np.ndarray, params: Mixture, floor: float) -> tuple[Mixture, float]:
    """One E-step and one M-step: returns the new parameters, and the mean log p(x) under the old
    parameters in nats.

    The mean log p(x) under the new parameters is at least as large, if the old covariances also
    respect the floor.
    """
    joint = log_joint(x, params)
    new = m_step(x, _posterior(joint), floor)
    return new, float(np.logaddexp.reduce(joint, axis=1).mean())


def fit(
    x: np.ndarray,
    num_components: int,
    seed: int | np.random.Generator,
    *,
    floor: float,
    num_steps: int = 200,
    tolerance: float = 1e-6,
) -> tuple[Mixture, np.ndarray]:
    """Fits a mixture by EM on x [n, D], until the mean log p(x) rises by less than `tolerance`
    nats.

    Returns the parameters and the mean log p(x) after 0, 1, ... steps [steps + 1].

    Raises:
        ValueError: x has fewer distinct examples than components.
    """
    rng = np.random.default_rng(seed)
    params = m_step(x, nearest_seeds(x, num_components, rng), floor)
    history: list[float] = []
    for _ in range(num_steps):
        new, old_value = em_step(x, params, floor)
        history.append(old_value)
        if len(history) > 1 and history[-1] - history[-2] < tolerance:
            return params, np.array(history)
        params = new
    return params, np.array([*history, log_likelihood(x, params).mean()])


def nearest_seeds(x: np.ndarray, num_components: int, rng: np.random.Generator) -> np.ndarray:
    """An initial q [n, K], one-hot: each example belongs to the nearest of K seeds. The seeds are
    examples, drawn with a probability proportional to the squared distance to the nearest seed so
    far (k-means++)."""
    squares = np.sum((x - x[rng.integers(len(x))]) ** 2, axis=1)[:, None]
    for _ in range(num_components - 1):
        nearest = squares.min(axis=1)
        if not nearest.any():
            raise ValueError(
                f"num_components = {num_components}, but there are only {squares.shape[1]} "
                "distinct examples: choose fewer components"
            )
        seed = x[rng.choice(len(x), p=nearest / nearest.sum())]
        squares = np.column_stack([squares, np.sum((x - seed) ** 2, axis=1)])
    return np.eye(num_components)[squares.argmin(axis=1)]


def sample(params: Mixture, num: int, seed: int | np.random.Generator) -> np.ndarray:
    """Draws x [num, D]: first z, then x given z (ancestral sampling, S4 section 2.2)."""
    rng = np.random.default_rng(seed)
    z = rng.choice(len(params.weights), size=num, p=params.weights)
    noise = rng.standard_normal((num, params.means.shape[1]))
    roots = np.linalg.cholesky(params.covariances)
    return params.means[z] + np.einsum("nij,nj->ni", roots[z], noise)
