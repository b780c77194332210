"""Sweeps run every job once, divided into any number of shares, resume what was interrupted, and
summarise the seeds of a job in a row."""

import argparse
import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest

from experiments import sweep
from experiments.results import seeds_half_width
from experiments.sweep import Job, finish, mean_row, paired, results, seeded
from vdm.evaluation.statistics import Error
from vdm.runs import train
from vdm.training import loop
from vdm.training.metrics import NonFiniteError

FLAGS = {"list": False, "share": (0, 1), "only": ""}


def flags(outdir: Path, **changes) -> argparse.Namespace:
    return argparse.Namespace(**FLAGS | {"outdir": outdir} | changes)


@pytest.fixture(scope="module")
def tiny(make_tiny_config):
    def make(name="a", seeds=(0, 1), evaluated_with=(2, 5), **changes) -> list[Job]:
        few = {"train__num_steps": 4, "train__save_every": 4, "train__eval_every": 0}
        config = make_tiny_config(**few | changes)
        return seeded(name, config, seeds, evaluated_with=evaluated_with)

    return make


@pytest.fixture(scope="module")
def swept(tiny, tmp_path_factory):
    """The folder and the jobs of a finished sweep of two jobs in two shares."""
    outdir, jobs = tmp_path_factory.mktemp("sweep"), tiny()
    assert not finish(jobs, flags(outdir, share=(1, 2)))
    assert sorted(p.name for p in (outdir / "runs").iterdir()) == ["a-seed1"]
    assert finish(jobs, flags(outdir, share=(0, 2)))
    return outdir, jobs


def test_what_is_done_is_not_done_again(swept, monkeypatch, capsys):
    outdir, jobs = swept
    monkeypatch.setattr(sweep, "_do", lambda *_: pytest.fail("trained again"))
    assert finish(jobs, flags(outdir))
    assert not finish(jobs, flags(outdir, list=True))
    assert capsys.readouterr().out.splitlines() == ["  0  a-seed0: done", "  1  a-seed1: done"]


def test_evaluations_with_other_steps_are_kept_beside_that_of_the_training(swept):
    outdir, jobs = swept
    assert [r.report["num_steps"] for r in results(jobs, outdir)] == [0, 0]
    for num_steps in (2, 5):
        reports = [r.report for r in results(jobs, outdir, num_steps)]
        assert [r["num_steps"] for r in reports] == [num_steps] * 2
        assert [r["eval_seed"] for r in reports] == [0, 1]
    for job in jobs:  # what a user finds in the workdir is the training's own
        workdir = outdir / "runs" / job.name
        assert json.loads((workdir / "eval.json").read_text())["num_steps"] == 0


def test_a_kill_between_two_evaluations_costs_that_evaluation_alone(swept, monkeypatch):
    outdir, jobs = swept
    workdir = outdir / "runs" / jobs[0].name
    before = results(jobs[:1], outdir, 5)[0].report["bpd"], results(jobs[:1], outdir)[0].report
    (workdir / "evaluations" / "T5" / "eval.json").unlink()
    sweep._copy_reports(workdir / "evaluations" / "T2", workdir)  # as the kill left it
    assert sweep.state(jobs[0], outdir) == "step 4 of 4, 2 of 4 evaluations"
    monkeypatch.setattr(train, "fit", lambda *_: pytest.fail("trained again"))
    assert finish(jobs, flags(outdir))
    after = results(jobs[:1], outdir, 5)[0].report["bpd"], results(jobs[:1], outdir)[0].report
    assert after == before


def test_other_draws_cost_an_evaluation_and_no_training(tiny, tmp_path, monkeypatch):
    (job,) = tiny("d", seeds=(0,), evaluated_with=())
    assert finish([job], flags(tmp_path))
    (more,) = tiny("d", seeds=(0,), evaluated_with=(), eval__draws=4)
    assert sweep.state(more, tmp_path) == "step 4 of 4, 0 of 1 evaluations"
    monkeypatch.setattr(train, "fit", lambda *_: pytest.fail("trained again"))
    assert finish([more], flags(tmp_path))
    assert results([more], tmp_path)[0].report["draws_per_example"] == 4


def test_rows_are_measured_once_for_the_same_settings(tmp_path):
    calls = []

    def measure():
        calls.append(1)
        return [{"bpd": float(len(calls))}]

    def rows(draws, commit):
        return sweep.kept(tmp_path, "digits T=5", {"draws": draws}, {"commit": commit}, measure)

    here = {"machine": sweep.machine()}
    assert rows(50, "first") == rows(50, "second") == [here | {"commit": "first", "bpd": 1.0}]
    assert rows(100, "second") == [here | {"commit": "second", "bpd": 2.0}]
    assert len(calls) == 2


def test_a_longer_training_is_not_done(swept, tiny):
    outdir, _ = swept
    assert sweep.state(tiny(train__num_steps=6)[0], outdir) == "step 4 of 6, 0 of 4 evaluations"


def test_only_trains_the_named_jobs(tiny, tmp_path, capsys):
    jobs = tiny("b", evaluated_with=())
    with pytest.raises(SystemExit, match="--only=c-seed0: no such job; --list shows"):
        finish(jobs, flags(tmp_path, only="b-seed1,c-seed0"))
    assert not finish(jobs, flags(tmp_path, only="b-seed1"))
    assert "1 of 2 jobs are done; the table waits for b-seed0" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="give only one of them"):
        finish(jobs, flags(tmp_path, only="b-seed1", share=(0, 2)))


