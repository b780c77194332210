"""A table of trainings: a list of jobs that resumes, skips what is done and is shared out by index.

python -m experiments.NAME.run                    # one job after the other, then the table
python -m experiments.NAME.run --list             # the jobs, and where each stands
python -m experiments.NAME.run --share=0/8        # jobs 0, 8, 16, ...; 1/8 to 7/8 are the others
python -m experiments.NAME.run --only=T10-seed0   # one job by name, or several with commas

Shares may run at once: on the devices of one machine (CUDA_VISIBLE_DEVICES=0 and so on), or as an
array job (--share=$SLURM_ARRAY_TASK_ID/8) of machines that see the same --outdir. The one that
finds all jobs done goes on to the table: what comes after the trainings, such as samples, is done
by that one alone. It writes results.json and the pictures, and so does a later call.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from experiments.results import Row, config_hash, make_parser, parsed
from vdm.compare import Result, compare
from vdm.config.compatibility import differing_fields
from vdm.evaluation.statistics import mean_error, standard_error
from vdm.io.atomic import read_json
from vdm.runs.evaluate import evaluate_run
from vdm.runs.run import Run, open_run
from vdm.runs.train import train
from vdm.training.loop import Interrupted
from vdm.training.metrics import NonFiniteError

CONFIGS = Path(__file__).parent.parent / "configs"
REPORTS = ("eval.json", "eval_examples.npz")


class Job(NamedTuple):
    """One training, in outdir/runs/name, its evaluation as the config says, and one more for each
    number of steps in evaluated_with (0: continuous time)."""

    name: str
    config: ConfigDict
    evaluated_with: tuple[int, ...] = ()


def seeded(
    name: str, config: ConfigDict, seeds: Sequence[int], **rest: tuple[int, ...]
) -> list[Job]:
    """A job for each seed, which has the same images and noise of its own in its evaluation."""
    jobs = []
    for seed in seeds:
        own = ConfigDict(config.to_dict())
        own.seed = own.eval.seed = own.sample.seed = seed
        jobs.append(Job(f"{name}-seed{seed}", own, **rest))
    return jobs


def parse_flags(script: str) -> argparse.Namespace:
    """--scale and --outdir, as of every experiment; --list, --share and --only."""
    parser = make_parser(script)
    parser.add_argument("--list", action="store_true", help="the jobs, and where each stands")
    parser.add_argument(
        "--share", type=_share, default=(0, 1), metavar="I/N", help="jobs I, I + N, I + 2N, ..."
    )
    parser.add_argument("--only", default="", metavar="JOB[,JOB]", help="these jobs, by name")
    return parsed(parser, script)


def _share(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is no I/N with I from 0 to N - 1")
    return int(index), int(count)


def finish(jobs: Sequence[Job], flags: argparse.Namespace) -> bool:
    """Trains and evaluates this process's jobs that are not done; whether all of the list are, so
    that its table can be written. SystemExit for a job that is not there, whose folder has another
    config's run, that is stopped by a signal, or that fails."""
    assert len({job.name for job in jobs}) == len(jobs)
    index, count = flags.share
    chosen = list(jobs)[index::count]
    if flags.only:
        by_name = {job.name: job for job in jobs}
        unknown = [name for name in flags.only.split(",") if name not in by_name]
        if unknown:
            sys.exit(f"error: --only={unknown[0]}: --list shows the jobs there are")
        if count > 1:
            sys.exit("error: --only names the jobs, and --share counts them: give one of the two")
        chosen = [by_name[name] for name in flags.only.split(",")]
    try:
        if flags.list:
            for place, job in enumerate(jobs):
                print(f"{place:3d}  {job.name}: {state(job, flags.outdir)}")
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


def is_done(job: Job, outdir: Path) -> bool:
    """Whether it is trained to its last step and has every evaluation."""
    return state(job, outdir) == "done"


def state(job: Job, outdir: Path) -> str:
    """Of a job: "done", or how far it is. ValueError where its folder has another config's run, or
    one that went on for longer."""
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
                "--outdir, or remove it"
            )
    places = _places(job, workdir)
    evaluated = sum(_is_of(place, job, num_steps) for place, num_steps in places)
    sampled = workdir / "samples.json"  # the last file of a training
    if evaluated == len(places) and sampled.is_file() and read_json(sampled)["step"] == steps:
        return "done"
    return f"step {reached} of {steps}, {evaluated} of {len(places)} evaluations"


