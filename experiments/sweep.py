"""Runs the trainings of an experiment: a list of jobs that resumes, skips jobs that are done, and
can be divided among processes.

python -m experiments.NAME.run                    # one job after the other, then the table
python -m experiments.NAME.run --list             # the jobs and the state of each
python -m experiments.NAME.run --share=0/8        # jobs 0, 8, 16, ...; 1/8 to 7/8 are the others
python -m experiments.NAME.run --only=T10-seed0   # one job by name, or several with commas

Shares may run at the same time: on the devices of one machine (CUDA_VISIBLE_DEVICES=0 and so on),
or as an array job (--share=$SLURM_ARRAY_TASK_ID/8) on machines that see the same --outdir. The
process that finds all jobs done also does what follows the trainings, such as sampling, and writes
results.json and the pictures. So does any later call.
"""

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from experiments.results import Row, config_hash, make_parser, parsed, settings_hash
from vdm.compare import Result, compare
from vdm.config.compatibility import differing_fields
from vdm.evaluation.statistics import mean_error, standard_error
from vdm.io.atomic import read_json, write_json
from vdm.io.environment import machine
from vdm.runs.evaluate import evaluate_run
from vdm.runs.run import Run, open_run
from vdm.runs.train import train
from vdm.training.loop import Interrupted
from vdm.training.metrics import NonFiniteError

CONFIGS = Path(__file__).parent.parent / "configs"
REPORTS = ("eval.json", "eval_examples.npz")


class Job(NamedTuple):
    """One training in outdir/runs/name. It is evaluated as its config says, and once more for each
    number of steps in evaluated_with (0: continuous time)."""

    name: str
    config: ConfigDict
    evaluated_with: tuple[int, ...] = ()


def seeded(
    name: str, config: ConfigDict, seeds: Sequence[int], **rest: tuple[int, ...]
) -> list[Job]:
    """Makes a job for each seed. All are evaluated on the same images, each with its own noise."""
    jobs = []
    for seed in seeds:
        own = ConfigDict(config.to_dict())
        own.seed = own.eval.seed = own.sample.seed = seed
        jobs.append(Job(f"{name}-seed{seed}", own, **rest))
    return jobs


def parse_flags(script: str) -> argparse.Namespace:
    """Reads the flags: --scale and --outdir as in every experiment, and --list, --share, --only."""
    parser = make_parser(script)
    parser.add_argument("--list", action="store_true", help="show the jobs and the state of each")
    parser.add_argument(
        "--share", type=_share, default=(0, 1), metavar="I/N", help="run jobs I, I + N, I + 2N, ..."
    )
    parser.add_argument("--only", default="", metavar="JOB[,JOB]", help="run these jobs, by name")
    return parsed(parser, script)


