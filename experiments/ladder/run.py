"""Every latent-variable model of the sources on the same digits: bits/dim of each."""

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
    """What all rungs share."""
    config = load_config(CONFIG)
    config.eval.draws, config.sample.num_images = 20, 12
    return config


def make_jobs(name: str, scale: str) -> list[Job]:
    """Of a rung: one training for each seed, the same images and noise of its own for each."""
    config = changed(make_config(), RUNGS[name])
    if scale == "full":  # longer, and the U-Net wider, for an accelerator
        config.train.num_steps = FULL_STEPS
        if config.network.name == "unet":
            config.network.kwargs.update(width=128, num_blocks=4, dropout=0.4)
    config.train.save_every = config.train.num_steps
    return seeded(name.replace(", ", "-").replace(" ", ""), config, SEEDS[scale])


def row(name: str, runs: list[Run], of_images: dict[str, np.ndarray]) -> Row:
    """Means over the seeds; seconds: of the training of one. Its commit is that of the code which
    trained: finished runs are not trained again. `of_images` gets the mean bits/dim of
    each image."""
    results = [Result(run.workdir) for run in runs]
    of_images[name] = np.mean([result.bpd.mean(axis=0) for result in results], axis=0)
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


def add_differences(rows: list[Row], of_images: dict[str, np.ndarray]) -> None:
    """To the VAE: errors over the seeds, and over the images that both are means of."""
    reference = next(r for r in rows if r["name"] == REFERENCE)
    for r in rows:
        difference = np.subtract(r["bpd_of_seeds"], reference["bpd_of_seeds"])
        r["difference"] = float(difference.mean())
        r["difference_stderr_seeds"] = standard_error(difference)
        paired = of_images[r["name"]] - of_images[REFERENCE]
        r["difference_stderr_images"] = standard_error(paired)


def main() -> None:
    """Fits and trains, checks, writes results.json, checks.json and samples.png."""
    flags = parse_flags(__file__)
    config = make_config()
    identified = identity(config, "experiments.ladder.run", flags.scale)
    jobs = {name: make_jobs(name, flags.scale) for name in RUNGS}
    if not finish([job for of_rung in jobs.values() for job in of_rung], flags):
        return
    sources = (digits(config.data.data_dir, holdout) for holdout in (200, 0))
    fitted = mixture_rung(*sources, seeds=SEEDS[flags.scale])
    runs = {name: open_runs(of_rung, flags.outdir) for name, of_rung in jobs.items()}
    of_images = {fitted.row["name"]: fitted.nats / (64 * math.log(2))}
    rows = [fitted.row, *(row(name, of_rung, of_images) for name, of_rung in runs.items())]
    add_differences(rows, of_images)
    samples = {fitted.row["name"]: fitted.samples[:12]} | {
        name: np.load(of_rung[0].workdir / "samples.npz")["samples"]
        for name, of_rung in runs.items()
    }
    plot_samples(flags.outdir / "samples.png", samples, 17)
    found = [
        claim("mixture: log p falls in no EM step, nats", fitted.largest_fall, 1e-9),
        *checks({name: of_rung[0] for name, of_rung in runs.items()}),
    ]
    write_results(flags.outdir, [identified | r for r in rows])
    write_json(flags.outdir / "checks.json", [identified | r for r in found])
    print(format_table(rows, COLUMNS))
    print(format_table(found, ("name", "value", "limit", "holds")))


if __name__ == "__main__":
    main()
