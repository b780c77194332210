"""The measured costs against the bound that is evaluated on the same images."""

import dataclasses
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.closed_forms import shaken
from vdm.data.sources import Split
from vdm.devices import sharding
from vdm.diffusion.least_bound import COARSE, FINE
from vdm.diffusion.likelihood import Discretised
from vdm.evaluation import step_costs
from vdm.evaluation.bits_per_dim import evaluate
from vdm.evaluation.estimators import Elbo
from vdm.evaluation.step_costs import check_choosable, measure
from vdm.models.vdm import VDM
from vdm.nn.chosen_levels import ChosenLevels
from vdm.nn.mlp import MLP
from vdm.nn.schedules import Linear, Polynomial

DIMS, V = 6, 5
MODEL = VDM(
    schedule=Linear(-6.0, 5.0),
    network=MLP(V, outputs_per_dim=V, width=16, num_blocks=1),
    likelihood=Discretised(V),
    dims=(DIMS,),
    prediction="codes",
)
CODES = np.random.default_rng(0).integers(0, V, (3000, DIMS), np.uint8)
SPLIT = Split("train", CODES, None)
LEVELS = [16, 27, 36, 46, 58]  # of the coarse ones
KINDS = [
    ("gaussian", "bayes"), ("gaussian_fitted", "bayes"), ("gaussian_fitted_per_dim", "network"),
    ("mixture", "bayes"), ("mixture", "network"),
]  # fmt: skip


@pytest.fixture(scope="module")
def mesh():
    return sharding.build_mesh(2)


@pytest.fixture(scope="module")
def params(mesh):
    params = jax.jit(MODEL.init)(jax.random.key(0))
    params["network"] = shaken(params["network"], 0.2)
    return sharding.put_everywhere(params, mesh)


@pytest.fixture(scope="module")
def measured(params, mesh):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_costs, "MOST_IMAGES", len(CODES))
        return measure(MODEL, params, SPLIT, mesh)


@pytest.mark.parametrize(("kernel", "decoder"), KINDS)
def test_costs_add_up_to_the_bound_of_their_levels(measured, params, mesh, kernel, decoder):
    costs = measured.costs(kernel, decoder)
    steps = costs.rates * (costs.omegas[None, :] - costs.omegas[:, None])
    matching = sum(steps[s, t] for s, t in itertools.pairwise(LEVELS))
    model = dataclasses.replace(
        MODEL, schedule=ChosenLevels(len(LEVELS) - 1), reverse=kernel, decoder_rule=decoder
    )
    fitted = measured.fitted(kernel) if "fitted" in kernel else {}
    own = params | {
        "schedule": {"omegas": jnp.asarray(measured.omegas[LEVELS], jnp.float32)},
        "kernel": fitted,
    }
    result = evaluate(
        model, sharding.put_everywhere(own, mesh), SPLIT, mesh,
        estimator=Elbo(len(LEVELS) - 1), draws=40,
    )  # fmt: skip
    terms = {name: column.mean() for name, column in result.columns.items()}
    prior = costs.prior[LEVELS[-1]]
    assert prior == pytest.approx(terms["prior_matching"], rel=1e-5)
    # One draw for each of 18,000 dimensions: a mean squared error is right to 1%.
    assert costs.decoder[LEVELS[0]] == pytest.approx(terms["reconstruction"], rel=0.03)
    assert matching == pytest.approx(terms["denoising_matching"], rel=0.03)


def test_a_short_step_costs_its_length_times_the_density(measured):
    for kernel, decoder in KINDS:
        rates = measured.costs(kernel, decoder).rates
        ahead = np.diagonal(rates, 1)[10:50]
        # At most expm1(0.17) / 0.17 more, and hardly less where the codes do not matter.
        np.testing.assert_allclose(ahead, np.diagonal(rates)[11:51], rtol=0.15)


def test_costs_do_not_depend_on_batches_and_padding(params, mesh, monkeypatch):
    monkeypatch.setattr(step_costs, "MOST_IMAGES", 50)
    at_once = measure(MODEL, params, SPLIT, mesh)
    monkeypatch.setattr(step_costs, "TERMS_OF_CALL", 16 * DIMS * V)  # 32 images on two devices
    in_batches = measure(MODEL, params, SPLIT, mesh)
    for name, array in at_once.arrays().items():
        np.testing.assert_allclose(in_batches.arrays()[name], array, rtol=2e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("dims", "codes", "supports", "count"),
    [
        ((8, 8, 1), 17, {"code_probabilities"}, 1024),
        ((28, 28, 1), 256, {"code_probabilities"}, 83),
        ((28, 28, 1), 256, set(), 334),
        ((32, 32, 3), 256, {"code_probabilities"}, 32),
        ((32, 32, 3), 256, set(), 85),
    ],
)
def test_fewer_large_images_are_measured_and_fewer_still_of_many_codes(
    dims, codes, supports, count
):
    model = SimpleNamespace(dims=dims, supports=supports, likelihood=Discretised(codes))
    split = Split("train", np.zeros((2000, 1), np.uint8), None)
    assert step_costs.num_images(model, split) == count


def test_levels_are_every_sixteenth_fine_one(measured):
    assert measured.omegas.shape == (COARSE + 1,)
    assert FINE // COARSE == 16
    np.testing.assert_allclose(measured.omegas, np.linspace(-6.0, 5.0, 65), rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "num_steps", "message"),
    [
        ({"schedule": Polynomial(dims=(DIMS,), per_dimension=True)}, 5, "one omega for all dim"),
        ({"prediction": "next_mean", "num_steps": 5}, 5, "'next_mean' predicts one step of its"),
        ({}, 513, "at most 512 steps, not of 513: choose 'equal_times'"),
    ],
)
def test_models_without_levels_to_choose_are_refused(changes, num_steps, message):
    check_choosable(MODEL, "eval.grid = 'least_bound'", 512)
    with pytest.raises(ValueError, match=r"^eval\.grid = 'least_bound'.*" + message):
        check_choosable(
            dataclasses.replace(MODEL, **changes), "eval.grid = 'least_bound'", num_steps
        )