def _share(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 0 to N - 1")
    return int(index), int(count)


def finish(jobs: Sequence[Job], flags: argparse.Namespace) -> bool:
    """Trains and evaluates the unfinished jobs of this process, and returns whether all jobs of the
    list are done, so that the table can be written.

    Raises SystemExit for an unknown job, for a folder with a run of another config, and for a job
    that fails or is stopped by a signal.
    """
    assert len({job.name for job in jobs}) == len(jobs)
    index, count = flags.share
    chosen = list(jobs)[index::count]
    if flags.only:
        by_name = {job.name: job for job in jobs}
        unknown = [name for name in flags.only.split(",") if name not in by_name]
        if unknown:
            sys.exit(f"error: --only={unknown[0]}: no such job; --list shows the jobs")
        if count > 1:
            sys.exit("error: --only and --share both select jobs: give only one of them")
        chosen = [by_name[name] for name in flags.only.split(",")]
    try:
        if flags.list:
            for number, job in enumerate(jobs):
                print(f"{number:3d}  {job.name}: {state(job, flags.outdir)}")
            return False
        for job in chosen:
            if not is_done(job, flags.outdir):
                print(f"{job.name}:", flush=True)
                _do(job, flags.outdir)
        left = [job.name for job in jobs if not is_done(job, flags.outdir)]
    except Interrupted as stop:
        print(stop)
        sys.exit(128 + stop.signum)
    except (ValueError, OSError, NonFiniteError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    if left:
        print(
            f"{len(jobs) - len(left)} of {len(jobs)} jobs are done; the table waits for {left[0]}"
        )
    return not left


def kept(
    outdir: Path, name: str, settings: Row, identified: Row, measure: Callable[[], list[Row]]
) -> list[Row]:
    """Returns the rows of outdir/runs/rows/NAME.json if they were measured with these settings;
    otherwise measures them, adds `identified` and the machine to each, and writes that file. An
    interrupted experiment therefore resumes, and its rows may come from several commits."""
    path, wanted = outdir / "runs" / "rows" / f"{name}.json", settings_hash(settings)
    identified = {"machine": machine()} | identified
    found: Row = read_json(path) if path.is_file() else {"settings": ""}
    if found["settings"] != wanted:
        found = {"settings": wanted, "rows": [identified | row for row in measure()]}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, found)
    return found["rows"]


def is_done(job: Job, outdir: Path) -> bool:
    """Whether the job is trained to its last step and has all its evaluations."""
    return state(job, outdir) == "done"


def state(job: Job, outdir: Path) -> str:
    """The state of a job: "done", or how far it is. Raises ValueError if its folder has a run of
    another config, or one with more steps."""
    workdir, steps = outdir / "runs" / job.name, job.config.train.num_steps
    saved = [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]
    reached = max(saved, default=0)
    if saved and (workdir / "config.json").is_file():
        differing = differing_fields(job.config.to_dict(), read_json(workdir / "config.json"))
        if reached > steps:
            differing.append(f"train.num_steps: here {steps}, there {reached}")
        if differing:
            raise ValueError(
                f"{workdir} belongs to another config ({'; '.join(differing)}): choose another "
                "--outdir, or remove that folder"
            )
    places = _places(job, workdir)
    evaluated = sum(_is_of(place, job, num_steps) for place, num_steps in places)
    sampled = workdir / "samples.json"  # Training writes this file last.
    if evaluated == len(places) and sampled.is_file() and read_json(sampled)["step"] == steps:
        return "done"
    return f"step {reached} of {steps}, {evaluated} of {len(places)} evaluations"


def _places(job: Job, workdir: Path) -> list[tuple[Path, int]]:
    """The folders of the job's evaluations and the number of steps of each: the evaluation that its
    config asks for, which must end up in the workdir itself, and the others."""
    own = job.config.eval.num_steps
    if not job.evaluated_with:
        return [(workdir, own)]
    kept = [(workdir / "evaluations" / f"T{T}", T) for T in job.evaluated_with]
    return [(workdir / "evaluations" / "training", own), *kept, (workdir, own)]


def _do(job: Job, outdir: Path) -> None:
    workdir = outdir / "runs" / job.name
    train(open_run(job.config, workdir))
    places = _places(job, workdir)
    for place, num_steps in places:
        if _is_of(place, job, num_steps):
            continue
        # If this loop was interrupted before, the workdir may hold one of the other evaluations.
        source = next((p for p in (workdir, *dict(places)) if _is_of(p, job, num_steps)), None)
        if source is None:
            config = ConfigDict(job.config.to_dict())
            config.eval.num_steps = num_steps
            evaluate_run(open_run(config, workdir))
            source = workdir
        if source != place:
            _copy_reports(source, place)


def _is_of(place: Path, job: Job, num_steps: int) -> bool:
    """Whether `place` has an evaluation of the finished training as the config asks for, with that
    number of steps. Other evaluations in the workdir, such as those of other bounds that an
    experiment makes there, do not count."""
    if not (place / "eval.json").is_file():
        return False
    report, settings = read_json(place / "eval.json"), job.config.eval
    keys = ("step", "bound", "draws_per_example", "eval_seed", "params")
    requested = [job.config.train.num_steps, settings.bound, settings.draws, settings.seed,
                 settings.params]  # fmt: skip
    if [report.get(key) for key in keys] != requested:
        return False
    # The report of a model without a schedule has num_levels, and that model has only one bound.
    return "num_levels" in report or report.get("num_steps") == num_steps


def _copy_reports(source: Path, target: Path) -> None:
    """Copies both report files, eval.json last: if it exists, both do."""
    target.mkdir(parents=True, exist_ok=True)
    for name in reversed(REPORTS):
        shutil.copy(source / name, target / f"{name}.new")
    for name in reversed(REPORTS):
        (target / f"{name}.new").replace(target / name)


def open_runs(jobs: Sequence[Job], outdir: Path) -> list[Run]:
    """Opens the finished run of each job."""
    return [open_run(job.config, outdir / "runs" / job.name) for job in jobs]


def results(jobs: Sequence[Job], outdir: Path, num_steps: int | None = None) -> list[Result]:
    """The result of each job: of its own evaluation, or of that with num_steps."""
    workdirs = [outdir / "runs" / job.name for job in jobs]
    if num_steps is None:
        return [Result(_places(job, w)[0][0]) for job, w in zip(jobs, workdirs, strict=True)]
    return [Result(workdir / "evaluations" / f"T{num_steps}") for workdir in workdirs]


def mean_row(name: str, jobs: Sequence[Job], evaluated: Sequence[Result], outdir: Path) -> Row:
    """The row of jobs that differ only in their seed, with means over the seeds.

    stderr is the Monte-Carlo error of the mean, with stderr_degrees degrees of freedom;
    stderr_images is the error over images and stderr_seeds that over seeds. variance is that of a
    single draw of the denoising term, (bits/dim)^2. bpd_of_draws has, for each seed, the mean over
    images of each draw. The commit is that of the code that trained the first job; seconds are the
    sum over all trainings and evaluations.
    """
    reports = [result.report for result in evaluated]
    noise = mean_error([result.noise for result in evaluated])
    bpds = [report["bpd"] for report in reports]
    means = {
        key: float(np.mean([report[key] for report in reports]))
        for key in ("bpd", "stderr_images", "bpd_reconstruction", "bpd_prior", "bpd_denoising",
                    "omega_0", "omega_1")
    }  # fmt: skip
    trained = outdir / "runs" / jobs[0].name
    return means | {
        "name": name,
        "config_hash": config_hash(jobs[0].config),
        "commit": read_json(trained / "environment.json")["commit"],
        # The noise cannot be estimated from one draw of each image.
        "stderr": noise.stderr if noise.degrees else None,
        "stderr_degrees": noise.degrees or None,
        "stderr_seeds": standard_error(np.array(bpds)) if len(bpds) > 1 else None,
        "bpd_of_seeds": bpds,
        # tests/test_rerun.py needs these for the paired error of a repeated training.
        "bpd_of_draws": [result.bpd.mean(axis=1).round(6).tolist() for result in evaluated],
        "variance": float(np.mean([report["denoising_variance"] for report in reports])),
        "variance_of_seeds": [report["denoising_variance"] for report in reports],
        "seeds": [job.config.seed for job in jobs],
        "jobs": [job.name for job in jobs],
        "train_secs": sum(report["train_secs"] for report in reports),
        "seconds": sum(report["train_secs"] + report["eval_secs"] for report in reports),
        **{key: reports[0][key] for key in (
            "bound", "num_steps", "num_examples", "draws_per_example", "params", "step",
            "data_fingerprint")},
    }  # fmt: skip


def paired(evaluated: Sequence[Result], reference: Sequence[Result]) -> Row:
    """The difference from a reference with the same seeds and images, in bits/dim, with two errors:
    over the seeds, and over the images (of the mean over seeds). Raises ValueError for other data
    or another kind of bound."""
    pairs = list(zip(evaluated, reference, strict=True))
    for ours, theirs in pairs:
        compare([theirs, ours])  # Raises an error if the two cannot be compared.
    per_seed = np.array([ours.bpd.mean() - theirs.bpd.mean() for ours, theirs in pairs])
    per_image = np.mean([o.bpd.mean(axis=0) - t.bpd.mean(axis=0) for o, t in pairs], axis=0)
    return {
        "difference": float(per_seed.mean()),
        "difference_stderr_seeds": standard_error(per_seed) if len(pairs) > 1 else None,
        "difference_stderr_images": standard_error(per_image),
    }
