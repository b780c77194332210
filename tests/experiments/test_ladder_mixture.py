"""EM against its identities and scipy, and the first rung of the ladder on a few digits."""

import dataclasses
import functools
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from experiments.ladder import mixture
from experiments.ladder.mixture import Mixture, em_step, lower_bound, m_step, responsibilities
from experiments.ladder.mixture_digits import bound_nats, mixture_rung
from vdm.data.sources import Source, Split, digits
from vdm.diffusion.exact import MixtureData

DIGITS = Path(__file__).parent.parent.parent / "experiments" / "digits" / "results.json"

SEPARATED = Mixture(
    np.array([0.5, 0.3, 0.2]),
    np.array([[-4.0, 0.0], [3.0, 3.0], [4.0, -5.0]]),
    np.array([[[1.0, 0.6], [0.6, 0.5]], [[0.3, 0.0], [0.0, 0.3]], [[0.4, -0.1], [-0.1, 0.9]]]),
)


def points(seed: int, num: int, dim: int) -> np.ndarray:
    """Examples in clusters of unequal width that are not a mixture of Gaussians."""
    rng = np.random.default_rng(seed)
    centres = 3 * rng.standard_normal((4, dim))
    return centres[rng.integers(4, size=num)] + rng.laplace(size=(num, dim)) * rng.random(dim)


def soft(seed: int, num: int, num_components: int) -> np.ndarray:
    """An arbitrary q [num, K]."""
    return np.random.default_rng(seed).dirichlet(np.full(num_components, 0.7), size=num)


def start(x: np.ndarray, num_components: int, floor: float, seed: int = 0) -> Mixture:
    return m_step(x, soft(seed, len(x), num_components), floor)


def scipy_log_joint(x: np.ndarray, params: Mixture) -> np.ndarray:
    columns = [
        np.log(w) + np.atleast_1d(scipy.stats.multivariate_normal(m, s).logpdf(x))
        for w, m, s in zip(*params, strict=True)
    ]
    return np.stack(columns, axis=1)


@pytest.mark.equation("S4 37", "experiments.ladder.mixture:log_likelihood")
@pytest.mark.equation("S4 38", "experiments.ladder.mixture:log_joint")
@pytest.mark.equation("S4 39", "experiments.ladder.mixture:log_joint")
@pytest.mark.equation("S1 1.1", "experiments.ladder.mixture:log_likelihood")
def test_log_density_is_scipys():
    x = points(0, 50, 2)
    want = scipy_log_joint(x, SEPARATED)
    np.testing.assert_allclose(mixture.log_joint(x, SEPARATED), want, rtol=1e-11)
    total = scipy.special.logsumexp(want, axis=1)
    np.testing.assert_allclose(mixture.log_likelihood(x, SEPARATED), total, rtol=1e-11)


def test_log_density_is_the_oracles_for_round_components():
    stds = np.array([0.3, 1.0, 2.0])
    round_ = Mixture(SEPARATED.weights, SEPARATED.means, stds[:, None, None] ** 2 * np.eye(2)[None])
    oracle = MixtureData(*(jnp.asarray(a, jnp.float32) for a in (*round_[:2], stds)))
    x = points(1, 20, 2)
    want = jax.jit(oracle.log_prob)(jnp.asarray(x, jnp.float32), jnp.float32(-80.0))
    np.testing.assert_allclose(mixture.log_likelihood(x, round_), want, rtol=1e-5)


@pytest.mark.equation("S4 44", "experiments.ladder.mixture:lower_bound")
@pytest.mark.equation("S4 45", "experiments.ladder.mixture:lower_bound")
@pytest.mark.equation("S4 46", "experiments.ladder.mixture:lower_bound")
@pytest.mark.equation("S1 1.15", "experiments.ladder.mixture:lower_bound")
@pytest.mark.equation("S1 1.16", "experiments.ladder.mixture:lower_bound")
@pytest.mark.equation("S1 1.6", "experiments.ladder.mixture:lower_bound")
@pytest.mark.parametrize("dim", [1, 2])
def test_log_density_is_the_bound_plus_the_divergence_for_every_q(dim):
    x = points(2, 40, dim)
    params, q = start(x, 3, 0.01), soft(7, 40, 3)
    joint = scipy_log_joint(x, params)
    log_p = scipy.special.logsumexp(joint, axis=1)
    divergence = np.sum(scipy.special.rel_entr(q, np.exp(joint - log_p[:, None])), axis=1)
    bound = lower_bound(x, params, q)
    np.testing.assert_allclose(bound + divergence, log_p, rtol=1e-12, atol=1e-12)
    assert (bound < log_p).all()


