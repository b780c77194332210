"""Each kind of bound through the evaluation, with an ideal denoiser in place of a network."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.evaluation.test_bits_per_dim import DIM, MODEL, PARAMS, SPLIT, STD, X, run
from vdm.data.sources import Split
from vdm.devices import sharding
from vdm.diffusion.exact import GaussianData
from vdm.diffusion.ode import Solver
from vdm.evaluation.bits_per_dim import evaluate
from vdm.evaluation.estimators import Elbo, ImportanceWeighted, ProbabilityFlow
from vdm.models.vdm import VDM

FLOW = ProbabilityFlow("decoder", Solver(12, divergence="exact"))
EXACT = float(GaussianData(STD).negative_log_prob(jnp.asarray(X)).mean()) / (DIM * np.log(2))


def test_one_importance_weight_is_the_elbo_of_as_many_steps():
    # E ||eps - eps_hat||^2 = D (1 - g sigma)^2 + (g alpha)^2 ||x||^2 at each level, eps_hat = g z.
    omega = np.linspace(-9.0, 7.0, 41)
    alpha_squared, sigma_squared = 1 / (1 + np.exp(omega)), 1 / (1 + np.exp(-omega))
    g = np.sqrt(sigma_squared) / (alpha_squared * STD**2 + sigma_squared)
    square = np.mean(np.sum(X.astype(np.float64) ** 2, -1))
    error = DIM * (1 - g * np.sqrt(sigma_squared)) ** 2 + g**2 * alpha_squared * square
    denoising = 0.5 * np.sum(np.expm1(np.diff(omega)) * error[1:])
    reconstruction = DIM * 0.5 * (1 - 9.0 + np.log(2 * np.pi))
    prior = 0.5 * (alpha_squared[-1] * (square - DIM) + DIM * np.log1p(np.exp(-7.0)))
    elbo = (denoising + reconstruction + prior) / (DIM * np.log(2))
    weighted = run(estimator=ImportanceWeighted(40, 1), batch_size=101, draws=100).summary()
    assert abs(weighted["bpd"] - elbo) < 4 * weighted["stderr_monte_carlo"]
    assert weighted["stderr_monte_carlo"] < 0.02


def test_more_importance_weights_are_a_tighter_bound():
    one, many = (
        run(estimator=ImportanceWeighted(5, k), batch_size=101, draws=20).summary()["bpd"]
        for k in (1, 16)
    )
    assert EXACT < many < one - 0.05


def test_the_flow_of_the_ideal_denoiser_has_the_exact_density():
    summary = run(estimator=FLOW, batch_size=101, draws=20).summary()
    assert abs(summary["bpd"] - EXACT) < 4 * summary["stderr_monte_carlo"] + 1e-4
    assert summary["stderr_monte_carlo"] < 0.01
    assert "stderr_hutchinson" not in summary


@pytest.mark.slow
def test_probes_are_a_part_of_the_monte_carlo_error():
    probed = ProbabilityFlow("decoder", Solver(12, divergence="hutchinson", probes=2))
    summary = run(estimator=probed, batch_size=101, draws=8).summary()
    assert np.isfinite(summary["stderr_hutchinson"])
    alone = ProbabilityFlow("decoder", Solver(12, divergence="hutchinson", probes=1))
    assert np.isnan(run(estimator=alone, batch_size=101, draws=2).summary()["stderr_hutchinson"])


@pytest.mark.parametrize("estimator", [
    ImportanceWeighted(5, 3), pytest.param(FLOW, marks=pytest.mark.slow)
], ids=["iw", "ode"])  # fmt: skip
def test_batch_size_and_devices_do_not_change_a_bound(estimator):
    reference = run(estimator=estimator, batch_size=101, draws=2)
    other = run(estimator=estimator, batch_size=24, devices=8, draws=2)
    np.testing.assert_allclose(other.total, reference.total, rtol=2e-5, atol=2e-5)
    assert other.summary()["bpd"] == pytest.approx(reference.summary()["bpd"], rel=1e-6)


@pytest.mark.parametrize("estimator", [
    Elbo(), Elbo(7), ImportanceWeighted(5, 3), pytest.param(FLOW, marks=pytest.mark.slow)
])  # fmt: skip
def test_a_resumed_evaluation_has_the_same_bits(estimator):
    parts = []
    whole = run(estimator=estimator, batch_size=40, draws=2, on_part=parts.append)
    assert len(parts) == 3 * 2
    for done in (1, 2, 5, 6):
        computed = []
        finished = [part.ravel() for part in parts[:done]]
        resumed = run(estimator=estimator, batch_size=40, draws=2, finished=finished,
                      on_part=computed.append)  # fmt: skip
        assert len(computed) == 6 - done
        for name, column in whole.columns.items():
            np.testing.assert_array_equal(resumed.columns[name], column)
            # sums over it depend on its layout
            assert resumed.columns[name].strides == column.strides


class BrokenNetwork:
    """Estimates the noise of every example as NaN."""

    def apply(self, variables, z, omega, labels, train, rngs):
        return z * np.nan


def test_a_bound_that_is_not_finite_is_an_error():
    model = VDM(MODEL.schedule, BrokenNetwork(), MODEL.likelihood, MODEL.dims)
    for estimator, remedy in [
        (Elbo(), "try an earlier checkpoint"),
        (FLOW, "raise eval.ode.num_steps"),
    ]:
        with pytest.raises(ValueError, match=f"101 of 101 examples.*{remedy}"):
            evaluate(model, PARAMS, SPLIT, sharding.build_mesh(1), estimator=estimator, draws=1)


class LabelNetwork:
    """Estimates the noise of every example as its label."""

    def apply(self, variables, z, omega, labels, train, rngs):
        return jnp.broadcast_to(labels[:, None].astype(z.dtype), z.shape)


@pytest.mark.parametrize("estimator", [
    Elbo(), ImportanceWeighted(5, 2), pytest.param(FLOW, marks=pytest.mark.slow)
])  # fmt: skip
def test_labels_reach_the_network_of_a_conditional_model(estimator):
    model = VDM(MODEL.schedule, LabelNetwork(), MODEL.likelihood, MODEL.dims, num_classes=3)

    def total(labels):
        split = Split("test", np.tile(X[:1], (3, 1)), np.int32(labels))
        mesh = sharding.build_mesh(1)
        return evaluate(model, PARAMS, split, mesh, estimator=estimator, draws=1).total[0]

    first, same, other = total([0, 1, 2]), total([0, 1, 2]), total([0, 2, 2])
    np.testing.assert_array_equal(first, same)
    assert np.flatnonzero(first != other).tolist() == [1]
