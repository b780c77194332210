"""The experiment's statistics, and its page compared with its results."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.elbo_forms import estimates, four_steps
from vdm.api import build
from vdm.diffusion.consistency import LevelTerms, PathTerms

FOLDER = Path(__file__).parent.parent.parent / "experiments" / "elbo_forms"
ROWS = {row["name"]: row for row in json.loads((FOLDER / "results.json").read_text())}


def test_moments_are_the_mean_and_the_variance_for_a_fixed_example():
    # Two examples far apart: the distance between them must not add to the variance.
    values = np.array([[1.0, 100.0], [3.0, 104.0], [5.0, 108.0]])
    assert estimates.moments(values) == (53.5, (4.0 + 16.0) / 2)
    np.testing.assert_allclose(estimates.moments(values, np.array([0.25, 0.5, 0.25])), (53.5, 5.0))
    np.testing.assert_allclose(estimates.monte_carlo_error(values), np.sqrt(10 / 6))


def test_each_form_has_its_own_prior_and_its_own_levels():
    levels = LevelTerms(*(np.full((2, 3, 1), value) for value in (1.0, 10.0, 100.0)))
    terms = PathTerms(*(np.full((2, 1), value) for value in (0.1, 0.01, 0.001)), levels)
    for form, want in [("denoising", 3.11), ("consistency", 30.101), ("printed", 300.101)]:
        row = estimates.describe(terms, form)
        np.testing.assert_allclose(row["nats"], want)
        np.testing.assert_allclose(row["reconstruction"] + row["prior"] + row["matching"], want)


def test_four_steps_by_quadrature_and_by_monte_carlo():
    terms, weights = four_steps.by_quadrature()
    sampled = four_steps.by_monte_carlo(40_000)
    for form, want, variance in [
        ("denoising", 1.3865617261, 1.94998),
        ("consistency", 1.3865617261, 0.71959),
        ("printed", 2.8179098147, 5.03139),
    ]:
        row = estimates.describe(terms, form, weights)
        np.testing.assert_allclose(row["nats"], want, atol=1e-9)
        np.testing.assert_allclose(row["variance_bound"], variance, atol=1e-4)
        bound = estimates.bound(sampled, form)
        error = estimates.monte_carlo_error(bound)
        np.testing.assert_allclose(error, np.sqrt(variance / 40_000), rtol=0.1)
        assert abs(bound.mean() - want) < 4 * error


@pytest.mark.slow
def test_examples_are_taken_once_each_with_noise_of_their_own(make_tiny_config):
    # 13 examples on 8 devices, so three places are padding.
    model = build(make_tiny_config())
    split = model.run.source.load("test")
    few = dataclasses.replace(split, examples=split.examples[[0] * 13], labels=None)
    terms, one_level = estimates.on_examples(model, few, num_steps=3, paths=2, levels=4)
    assert terms.levels.denoising.shape == (2, 3, 13)
    assert one_level.consistency.shape == (4, 13)
    np.testing.assert_allclose(terms.prior_matching, terms.prior_matching[0, 0], rtol=1e-6)
    for leaf in jax.tree.leaves((terms.levels, terms.reconstruction, one_level)):
        assert len(np.unique(leaf)) == leaf.size  # one image, different noise


def test_results_show_what_the_page_claims():
    differences = [
        row for name, row in ROWS.items() if name.endswith("consistency_minus_denoising")
    ]
    assert differences
    for row in differences:
        assert abs(row["nats"]) < 3 * row["stderr_nats"], row["name"]
    for name, row in ROWS.items():
        if row.get("form") == "printed":
            truth = ROWS[name.replace("printed", "denoising")]
            assert row["nats"] > truth["nats"] + 10 * row["stderr_nats"]


def test_page_holds_the_tables_of_its_results():
    page = (FOLDER / "README.md").read_text()
    for row in ROWS.values():
        assert f"| {row['name']} | {row['nats']:.4g} | {row['stderr_nats']:.4g} | " in page
        assert (
            f"| {row['name']} | "
            + (
                f"{row['variance_path']:.4g} | {row['variance_one_level']:.4g} | "
                if "variance_path" in row
                else " |  | "
            )
            + f"{row['variance_bound']:.4g} |"
            in page
        )
