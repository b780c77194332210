"""How many bits/dim does each latent-variable model of the sources need for the same digits?"""

import json
import math
import statistics

import numpy as np
from ml_collections import ConfigDict

from experiments.ladder.checks import checks, claim
from experiments.ladder.figure import plot_samples
from experiments.ladder.mixture_digits import mixture_rung
from experiments.ladder.rungs import RUNGS, changed
from experiments.results import Row, config_hash, format_table, identity, write_results
from experiments.sweep import CONFIGS, Job, finish, open_runs, parse_flags, seeded
from vdm.api import load_config
from vdm.compare import Result
from vdm.data.sources import digits
from vdm.evaluation.statistics import mean_error, standard_error
from vdm.io.atomic import write_json
from vdm.models.vdm import count_parameters
from vdm.runs import states
from vdm.runs.run import Run

CONFIG = CONFIGS / "digits.py"
FULL_STEPS = 10_000
SEEDS = {"small": (0, 1, 2), "full": (0, 1, 2, 3, 4)}
REFERENCE = "vae"
COLUMNS = ("name", "bound", "bpd", "stderr", "stderr_images", "difference",
           "difference_stderr_seeds", "difference_stderr_images", "parameters",
           "seconds")  # fmt: skip


def make_config() -> ConfigDict:
    """The config that all rungs share."""
    config = load_config(CONFIG)
    config.eval.draws, config.sample.num_images = 20, 12
    return config


def make_jobs(name: str, scale: str) -> list[Job]:
    """The jobs of a rung: one training for each seed, with the same images and its own noise."""
    config = changed(make_config(), RUNGS[name])
    if scale == "full":  # longer, and the U-Net wider, for an accelerator
        config.train.num_steps = FULL_STEPS
        if config.network.name == "unet":
            config.network.kwargs.update(width=128, num_blocks=4, dropout=0.4)
    config.train.save_every = config.train.num_steps
    return seeded(name.replace(", ", "-").replace(" ", ""), config, SEEDS[scale])


def row(name: str, runs: list[Run], image_bpd: dict[str, np.ndarray]) -> Row:
    """The row of a rung: means over the seeds; `seconds` is the time of one training. The commit is
    that of the code which trained the runs, as finished runs are not trained again. Stores the mean
    bits/dim of each image in `image_bpd`."""
    results = [Result(run.workdir) for run in runs]
    image_bpd[name] = np.mean([result.bpd.mean(axis=0) for result in results], axis=0)
    noise = mean_error([result.noise for result in results])
    first = results[0].report
    steps = f"T = {first['num_steps'] + 1}" if first["num_steps"] else "continuous time"
    if "num_levels" in first:
        steps = f"{first['num_levels']} levels" if first["num_levels"] > 1 else "1 level"
    environment = json.loads((runs[0].workdir / "environment.json").read_text())
    return {
        "name": name,
        "commit": environment["commit"],
        "config_hash": config_hash(ConfigDict(runs[0].resolved)),
        "bound": f"elbo, {steps}" + ("; trained on another loss" if "trained_on" in first else ""),
        "trained_on": first.get("trained_on", "the bound"),
        "bpd": statistics.fmean(result.report["bpd"] for result in results),
        "stderr": noise.stderr,
        "stderr_degrees": noise.degrees,
        "stderr_images": statistics.fmean(result.report["stderr_images"] for result in results),
        "bpd_of_seeds": [result.report["bpd"] for result in results],
        **{
            key: statistics.fmean(result.report[key] for result in results)
            for key in ("bpd_reconstruction", "bpd_prior", "bpd_denoising")
        },
        "parameters": count_parameters(states.abstract_state(runs[0]).params),
        "seeds": [run.options.seed for run in runs],
        "seconds": statistics.fmean(result.report["train_secs"] for result in results),
        **{key: first[key] for key in (
            "num_examples", "draws_per_example", "params", "step", "data_fingerprint")},
    }  # fmt: skip


def add_differences(rows: list[Row], image_bpd: dict[str, np.ndarray]) -> None:
    """Adds the difference from the VAE to each row, with its errors over the seeds and over the
    images, which both models share."""
    reference = next(r for r in rows if r["name"] == REFERENCE)
    for r in rows:
        difference = np.subtract(r["bpd_of_seeds"], reference["bpd_of_seeds"])
        r["difference"] = float(difference.mean())
        r["difference_stderr_seeds"] = standard_error(difference)
        paired = image_bpd[r["name"]] - image_bpd[REFERENCE]
        r["difference_stderr_images"] = standard_error(paired)


def main() -> None:
    """Fits, trains and checks all rungs, then writes results.json, checks.json and samples.png."""
    flags = parse_flags(__file__)
    config = make_config()
    identified = identity(config, "experiments.ladder.run", flags.scale)
    jobs = {name: make_jobs(name, flags.scale) for name in RUNGS}
    if not finish([job for rung_jobs in jobs.values() for job in rung_jobs], flags):
        return
    sources = (digits(config.data.data_dir, holdout) for holdout in (200, 0))
    fitted = mixture_rung(*sources, seeds=SEEDS[flags.scale])
    runs = {name: open_runs(rung_jobs, flags.outdir) for name, rung_jobs in jobs.items()}
    image_bpd = {fitted.row["name"]: fitted.nats / (64 * math.log(2))}
    rows = [fitted.row, *(row(name, rung_runs, image_bpd) for name, rung_runs in runs.items())]
    add_differences(rows, image_bpd)
    samples = {fitted.row["name"]: fitted.samples[:12]} | {
        name: np.load(rung_runs[0].workdir / "samples.npz")["samples"]
        for name, rung_runs in runs.items()
    }
    plot_samples(flags.outdir / "samples.png", samples, 17)
    checked = [
        claim("mixture: log p falls in no EM step, nats", fitted.largest_fall, 1e-9),
        *checks({name: rung_runs[0] for name, rung_runs in runs.items()}),
    ]
    write_results(flags.outdir, [identified | r for r in rows])
    write_json(flags.outdir / "checks.json", [identified | r for r in checked])
    print(format_table(rows, COLUMNS))
    print(format_table(checked, ("name", "value", "limit", "holds")))


if __name__ == "__main__":
    main()