def _places(job: Job, workdir: Path) -> list[tuple[Path, int]]:
    """Where its evaluations are kept, and of how many steps each is: the training's own, which is
    in the workdir too, and the others."""
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
        # A stop below leaves another evaluation than the training's in the workdir.
        source = next((p for p in (workdir, *dict(places)) if _is_of(p, job, num_steps)), None)
        if source is None:
            config = ConfigDict(job.config.to_dict())
            config.eval.num_steps = num_steps
            evaluate_run(open_run(config, workdir))
            source = workdir
        if source != place:
            _copy_reports(source, place)


def _is_of(place: Path, job: Job, num_steps: int) -> bool:
    """Whether there is a report of the trained model as the config says, with so many steps. What
    an experiment evaluates in the workdir for itself, such as other bounds, is none."""
    if not (place / "eval.json").is_file():
        return False
    report, wanted = read_json(place / "eval.json"), job.config.eval
    keys = ("step", "bound", "draws_per_example", "eval_seed", "params")
    asked = [job.config.train.num_steps, wanted.bound, wanted.draws, wanted.seed, wanted.params]
    if [report.get(key) for key in keys] != asked:
        return False
    # A model without a schedule says other things of its bound, and has one alone.
    return "num_levels" in report or report.get("num_steps") == num_steps


def _copy_reports(source: Path, target: Path) -> None:
    """eval.json last: its presence says that both are there."""
    target.mkdir(parents=True, exist_ok=True)
    for name in reversed(REPORTS):
        shutil.copy(source / name, target / f"{name}.new")
    for name in reversed(REPORTS):
        (target / f"{name}.new").replace(target / name)


def open_runs(jobs: Sequence[Job], outdir: Path) -> list[Run]:
    """Of each job: its finished run."""
    return [open_run(job.config, outdir / "runs" / job.name) for job in jobs]


def results(jobs: Sequence[Job], outdir: Path, num_steps: int | None = None) -> list[Result]:
    """Of each job: its own evaluation, or that of these steps."""
    workdirs = [outdir / "runs" / job.name for job in jobs]
    if num_steps is None:
        return [Result(_places(job, w)[0][0]) for job, w in zip(jobs, workdirs, strict=True)]
    return [Result(workdir / "evaluations" / f"T{num_steps}") for workdir in workdirs]


def mean_row(name: str, jobs: Sequence[Job], found: Sequence[Result], outdir: Path) -> Row:
    """The row of jobs that differ in their seed: means over the seeds.

    stderr is the Monte-Carlo error of the mean, with stderr_degrees degrees of freedom;
    stderr_images is over images, stderr_seeds over seeds; variance is that of a single draw of the
    denoising term, (bits/dim)^2. bpd_of_draws has the mean over images of each draw, of each seed.
    The commit is that of the code that trained the first, and seconds are of all trainings and
    evaluations.
    """
    reports = [result.report for result in found]
    noise = mean_error([result.noise for result in found])
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
        # One draw of each image does not tell its noise.
        "stderr": noise.stderr if noise.degrees else None,
        "stderr_degrees": noise.degrees or None,
        "stderr_seeds": standard_error(np.array(bpds)) if len(bpds) > 1 else None,
        "bpd_of_seeds": bpds,
        # What a paired error needs of a training that is done again: tests/test_rerun.py.
        "bpd_of_draws": [result.bpd.mean(axis=1).round(6).tolist() for result in found],
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


def paired(found: Sequence[Result], reference: Sequence[Result]) -> Row:
    """The difference to a reference of the same seeds and images, bits/dim, with its errors: over
    the seeds, and over the images of the mean over seeds. ValueError for other data or another kind
    of bound."""
    pairs = list(zip(found, reference, strict=True))
    for ours, theirs in pairs:
        compare([theirs, ours])  # it refuses what cannot be compared
    of_seeds = np.array([ours.bpd.mean() - theirs.bpd.mean() for ours, theirs in pairs])
    images = np.mean([o.bpd.mean(axis=0) - t.bpd.mean(axis=0) for o, t in pairs], axis=0)
    return {
        "difference": float(of_seeds.mean()),
        "difference_stderr_seeds": standard_error(of_seeds) if len(pairs) > 1 else None,
        "difference_stderr_images": standard_error(images),
    }
