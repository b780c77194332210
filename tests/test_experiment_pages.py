"""Pages of experiments hold the tables of their committed results, and every row can be traced."""

import json
import re

import pytest

from experiments.kernels import run as kernels
from experiments.results import format_table
from tests.documents import DIGITS, ROOT, ROWS, rows_of
from vdm.evaluation.features import read_mlp_features
from vdm.evaluation.statistics import half_width, num_strata

RESULTS = sorted((ROOT / "experiments").glob("*/results.json"))


def test_experiment_page_holds_the_table_of_its_results():
    page = (DIGITS / "README.md").read_text()
    columns = ("name", "bpd", "stderr", "stderr_images", "bound", "seconds")
    assert format_table(list(ROWS.values()), columns) in page


@pytest.mark.parametrize("results", RESULTS, ids=lambda path: path.parent.name)
def test_rows_can_be_traced(results):
    rows = json.loads(results.read_text())
    assert len({(row["name"], row.get("variant")) for row in rows}) == len(rows)
    fingerprints = {}  # where there are several data sets: for each, and how many images of it
    for row in rows:
        several = results.parent.name in ("compression", "data_sets", "fourier", "kernels")
        which = (re.split(r"\W", row["name"])[0], row.get("images")) if several else ()
        if row.get("data_fingerprint"):
            fingerprints.setdefault(which, set()).add(row["data_fingerprint"])
    assert all(len(found) == 1 for found in fingerprints.values())
    for row in rows:
        assert re.fullmatch(r"[0-9a-f]{12}", row["config_hash"])
        assert re.fullmatch(r"[0-9a-f]{12}", row["commit"]), "made from uncommitted code"
        assert row["command"].startswith(f"python -m experiments.{results.parent.name}.run")
        assert row["seconds"] >= 0


@pytest.mark.parametrize("results", RESULTS, ids=lambda path: path.parent.name)
def test_every_experiment_has_a_page_with_its_command_and_pictures(results):
    page = (results.parent / "README.md").read_text()
    assert "**Question.**" in page
    assert "**Answer.**" in page
    assert f"python -m experiments.{results.parent.name}.run" in page
    for picture in results.parent.glob("*.png"):
        assert f"]({picture.name})" in page
    assert not re.search(r"PLACEHOLDER|TO-COME|TABLE|ANSWER|JUDGE|ACCURACY|REALTRAIN", page)


@pytest.mark.parametrize(
    ("experiment", "columns"),
    [
        ("depth", ("name", "bpd", "stderr", "stderr_images", "difference",
                   "difference_stderr_seeds")),
        ("bounds", ("name", "bpd", "stderr", "stderr_images", "stderr_hutchinson", "difference",
                    "difference_stderr_images", "stderr_degrees")),
        ("snr_oracle", ("name", "variance", "variance_stratified", "total_variation",
                        "worst_variance_to_optimal", "worst_total_variation")),
        ("schedule_swap", ("name", "bpd", "stderr", "stderr_images", "variance",
                           "difference_to_variance", "difference_stderr",
                           "largest_difference_in_stderrs")),
        ("snr_ablation", ("name", "bpd", "stderr", "variance", "difference",
                          "difference_stderr_seeds", "omega_0", "omega_1")),
        ("ladder", ("name", "bound", "bpd", "stderr", "stderr_images", "difference",
                    "difference_stderr_seeds", "difference_stderr_images", "parameters",
                    "seconds")),
        ("fashion_mnist", ("name", "bpd", "stderr", "stderr_images", "difference",
                           "difference_stderr_images", "bound", "train_secs", "stderr_degrees")),
        ("data_sets", ("name", "config", "parameters", "step", "bpd", "stderr", "stderr_images",
                       "stderr_seeds", "uniform_bpd", "seconds", "stderr_degrees")),
        ("fourier", ("name", "step", "bpd", "stderr", "stderr_images", "stderr_seeds",
                     "difference", "difference_stderr_seeds", "difference_stderr_images",
                     "seconds", "stderr_degrees")),
        ("schedule_cost", ("name", "step_secs", "time_ratio", "gflops", "flops_ratio")),
    ],
)  # fmt: skip
def test_pages_hold_the_tables_of_their_results(experiment, columns):
    folder = ROOT / "experiments" / experiment
    page = (folder / "README.md").read_text()
    for row in json.loads((folder / "results.json").read_text()):
        if row["name"].startswith("denoising term alone"):
            continue
        line = format_table([row], columns).splitlines()[-1]
        assert line in page


@pytest.mark.parametrize("results", RESULTS, ids=lambda path: path.parent.name)
def test_errors_of_draws_have_the_degrees_of_freedom_of_their_draws(results):
    for row in json.loads(results.read_text()):
        draws = row.get("draws_per_example")
        if draws is None:
            continue
        trainings = 1 if results.parent.name == "compression" else len(row.get("seeds", [0]))
        of_draws = {trainings * (draws - num_strata(draws)), trainings * (draws - 1)}
        of_images = trainings * (draws - 1) * row.get("num_examples", 0)
        assert row["stderr_degrees"] in {*of_draws, of_images}


