"""Computes one row of one results.json again, drawn at random, to find stale numbers.

VDM_RERUN=snr_ablation/fixed-Fourier-bound-seed1 trains that job instead of a random one.

Rows marked "stale" wait until their experiment is run again, and are not drawn; rows with a short
training are drawn more often. The re-run uses the seed and the images of the row, and the same
noise in its evaluation. On a machine of the row's class it may differ from the row by LIMIT
standard errors and by ROUNDING:

- If the row has `bpd_of_draws`, the error is the Monte-Carlo error of the paired difference.
- A row without them was made by code that drew other dropout masks from the same seed, so that
  neither the paired error nor the same training is available. Its Monte-Carlo error and that of the
  re-run are treated as independent, and the effect of the masks as the spread over seeds, of which
  it was 0.1, 0.2, 0.4 and 1.5 in four trainings. This difference is random, and a limit of two
  errors would fail one re-run in twenty. FAR errors fail one in a thousand and allow 2.7 to 6.4% of
  the bits/dim.

On another class of machine the re-run is treated as a training with another seed, with FAR too.
"""

import functools
import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vdm.compare import Result
from vdm.evaluation.statistics import stratified_error
from vdm.io.environment import machine

ROOT = Path(__file__).parent.parent
LIMIT = 2.0
"""Standard errors by which a re-run may differ from its row."""
FAR = 3.3
"""The same if the re-run is another training; 0.1% of normal variables lie further out."""
ROUNDING = 0.001
"""Bits/dim between two trainings with one seed that differ in rounding. Measured: 7e-9 after 200
steps on one device and on two, 0.0004 after the 2,000 of configs/digits.py on two kinds of CPU."""
MOST_SECS = 240
"""Longest training, with its evaluations, that is repeated: seconds on two quiet cores."""


@functools.cache
def read_rows() -> dict[str, list[dict]]:
    """Rows of each experiment that are means over trainings, take minutes and are not stale."""
    found = {}
    for path in sorted((ROOT / "experiments").glob("*/results.json")):
        rows = [row for row in json.loads(path.read_text()) if "jobs" in row]
        short = [row for row in rows if row["seconds"] < MOST_SECS * len(row["jobs"])]
        kept = [row for row in short if "stale" not in row]
        if kept:
            found[path.parent.name] = kept
    return found


def spread(row: dict, rows: list[dict]) -> float:
    """Standard deviation of bits/dim over seeds: the row's own, which three seeds estimate badly,
    or the median row's, whichever is larger."""
    deviations = [np.std(r["bpd_of_seeds"], ddof=1) for r in (row, *rows)]
    return float(max(deviations[0], np.median(deviations[1:])))


def standard_error(
    row: dict, rows: list[dict], job: str, draws: np.ndarray, strata: int, here: str
) -> float:
    """Standard error of the difference between a re-run and the row's own training, bits/dim.

    draws: [draws], the mean over images of each draw of the re-run."""
    if row["machine"] != here:
        return math.sqrt(2) * spread(row, rows)
    if "bpd_of_draws" in row:
        committed = np.array(row["bpd_of_draws"][row["jobs"].index(job)])
        return stratified_error(draws - committed, strata)
    # The row's error is that of a mean over as many trainings.
    own, theirs = stratified_error(draws, strata), row["stderr"] * math.sqrt(len(row["jobs"]))
    return math.hypot(own, theirs, spread(row, rows))


def largest_difference(
    row: dict, rows: list[dict], job: str, draws: np.ndarray, strata: int, here: str
) -> float:
    """Bits/dim by which the re-run may differ from the row."""
    same = row["machine"] == here and "bpd_of_draws" in row
    return ROUNDING + (LIMIT if same else FAR) * standard_error(row, rows, job, draws, strata, here)


def committed_bpd(row: dict, job: str) -> float:
    """The bits/dim of that training."""
    return row["bpd_of_seeds"][row["jobs"].index(job)]


