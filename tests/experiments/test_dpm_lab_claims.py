"""The laboratory's rows and verdicts: of a small run, as committed, and with changed values."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from experiments.dpm_lab import kernels, measure_kernels, measure_limits, run
from experiments.dpm_lab.claims import CLAIMS, Rows, judge, within
from experiments.dpm_lab.densities import mixture, on_grid
from experiments.dpm_lab.divergences import js
from experiments.dpm_lab.grid import Grid
from experiments.dpm_lab.scale import Scale
from vdm.io import plots

FOLDER = Path(__file__).parent.parent.parent / "experiments" / "dpm_lab"
TINY = Scale(Grid(3.0, 0.15), Grid(3.0, 0.15), pairs=1, noises=1)
SMALL = Scale(Grid(4.0, 0.1), Grid(3.0, 0.1), pairs=2, noises=1)


def committed():
    return json.loads((FOLDER / "results.json").read_text())


def is_claim(row):
    return row["name"].startswith("claim/")


MEASURED = [row for row in committed() if not is_claim(row)]


def verdicts(measured):
    return {row["name"].split("/")[1]: row["verdict"] for row in judge(measured)}


def changed(part, **values):
    """The committed rows, with other values in those of one part."""
    assert any(row["name"].startswith(part) for row in MEASURED)
    return [row | values if row["name"].startswith(part) else row for row in MEASURED]


def test_committed_claims_are_those_of_the_committed_rows():
    kept = ("name", "section", "claim of the source", "what we find", "verdict")
    want = [{key: row[key] for key in kept} for row in committed() if is_claim(row)]
    assert judge(MEASURED) == want
    assert set(verdicts(MEASURED)) == set(CLAIMS)


OTHERWISE = [  # claim, rows, values, the beginning of the verdict; "" is what is committed
    ("recovers", "", {}, "holds"),
    ("recovers", "chain/", {"recovery_error": 1e-7}, "false"),
    ("orders", "", {}, "false"),
    ("orders", "orders/", {"mean p||q": -0.3, "std p||q": 1.5231546}, "holds"),
    ("factor", "", {}, "false"),
    ("not_larger", "", {}, "holds"),
    ("not_larger", "contraction/mixture/0.9", {"excess": 1e-6}, "false"),
    ("strength", "", {}, "holds"),
    ("strength", "contraction/mixture/0.95", {"js_ratio_mean": 1.0}, "false"),
    ("narrow", "", {}, "holds"),
    ("narrow", "kernel/uniform/0.9", {"variance_ratio_smooth": 1.01}, "holds with a condition"),
    ("narrow", "kernel/uniform/0.9", {"variance_ratio_smooth": 1.01, "variance_ratio": 1.01},
     "false"),
    ("extremes", "", {}, "holds with a condition"),
    ("extremes", "contraction/uniform/0.99", {"js_ratio_smooth": 0.95}, "false"),
    ("extremes", "contraction/uniform/0.001", {"second_singular": 0.5}, "false"),
    ("extremes", "contraction/", {"js_ratio_mean": 0.99}, "holds"),
    ("decay", "", {}, "holds with a condition"),
    ("decay", "decay/", {"factors": [0.9, 0.9], "factor_fitted": 0.9}, "holds"),
    ("decay", "decay/uniform", {"factors": [0.7] * 5 + [0.99]}, "false"),
    ("banach", "", {}, "holds with a condition"),
    ("banach", "far/", {"js_ratios_first": [0.9]}, "holds"),
    ("banach", "far/triangular", {"overlap": 0.0}, "false"),
    ("banach", "far/triangular", {"js_ratios_second": [1.0]}, "false"),
    ("fit_alpha", "", {}, "holds"),
    ("fit_alpha", "kernel/uniform/0.9", {"loss_kl": 1.0}, "false"),
    ("fixed_is_q", "", {}, "false"),
    ("fixed_is_q", "fixed/", {"js_to_q": 0.0}, "holds"),
    ("fixed_exists", "", {}, "holds with a condition"),
    ("fixed_exists", "fixed/uniform", {"exists": False}, "false"),
    ("fixed_exists", "fixed/uniform/0.9", {"outside": 0.1}, "false"),
    ("fixed_exists", "fixed/gaussian/0.9", {"variance_exact": None}, "false"),
    ("fixed_exists", "fixed/wide/0.9", {"exists": True}, "false"),
    ("fixed_exists", "fixed/", {"exists": True, "outside": 0.0, "variance_exact": 1.0}, "holds"),
    ("chained", "", {}, "holds with a condition"),
    ("chained", "chained/uniform", {"moved_by_ten": 1e-5}, "false"),
    ("amplified", "", {}, "holds"),
    ("amplified", "deconvolution/0.99", {"gains_deconvolution": [2.0, 4.0, 8.0]}, "false"),
    ("amplified", "deconvolution/0.99", {"gains_kernel_largest": [1.1]}, "false"),
    ("paradox", "", {}, "false"),
    ("paradox", "deconvolution/", {"normal_js_to_q": [1e-3]}, "holds"),
    ("paradox", "deconvolution/0.9", {"normal_error": 1.0}, "not decided"),
]  # fmt: skip


@pytest.mark.parametrize(("claim", "part", "values", "want"), OTHERWISE)
def test_verdicts_follow_from_the_numbers(claim, part, values, want):
    _, _, finding = CLAIMS[claim]
    found = finding(Rows(changed(part, **values) if part else MEASURED))[1]
    assert found.split(":")[0].startswith(want)
    assert want != "holds" or found == "holds"


def test_no_fixed_point_is_named_that_exists():
    _, _, finding = CLAIMS["fixed_exists"]
    assert "those of wide/0.9, wide/0.99 move" in finding(Rows(MEASURED))[0]
    assert "wide" not in finding(Rows(changed("fixed/wide", exists=True)))[0]


def test_errors_are_told_by_their_power_of_ten():
    assert [within(error) for error in (0.0, 2e-16, 3e-12, 2e-3)] == [
        "1e-12", "1e-12", "1e-11", "1e-02",
    ]  # fmt: skip


def test_every_part_has_rows_and_every_claim_its_numbers():
    rows = run.measured(TINY)
    names = [row["name"] for row in rows]
    assert len(set(names)) == len(names)
    assert {name.split("/")[0] for name in names} == {
        "chain", "kernel", "contraction", "far", "decay", "composition", "steps", "spacing",
        "fixed", "chained", "deconvolution", "objective", "orders", "factor",
    }  # fmt: skip
    found = verdicts(rows)
    assert set(found) == set(CLAIMS)
    for name in ("orders", "middle_to_zero", "factor", "fixed_is_q"):  # however coarse the grid
        assert found[name] == "false"


def test_rows_of_the_gaussian_have_their_closed_forms():
    far = next(iter(measure_kernels.far_rows(SMALL)))
    # N(+-c, 0.1^2) becomes N(+-k c, k^2 0.1^2 + v): overlapping for c = 0.5, apart for c = 4.
    assert far["density"] == "gaussian"
    assert far["js_ratios_first"][0] < 0.7 < 0.999999 < far["js_ratios_first"][-1]
    fixed = {row["name"]: row for row in measure_limits.fixed_rows(SMALL)}
    k = math.sqrt(0.9) * 0.25 / 0.325
    np.testing.assert_allclose(fixed["fixed/gaussian/0.9"]["second_eigenvalue"], k, rtol=1e-6)
    np.testing.assert_allclose(fixed["fixed/gaussian/0.9"]["variance"], 0.1646, rtol=1e-3)
    assert fixed["fixed/wide/0.9"]["outside"] > 0.9
    assert fixed["fixed/uniform/0.9"]["outside"] < 1e-9


def test_what_is_left_of_noise_on_the_gaussian_falls_by_alpha_in_the_end():
    row = next(iter(measure_kernels.decay_rows(SMALL)))
    np.testing.assert_allclose(row["factors"][-1], 0.9, atol=0.01)
    logs = np.log(row["js_after"])
    first = math.exp((logs[1] - logs[0]) / (row["kernels"][1] - row["kernels"][0]))
    np.testing.assert_allclose(row["factors"][0], first, rtol=1e-12)
    assert row["js_after"][0] < 0.2


def test_smooth_pairs_of_the_gaussian_have_their_closed_form():
    grid = Grid(7.0, 0.05)

    def js_of(mean, variance):
        pair = [mixture([1.0], [sign * mean], [math.sqrt(variance)]) for sign in (1, -1)]
        return js(grid, *(np.exp(each(grid.points)) for each in pair))

    for alpha in (0.9, 0.99):
        log_q = on_grid("gaussian", grid)
        q_t = np.exp(kernels.diffuse(grid, log_q, alpha))
        ratio = measure_kernels._smooth(grid, kernels.reverse(grid, log_q, alpha), q_t)
        # q_t e^(+-z) is N(+-V, V), and K of it N(+-sqrt(alpha) s^2, s^2).
        variance = alpha * 0.25 + 1 - alpha
        want = js_of(math.sqrt(alpha) * 0.25, 0.25) / js_of(variance, variance)
        np.testing.assert_allclose(ratio, want, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", run.PICTURES)
def test_pictures_are_drawn_from_the_committed_rows(name, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "_DPI", 300)
    run.PICTURES[name](tmp_path / name, TINY, Rows(MEASURED))
    assert (tmp_path / name).stat().st_size > 10_000