def test_pages_of_two_draws_say_how_long_an_interval_is():
    for experiment, names in [
        ("data_sets", ("fashion_mnist", "cifar10")), ("fashion_mnist", ("cpu", "peer"))
    ]:  # fmt: skip
        rows = {row["name"]: row for row in rows_of(experiment)}
        page = (ROOT / "experiments" / experiment / "README.md").read_text()
        for name in names:
            width = half_width(rows[name]["stderr"], rows[name]["stderr_degrees"])
            assert f"±{width:.3f}" in page


TABLES_OF_SOME_ROWS = [
    ("parameterisations", ("name", "bpd", "stderr", "stderr_images", "difference",
                           "difference_stderr_seeds", "variance", "frechet_pixels")),
    ("sampler_orders", ("name", "order", "theory", "smallest_error", "weight_error",
                        "weight_stderr")),
    ("dpm_lab", ("section", "claim of the source", "what we find", "verdict")),
    ("dpm_lab", ("name", "second_singular", "second_singular_exact", "js_ratio_local",
                 "js_ratio_mean", "js_ratio_largest", "dobrushin_interval", "js_after_0.20")),
    ("dpm_lab", ("name", "exists", "moved", "closed_form_error", "mean", "variance",
                 "variance_exact", "js_to_q", "second_eigenvalue")),
    ("guidance", ("name", "accuracy", "diversity", "network_evaluations")),
    ("throughput", ("name", "variant", "images_per_sec", "speed_ratio", "step_secs",
                    "compile_secs", "temp_mib", "temp_ratio", "gflops", "peak_share",
                    "input_share")),
    ("guidance", ("name", "bpd", "stderr", "stderr_images", "difference", "difference_stderr",
                  "difference_stderr_images")),
    ("compression", ("name", "net", "bpd", "stderr", "net_stderr", "path", "step_cost", "gross",
                     "initial_bits", "encode_secs", "decode_secs")),
    ("compression", ("name", "bpd_each", "bpd_mosaic")),
    ("compression", ("name", "time_ratio", "coding_secs", "slow_coding_secs")),
]  # fmt: skip


@pytest.mark.parametrize(("experiment", "columns"), TABLES_OF_SOME_ROWS)
def test_pages_hold_the_tables_of_rows_of_several_kinds(experiment, columns):
    folder = ROOT / "experiments" / experiment
    rows = json.loads((folder / "results.json").read_text())
    shown = [row for row in rows if columns[1] in row]
    assert shown
    page = (folder / "README.md").read_text()
    for row in shown:
        assert format_table([row], columns).splitlines()[-1] in page


def test_ladder_page_holds_its_checks_and_all_of_them_hold():
    folder = ROOT / "experiments" / "ladder"
    found = json.loads((folder / "checks.json").read_text())
    assert (
        format_table(found, ("name", "value", "limit", "holds"))
        in (folder / "README.md").read_text()
    )
    assert all(row["holds"] for row in found)


def test_score_based_page_holds_its_tables():
    from experiments.score_based.run import TABLES

    folder = ROOT / "experiments" / "score_based"
    rows = json.loads((folder / "results.json").read_text())
    page = (folder / "README.md").read_text()
    for part, columns in TABLES:
        shown = [row for row in rows if row["name"].startswith(part) and columns[1] in row]
        assert format_table(shown, columns) in page


def test_kernels_page_holds_the_bounds_by_steps_and_the_oracle():
    rows = rows_of("kernels")
    page = (ROOT / "experiments" / "kernels" / "README.md").read_text()
    for data in kernels.SCALES["small"]:
        table = kernels.by_steps(rows, data)
        assert format_table(table, kernels.columns_of(table)) in page
    oracle = [row for row in rows if "excess_nats" in row]
    assert format_table(oracle, kernels.ORACLE) in page


def test_sampler_quality_page_holds_the_means_of_its_rows():
    from experiments.sampler_quality.run import COLUMNS, means

    folder = ROOT / "experiments" / "sampler_quality"
    rows = json.loads((folder / "results.json").read_text())
    page = (folder / "README.md").read_text()
    assert format_table(means(rows), COLUMNS) in page
    assert read_mlp_features(folder / "features.npz").name == rows[0]["features"]


def test_results_page_is_made_of_the_committed_results():
    from experiments.page import PAGE, render

    assert PAGE.read_text() == render()


def test_results_page_says_which_figures_are_not_ours():
    from experiments.contents import SECTIONS
    from experiments.page import section

    for entry in (entry for entries in SECTIONS.values() for entry in entries):
        ours, _, theirs = section(entry).partition("**The paper's** (")
        assert "**Ours**" in ours
        assert "CPU core" in ours
        if entry.paper is None:
            assert not theirs
            continue
        assert "not ours)" in theirs
        for figure in {cell for row in entry.paper.rows for cell in row if "." in cell}:
            assert figure in theirs