def as_drawn(row: dict, job: str) -> np.ndarray:
    """The draws of the row's training, or twenty invented ones with its mean and error."""
    if "bpd_of_draws" in row:
        return np.array(row["bpd_of_draws"][row["jobs"].index(job)])
    noise = np.random.default_rng(0).standard_normal(20)
    noise = (noise - noise.mean()) / stratified_error(noise, 10)
    return committed_bpd(row, job) + noise * row["stderr"] * math.sqrt(len(row["jobs"]))


def test_rows_are_drawn_by_what_they_say_of_themselves():
    rows = read_rows()
    assert {"parameterisations", "snr_ablation"} <= set(rows)
    assert not any("stale" in row for kept in rows.values() for row in kept)
    for path in (ROOT / "experiments").glob("*/results.json"):
        stale = any("stale" in row for row in json.loads(path.read_text()))
        assert stale == ("stale" in path.with_name("README.md").read_text()), path


def test_a_stale_row_is_noticed():
    for experiment, rows in read_rows().items():
        for row in rows:
            job = row["jobs"][0]
            draws = as_drawn(row, job)
            limit = largest_difference(row, rows, job, draws, 10, row["machine"])
            share = 0.002 if "bpd_of_draws" in row else 0.065
            assert limit < share * committed_bpd(row, job), (experiment, row["name"])
            elsewhere = largest_difference(row, rows, job, draws, 10, "1 x NVIDIA H200")
            assert elsewhere < 0.09 * committed_bpd(row, job), (experiment, row["name"])


def test_a_row_that_holds_its_draws_is_compared_draw_by_draw():
    (row, *_), *_ = read_rows().values()
    job = row["jobs"][0]
    before, rng = as_drawn(row, job), np.random.default_rng(1)
    row = row | {"bpd_of_draws": [before.tolist()] * len(row["jobs"])}
    own = 1e-4 * rng.standard_normal(20)
    paired = standard_error(row, [row], job, before + own, 10, row["machine"])
    assert paired == pytest.approx(stratified_error(own, 10))
    alone = {key: value for key, value in row.items() if key != "bpd_of_draws"}
    assert standard_error(alone, [row], job, before + own, 10, row["machine"]) > 50 * paired
    limit = largest_difference(row, [row], job, before + own, 10, row["machine"])
    assert limit < 1.1 * ROUNDING


@pytest.mark.slow
def test_a_row_drawn_at_random_comes_out_again(tmp_path):
    chosen = os.environ.get("VDM_RERUN")
    if chosen is None:
        # In inverse proportion to the seconds: every row can be drawn, and the mean time is short.
        rows = [(name, row) for name, of in read_rows().items() for row in of]
        shares = [len(row["jobs"]) / row["seconds"] for _, row in rows]
        ((experiment, row),) = random.SystemRandom().choices(rows, shares)
        chosen = f"{experiment}/{random.SystemRandom().choice(row['jobs'])}"
    experiment, _, job = chosen.partition("/")
    rows = read_rows().get(experiment, [])
    found = [row for row in rows if job in row["jobs"]]
    assert found, f"VDM_RERUN={chosen} is no job of a row that is short and not stale"
    # As users run it: the XLA flags of conftest.py turn optimisations off.
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    result = subprocess.run(
        [sys.executable, "-m", f"experiments.{experiment}.run", f"--only={job}",
         f"--outdir={tmp_path}"],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, f"VDM_RERUN={chosen}: {result.stdout}{result.stderr}"
    workdir = tmp_path / "runs" / job
    for row in found:
        kept = workdir / "evaluations" / f"T{row.get('num_steps')}"
        again = Result(kept if kept.is_dir() else workdir)
        report = again.report
        assert report["data_fingerprint"] == row["data_fingerprint"]
        for key in ("bound", "step", "draws_per_example", "params"):
            assert report[key] == row[key], key
        draws = again.bpd.mean(axis=1)
        limit = largest_difference(row, rows, job, draws, report["strata"], machine())
        difference = report["bpd"] - committed_bpd(row, job)
        print(f"{chosen}, {row['name']}: {difference:+.5f} bits/dim, at most {limit:.5f}")
        assert abs(difference) < limit, (
            f"VDM_RERUN={chosen}: {row['name']} is {report['bpd']:.4f} now, {difference:+.4f}"
        )