def test_a_folder_of_another_config_is_refused_though_its_run_is_finished(swept, tiny, tmp_path):
    outdir, _ = swept
    for other, field in [
        (tiny(schedule__name="cosine"), "schedule.name: here 'cosine', there 'monotone'"),
        (tiny(train__num_steps=2), "train.num_steps: here 2, there 4"),
    ]:
        with pytest.raises(SystemExit, match=r"a-seed0 belongs to another config") as error:
            finish(other, flags(outdir))
        assert field in str(error.value)


def test_each_scale_has_a_folder_of_its_own(monkeypatch):
    for arguments, folder in [([], "exp"), (["--scale=full"], "exp/full"),
                              (["--scale=full", "--outdir=o"], "o")]:  # fmt: skip
        monkeypatch.setattr("sys.argv", ["run", *arguments])
        assert sweep.parse_flags("exp/run.py").outdir == Path(folder)


@pytest.mark.parametrize(
    ("error", "status"),
    [(loop.Interrupted("stopped at step 3", 15), 143),
     (NonFiniteError("train/bpd is nan"), "error: train/bpd is nan")],
)  # fmt: skip
def test_a_stop_and_a_failure_are_one_line(error, status, tiny, tmp_path, monkeypatch):
    def fails(*_):
        raise error

    monkeypatch.setattr(sweep, "train", fails)
    with pytest.raises(SystemExit) as stopped:
        finish(tiny("e"), flags(tmp_path))
    assert stopped.value.code == status


@pytest.mark.parametrize("text", ["2/2", "-1/2", "1", "a/b", "0/0"])
def test_a_share_is_an_index_below_a_count(text, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["run", f"--share={text}"])
    with pytest.raises(SystemExit):
        sweep.parse_flags(__file__)
    assert "is not I/N with I from 0 to N - 1" in capsys.readouterr().err


class OneDraw:
    """A result with one draw for each image, whose noise is unknown."""

    def __init__(self, result):
        self.report, self.noise = result.report, Error(math.nan, 0)
        self.bpd = result.bpd[:1]


def test_rows_are_means_over_the_seeds_and_paired_differences(swept):
    outdir, jobs = swept
    found, reference = results(jobs, outdir, 5), results(jobs, outdir, 2)
    row = mean_row("five", jobs, found, outdir)
    assert [len(draws) for draws in row["bpd_of_draws"]] == [2, 2]
    np.testing.assert_allclose(np.mean(row["bpd_of_draws"], axis=1), row["bpd_of_seeds"], atol=1e-6)
    bpds = [r.report["bpd"] for r in found]
    assert row["bpd"] == pytest.approx(np.mean(bpds))
    assert row["stderr_seeds"] == pytest.approx(abs(bpds[0] - bpds[1]) / 2)
    noise = [r.report["stderr_monte_carlo"] for r in found]
    assert row["stderr"] == pytest.approx(np.sqrt(noise[0] ** 2 + noise[1] ** 2) / 2)
    assert row["stderr_degrees"] == 2  # two seeds of two draws
    assert seeds_half_width(row) == pytest.approx(12.706205 * row["stderr_seeds"])
    assert np.isnan(seeds_half_width({"bpd_of_seeds": [1.7]}))
    alone = mean_row("one draw", jobs, [OneDraw(r) for r in found], outdir)
    assert (alone["stderr"], alone["stderr_degrees"]) == (None, None)
    assert (row["seeds"], row["jobs"]) == ([0, 1], ["a-seed0", "a-seed1"])
    both = paired(found, reference)
    of_seeds = [a.report["bpd"] - b.report["bpd"] for a, b in zip(found, reference, strict=True)]
    assert both["difference"] == pytest.approx(np.mean(of_seeds))
    assert both["difference_stderr_seeds"] == pytest.approx(abs(of_seeds[0] - of_seeds[1]) / 2)
    assert paired(found[:1], reference[:1])["difference_stderr_seeds"] is None
    found[0].report = found[0].report | {"data_fingerprint": "sha256:other"}
    with pytest.raises(ValueError, match="differ in data_fingerprint"):
        paired(found[:1], reference[:1])


SWEEPS = ("data_sets", "depth", "digits", "fourier", "parameterisations", "schedule_swap",
          "snr_ablation")  # fmt: skip


@pytest.mark.parametrize("scale", ["small", "full"])
@pytest.mark.parametrize("experiment", SWEEPS)
def test_the_jobs_of_a_sweep_are_configs_with_names_of_their_own(experiment, scale):
    from vdm.config.options import read

    made = importlib.import_module(f"experiments.{experiment}.run").make_jobs(scale)
    jobs = made if isinstance(made, list) else [job for of_row in made.values() for job in of_row]
    assert len({job.name for job in jobs}) == len(jobs) > 1
    assert len({str(job.config) for job in jobs}) == len(jobs)
    for job in jobs:
        assert read(job.config).seed == job.config.eval.seed
        assert "/" not in job.name
        assert " " not in job.name
