"""Bits/dim of a split: independent of batches and devices, unbiased, with honest errors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from vdm.data.sources import Split
from vdm.devices import sharding
from vdm.diffusion.exact import GaussianData
from vdm.diffusion.likelihood import Gaussian
from vdm.diffusion.samplers import ancestral
from vdm.evaluation.bits_per_dim import Evaluation, evaluate
from vdm.evaluation.calls import Parts
from vdm.evaluation.estimators import Elbo
from vdm.evaluation.samples import Sampling, draw_samples
from vdm.evaluation.statistics import (
    Error,
    difference_error,
    half_width,
    mean_error,
    monte_carlo_error,
    num_strata,
    standard_error,
    stratified_error,
    student_quantile,
)
from vdm.models.vdm import VDM
from vdm.nn.schedules import Linear


@dataclasses.dataclass(frozen=True)
class IdealNetwork:
    """The exact denoiser of N(0, std^2) in place of a network."""

    std: float

    def apply(self, variables, z, omega, labels, train, rngs):
        return GaussianData(self.std).eps_hat(z, omega)


STD, DIM = 0.5, 3
MODEL = VDM(Linear(-9.0, 7.0, learn_ends=False), IdealNetwork(STD), Gaussian(), (DIM,))
PARAMS = {"network": {}, "schedule": {}}
X = np.asarray(STD * jax.random.normal(jax.random.key(0), (101, DIM)), np.float32)
SPLIT = Split("test", X, None)


def run(
    batch_size=40, devices=1, num_steps=0, finished=(), on_part=lambda part: None, **kwargs
) -> Evaluation:
    mesh = sharding.build_mesh(devices)
    kwargs.setdefault("estimator", Elbo(num_steps))
    parts = Parts(batch_size, finished, on_part)
    return evaluate(MODEL, PARAMS, SPLIT, mesh, parts=parts, **kwargs)


def test_batch_size_and_devices_do_not_change_the_number():
    reference = run(batch_size=101)
    for batch_size, devices in [(40, 1), (7, 1), (16, 8)]:
        other = run(batch_size=batch_size, devices=devices)
        np.testing.assert_allclose(other.total, reference.total, rtol=2e-5, atol=1e-5)
        np.testing.assert_allclose(other.summary()["bpd"], reference.summary()["bpd"], rtol=1e-6)


def test_bound_is_unbiased_and_its_monte_carlo_error_honest():
    # The expectation on these very images is known: reconstruction and prior per image in
    # closed form, the denoising term of an image x by quadrature over omega:
    # E ||eps - eps_hat||^2 = D (1 - g sigma)^2 + (g alpha)^2 ||x||^2, eps_hat = g z.
    result = run(batch_size=101, draws=2000)
    with jax.enable_x64(True):
        omega = jnp.linspace(-9.0, 7.0, 20_001)
        a, s = jnp.sqrt(jax.nn.sigmoid(-omega)), jnp.sqrt(jax.nn.sigmoid(omega))
        g = s / (a**2 * STD**2 + s**2)
        square = np.mean(np.sum(X.astype(np.float64) ** 2, -1))
        error = DIM * (1 - g * s) ** 2 + (g * a) ** 2 * square
        denoising = 0.5 * np.trapezoid(error, omega)
        reconstruction = DIM * 0.5 * (1 - 9.0 + np.log(2 * np.pi))
        snr = 1 / (1 + np.exp(7.0))
        prior = 0.5 * (snr * (square - DIM) + DIM * np.log1p(np.exp(-7.0)))
    want = (denoising + reconstruction + prior) / (DIM * np.log(2))
    summary = result.summary()
    assert abs(summary["bpd"] - want) < 4 * summary["stderr_monte_carlo"]
    assert summary["stderr_monte_carlo"] < 0.02
    # independent evaluations scatter as the error says
    means = [run(batch_size=101, draws=6, seed=k).summary()["bpd"] for k in range(40)]
    claimed = summary["stderr_monte_carlo"] * np.sqrt(2000 / 6)
    assert 0.7 < np.std(means, ddof=1) / claimed < 1.4


def test_finite_steps_are_a_looser_bound():
    assert run(num_steps=5, draws=100).summary()["bpd"] > run(draws=100).summary()["bpd"] + 0.05


def test_standard_errors_are_those_of_means():
    values = np.arange(12.0).reshape(3, 4) ** 2
    zero = np.zeros((3, 4))
    columns = {"reconstruction": values, "prior_matching": zero, "denoising_matching": zero}
    result = Evaluation(columns, -9.0, 7.0, num_dims=1)
    bpd = values / np.log(2)
    summary = result.summary()
    assert summary["bpd"] == pytest.approx(bpd.mean())
    assert summary["stderr_images"] == pytest.approx(bpd.mean(0).std(ddof=1) / 2)
    assert summary["stderr_monte_carlo"] == pytest.approx(bpd.mean(1).std(ddof=1) / np.sqrt(3))


def test_students_quantiles_are_those_of_the_tables():
    found = student_quantile([1, 2, 10, 30, np.inf])
    np.testing.assert_allclose(found, [12.706205, 4.302653, 2.228139, 2.042272, 1.959964], 1e-6)
    assert student_quantile(4, level=0.99) == pytest.approx(4.604095)
    assert student_quantile(2.5) == pytest.approx(scipy.stats.t.ppf(0.975, 2.5))
    assert half_width(0.1, 2) == pytest.approx(0.4302653)
    unknown = [(None, 3), (0.1, None), (np.nan, 3), (0.1, 0), (0.1, np.nan)]
    assert all(np.isnan(half_width(*pair)) for pair in unknown)


def test_error_of_independent_noise_is_from_the_variance_of_every_image():
    values = np.array([[1.0, 10.0, 5.0], [3.0, 10.0, 9.0]])  # variances 2, 0, 8
    error = monte_carlo_error(values, independent=True)
    assert error == (pytest.approx(np.sqrt((2 + 0 + 8) / 2) / 3), 3)
    # of one image it is the standard error of the mean of its draws
    one = np.array([[1.0], [2.0], [4.0]])
    assert monte_carlo_error(one, independent=True) == (pytest.approx(standard_error(one[:, 0])), 2)
    # what the images of a draw share is seen in the means of draws alone
    shared = values[:, :1] + np.zeros((2, 3))
    assert monte_carlo_error(shared) == (pytest.approx(1.0), 1)


@pytest.mark.parametrize("independent", [False, True])
def test_the_error_of_one_draw_is_unknown(independent):
    stderr, degrees = monte_carlo_error(np.ones((1, 5)), 1, independent)
    assert np.isnan(stderr)
    assert degrees == 0
    columns = {"total": np.ones((1, 5))}
    summary = Evaluation(columns, None, None, 2, independent=independent).summary()
    assert np.isnan(summary["stderr_monte_carlo"])
    assert summary["stderr_degrees"] is None


@pytest.mark.parametrize(("draws", "degrees"), [(2, 1), (3, 2), (4, 2), (9, 6), (20, 10)])
def test_degrees_of_freedom_are_the_draws_beyond_one_in_each_stratum(draws, degrees):
    values = np.random.default_rng(0).normal(size=(draws, 5))
    evaluation = Evaluation({"total": values}, None, None, 1, strata=num_strata(draws))
    assert evaluation.summary()["stderr_degrees"] == degrees
    alone = dataclasses.replace(evaluation, strata=1, independent=True)
    assert alone.summary()["stderr_degrees"] == 5 * (draws - 1)


def test_errors_of_means_and_differences_of_two_evaluations():
    a, b = Error(0.3, 2), Error(0.4, 8)
    assert mean_error([a, b]) == (pytest.approx(0.25), 10)
    assert mean_error([a]) == a
    assert difference_error(a, b) == (pytest.approx(0.5), pytest.approx(0.5**4 / 0.00725))
    assert difference_error(a, Error(0.0, 5)) == (pytest.approx(0.3), pytest.approx(2))
    assert difference_error(Error(0.0, 1), Error(0.0, 5)) == (0, 6)
    unknown = Error(np.nan, 0)
    for error in (mean_error([a, unknown]), difference_error(unknown, a)):
        assert np.isnan(error.stderr)
        assert error.degrees == 0


def test_variance_of_the_denoising_term_is_that_of_one_draw_of_one_image():
    # The mean is 3 and the squares around it add up to 18, over 6 - 1 draws, in nats squared; over
    # the means of images, 1, 5 and 3, the variance would be 4.
    nats = np.array([[1.0, 5.0, 2.0], [1.0, 5.0, 4.0]])
    columns = {"reconstruction": 7 * nats, "prior_matching": nats**2, "denoising_matching": nats}
    variance = Evaluation(columns, -9.0, 7.0, num_dims=5).summary()["denoising_variance"]
    want = 18 / 5 / (5 * np.log(2)) ** 2
    assert variance == pytest.approx(want, rel=1e-12)
    total = Evaluation({"total": nats}, -9.0, 7.0, num_dims=5).summary()
    assert total["denoising_variance"] is None


def test_error_over_draws_leaves_out_what_differs_between_strata():
    means = np.array([1.0, 12.0, 103.0, 3.0, 10.0, 107.0])  # draw k in part k mod 3
    variances = [2.0, 2.0, 8.0]  # within the parts, two draws each
    assert stratified_error(means, 3) == pytest.approx(np.sqrt(sum(v / 2 for v in variances)) / 3)
    assert stratified_error(means, 1) == pytest.approx(standard_error(means))
    assert np.isnan(stratified_error(means, 6))
    assert [num_strata(k) for k in (1, 2, 3, 4, 7, 9, 20, 100)] == [1, 1, 1, 2, 1, 3, 10, 50]


def test_hutchinson_error_is_that_of_the_mean_of_all_probes():
    variance = np.array([[4.0, 0.0, 1.0], [0.0, 2.0, 2.0]])
    columns = {"total": np.zeros((2, 3)), "probe_variance": variance}
    summary = Evaluation(columns, -9.0, 7.0, num_dims=5).summary()
    nats = np.sqrt(variance.sum() / 6**2)  # of the mean of six independent totals
    assert summary["stderr_hutchinson"] == pytest.approx(nats / 5 / np.log(2))
    assert summary["bpd_prior"] is None


def test_times_of_a_draw_cover_the_unit_interval():
    # omega is linear in t here: 101 images, one time in each of 101 cells, in every draw.
    t = (run(draws=14).columns["omega_t"] + 9.0) / 16.0
    for draw in t:
        np.testing.assert_allclose(np.diff(np.sort(draw)), 1 / 101, atol=2e-6)
    # and every image has two times in each of 7 equal parts, counted from its own offset
    parts = np.floor((t - np.arange(101) / 101) % 1.0 * 7)
    np.testing.assert_array_equal(parts, (np.arange(14) % 7)[:, None] * np.ones(101))


def test_samples_do_not_depend_on_batch_size():
    def draw(batch_size, devices):
        mesh = sharding.build_mesh(devices)
        return draw_samples(
            MODEL, PARAMS, 10, mesh, Sampling(ancestral(), 30), parts=Parts(batch_size)
        ).data

    reference = draw(10, 1)
    assert reference.shape == (10, DIM)
    np.testing.assert_allclose(draw(3, 1), reference, atol=1e-5)
    np.testing.assert_allclose(draw(8, 8), reference, atol=1e-5)


def test_a_number_of_draws_below_one_is_refused():
    with pytest.raises(ValueError, match="must be positive"):
        run(draws=0)