@pytest.mark.equation("S4 46", "experiments.ladder.mixture:responsibilities")
@pytest.mark.equation("S1 1.2", "experiments.ladder.mixture:responsibilities")
@pytest.mark.parametrize("dim", [1, 2])
def test_e_step_closes_the_gap(dim):
    x = points(3, 40, dim)
    params = start(x, 3, 0.01)
    q = responsibilities(x, params)
    np.testing.assert_allclose(q.sum(axis=1), 1.0, rtol=1e-12)
    log_p = mixture.log_likelihood(x, params)
    np.testing.assert_allclose(lower_bound(x, params, q), log_p, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("floor", [1e-3, 0.8])
def test_m_step_maximises_the_bound_among_covariances_above_the_floor(floor):
    x, q = points(4, 60, 2), soft(4, 60, 3)
    best = m_step(x, q, floor)
    bound = lower_bound(x, best, q).sum()
    smallest = np.linalg.eigvalsh(best.covariances).min()
    assert smallest >= floor * (1 - 1e-12)
    assert (smallest < 1.001 * floor) == (
        floor == 0.8
    )  # the floor is active in one of the two cases
    rng = np.random.default_rng(5)
    for scale in (1e-4, 1e-2, 0.3):
        for _ in range(40):
            tilt = rng.standard_normal((3, 2, 2)) * scale
            others = [
                best._replace(weights=scipy.special.softmax(np.log(best.weights) + tilt[:, 0, 0])),
                best._replace(means=best.means + tilt[:, 0]),
                best._replace(covariances=above(best.covariances + tilt @ best.covariances, floor)),
                best._replace(covariances=above(best.covariances * (1 + tilt[0, 0, 0]), floor)),
            ]
            for other in others:
                assert lower_bound(x, other, q).sum() <= bound + 1e-11


def above(matrices: np.ndarray, floor: float) -> np.ndarray:
    """Symmetric matrices near these with all eigenvalues >= floor."""
    values, vectors = np.linalg.eigh(0.5 * (matrices + matrices.swapaxes(-1, -2)))
    return (vectors * np.maximum(values, floor)[..., None, :]) @ vectors.swapaxes(-1, -2)


@given(seed=st.integers(0, 10_000), floor=st.sampled_from([1e-3, 0.3, 1.0, 5.0]))
def test_raised_eigenvalues_are_the_best_covariance_above_the_floor(seed, floor):
    rng = np.random.default_rng(seed)
    factor = rng.standard_normal((3, 3)) * np.exp(rng.standard_normal(3))
    scatter = factor @ factor.T
    value = functools.partial(gaussian_value, scatter=scatter)
    best = mixture.raise_eigenvalues(scatter, floor)
    eigenvalues = np.linalg.eigvalsh(best)  # each is exact to a few eps of the largest
    assert eigenvalues.min() >= floor - 1e-14 * eigenvalues.max()
    assert value(scatter + floor * np.eye(3)) < value(best)
    for _ in range(20):
        tilt = np.eye(3) + 10 ** rng.uniform(-3, 0) * rng.standard_normal((3, 3))
        assert value(above(tilt @ best @ tilt.T, floor)) <= value(best) + 1e-12


def gaussian_value(covariance: np.ndarray, scatter: np.ndarray) -> float:
    """-1/2 [log det S + tr(S^-1 scatter)]."""
    fit = np.trace(np.linalg.solve(covariance, scatter))
    return -0.5 * float(np.linalg.slogdet(covariance)[1] + fit)


def test_adding_the_floor_instead_can_lower_the_likelihood(monkeypatch):
    x = points(11, 40, 2)
    monkeypatch.setattr(mixture, "raise_eigenvalues", lambda s, floor: s + floor * np.eye(len(s)))
    _, history = mixture.fit(x, 3, 0, floor=0.5, num_steps=30, tolerance=-math.inf)
    assert np.diff(history).min() < -1e-4


def likelihoods(x: np.ndarray, params: Mixture, floor: float, num_steps: int) -> np.ndarray:
    """Mean log p(x), nats, after 0, 1, ... num_steps steps."""
    values = []
    for _ in range(num_steps + 1):
        params, value = em_step(x, params, floor)
        values.append(value)
    return np.array(values)


@pytest.mark.equation("S4 46", "experiments.ladder.mixture:em_step")
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("floor", [1e-3, 1.0])
def test_every_em_step_raises_the_likelihood(dim, floor):
    x = points(6, 80, dim)
    params = start(x, 3, floor)
    values = likelihoods(x, params, floor, 30)
    assert np.diff(values).min() >= -1e-9
    assert values[-1] - values[0] > 0.05
    np.testing.assert_allclose(values[0], mixture.log_likelihood(x, params).mean(), rtol=1e-12)
    # The two halves of a step: L rises to log p, then above it.
    q = responsibilities(x, params)
    after, _ = em_step(x, params, floor)
    assert values[0] < lower_bound(x, after, q).mean() < values[1]


@given(
    seed=st.integers(0, 10_000),
    dim=st.integers(1, 4),
    num_components=st.integers(1, 5),
    floor=st.sampled_from([1e-4, 1e-2, 0.5, 20.0]),
    scale=st.sampled_from([0.1, 1.0, 100.0]),
)
def test_em_never_lowers_the_likelihood(seed, dim, num_components, floor, scale):
    x = scale * points(seed, 25, dim)
    values = likelihoods(x, start(x, num_components, floor, seed), floor, 15)
    assert np.diff(values).min() >= -1e-9


def test_fit_stops_at_its_tolerance_and_reports_every_step():
    x = points(8, 60, 2)
    params, history = mixture.fit(x, 3, 1, floor=0.01, tolerance=1e-7)
    np.testing.assert_allclose(history[-1], mixture.log_likelihood(x, params).mean(), rtol=1e-12)
    rises = np.diff(history)
    assert rises[-1] < 1e-7 <= rises[:-1].min()
    short, history_short = mixture.fit(x, 3, 1, floor=0.01, num_steps=2)
    np.testing.assert_array_equal(history_short, history[:3])
    np.testing.assert_allclose(
        history_short[-1], mixture.log_likelihood(x, short).mean(), rtol=1e-12
    )


def test_fit_recovers_a_well_separated_mixture():
    n = 4000
    x = mixture.sample(SEPARATED, n, 3)
    found, _ = mixture.fit(x, 3, 0, floor=1e-3)
    order = [int(np.argmin(np.sum((found.means - m) ** 2, axis=1))) for m in SEPARATED.means]
    assert sorted(order) == [0, 1, 2]
    w = SEPARATED.weights
    assert (np.abs(found.weights[order] - w) < 4 * np.sqrt(w * (1 - w) / n)).all()
    variances = np.diagonal(SEPARATED.covariances, axis1=1, axis2=2)
    counts = (n * w)[:, None]
    assert (np.abs(found.means[order] - SEPARATED.means) < 4 * np.sqrt(variances / counts)).all()
    # Var of a sample covariance's element is (S_ii S_jj + S_ij^2) / n.
    spread = variances[:, :, None] * variances[:, None, :] + SEPARATED.covariances**2
    error = np.abs(found.covariances[order] - SEPARATED.covariances)
    assert (error < 4 * np.sqrt(spread / counts[..., None])).all()


@pytest.mark.equation("S4 40", "experiments.ladder.mixture:sample")
def test_samples_have_the_moments_of_the_mixture():
    n = 40_000
    x = mixture.sample(SEPARATED, n, 9)
    w, means, covariances = SEPARATED
    mean = w @ means
    centred = means - mean
    covariance = np.einsum("k,kij->ij", w, covariances + centred[:, :, None] * centred[:, None, :])
    errors = np.sqrt(np.diag(covariance) / n)
    assert (np.abs(x.mean(axis=0) - mean) < 4 * errors).all()
    got = (x - mean)[:, :, None] * (x - mean)[:, None, :]
    assert (np.abs(got.mean(axis=0) - covariance) < 4 * got.std(axis=0) / np.sqrt(n)).all()


def test_an_empty_component_is_no_component():
    x = points(10, 30, 2)
    q = np.column_stack([soft(1, 30, 2), np.zeros(30)])
    params = m_step(x, q, 0.1)
    without = m_step(x, q[:, :2], 0.1)
    assert params.weights[2] == 0
    np.testing.assert_allclose(
        mixture.log_likelihood(x, params), mixture.log_likelihood(x, without), rtol=1e-13
    )
    np.testing.assert_allclose(
        lower_bound(x, params, q), lower_bound(x, without, q[:, :2]), rtol=1e-13
    )
    assert lower_bound(x, params, soft(2, 30, 3)).max() == -np.inf


def test_impossible_fits_are_refused():
    with pytest.raises(ValueError, match=r"floor = 0\.0 must be positive"):
        mixture.fit(points(0, 9, 1), 2, 0, floor=0.0)
    with pytest.raises(ValueError, match="num_components = 3, but there are only 2 distinct"):
        mixture.fit(np.array([[0.0], [1.0], [0.0], [1.0]]), 3, 0, floor=0.1)


@pytest.mark.parametrize(("code", "std"), [(0, 0.5), (3, 2.0)])
def test_dequantised_bound_is_its_closed_form_and_above_the_exact_code(code, std):
    params = Mixture(np.ones(1), np.full((1, 1), 1.3), np.full((1, 1, 1), std**2))
    split = Split("test", np.full((2000, 1), code, np.uint8), None)
    nats = bound_nats(split, params, 2, np.random.default_rng(0))
    assert nats.shape == (2, 2000)
    square = (code + 0.5 - 1.3) ** 2 + 1 / 12
    want = 0.5 * math.log(2 * math.pi * std**2) + square / (2 * std**2)
    assert abs(nats.mean() - want) < 4 * nats.std() / math.sqrt(4000)
    normal = scipy.stats.norm(1.3, std)
    assert want > -math.log(normal.cdf(code + 1) - normal.cdf(code))


def few(source: Source, num: int) -> Source:
    """The first examples of each of its splits."""

    def load(split: str) -> Split:
        return dataclasses.replace(source.load(split), examples=source.load(split).examples[:num])

    return dataclasses.replace(source, load=load)


def test_rung_on_a_few_digits():
    final = few(digits("", 0), 30)
    rung = mixture_rung(
        few(digits("", 200), 30), final, components=(1, 2), floors=(0.1, 1.0), seeds=(0, 1),
        copies=2, draws=3, num_samples=5,
    )  # fmt: skip
    row, test = rung.row, final.load("test")
    k = row["num_components"]
    assert row["name"] == f"mixture, K = {k}"
    assert row["parameters"] == k - 1 + 64 * k + 64 * 65 // 2 * k
    assert len(row["validation"]) == 4
    best = min(row["validation"], key=lambda r: r["bpd"])
    assert (best["num_components"], best["floor"]) == (k, row["floor"])
    assert row["data_fingerprint"] == test.fingerprint
    assert rung.nats.shape == (30,)
    np.testing.assert_allclose(row["bpd"], rung.nats.mean() / (64 * math.log(2)), rtol=1e-12)
    np.testing.assert_allclose(row["bpd"], np.mean(row["bpd_of_seeds"]), rtol=1e-12)
    assert 0 < row["stderr"] < row["stderr_images"]
    # Between a poor Gaussian and the uniform code: this checks the units, not the quality.
    assert 2 < row["bpd"] < 8
    assert rung.samples.shape == (5, 8, 8, 1)
    assert rung.samples.dtype == np.uint8
    assert rung.samples.max() <= 16
    json.dumps(row, allow_nan=False)


def test_test_split_is_that_of_the_digits_experiment():
    (fingerprint,) = {row["data_fingerprint"] for row in json.loads(DIGITS.read_text())}
    assert digits("", 0).load("test").fingerprint == fingerprint
