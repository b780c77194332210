"""Does the learned schedule reach the one with the least variance, if that one is known?"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.results import Row, format_table, identity, write_results
from experiments.snr_oracle.gaussian import Quality, best, quality
from experiments.sweep import CONFIGS, Job, finish, open_runs, parse_flags, results, seeded
from vdm.api import load_config
from vdm.diffusion.exact import GaussianData
from vdm.diffusion.schedule_algebra import density
from vdm.io.plots import BLACK, BLUE, GREEN, GREY, PAGE, VERMILLION, make_figure, save_figure
from vdm.runs import states
from vdm.runs.run import Run
from vdm.typing import ScheduleFn

CONFIG = CONFIGS / "toy_mixture.py"
SEEDS = {"small": (0, 1, 2), "full": tuple(range(10))}
OMEGA_0, OMEGA_1, NUM_DIMS = -8.0, 5.0, 8
TRAINED = ("bound", "variance", "variance_stratified", "adaptive")  # schedule.train
STYLES = {"linear": (GREY, (0, (6, 2))), "bound": (VERMILLION, "-."), "variance": (BLUE, "-"),
          "adaptive": (GREEN, "--"), "optimal": (BLACK, (0, (1, 1.5)))}  # fmt: skip


def make_config() -> ConfigDict:
    """The config of N(0, I) in 8 dimensions with its ideal denoiser; only the schedule learns."""
    config = load_config(CONFIG)
    config.data.kwargs = {"num_train": 50_000, "num_test": 100, "means": [[0.0] * NUM_DIMS],
                          "weights": [1.0], "std": 1.0}  # fmt: skip
    config.network = {"name": "experiments.snr_oracle.gaussian:IdealDenoiser", "kwargs": {}}
    config.schedule.kwargs = {"omega_0": OMEGA_0, "omega_1": OMEGA_1, "learn_ends": False,
                              "hidden_features": 64}  # fmt: skip
    config.train.num_steps = config.train.save_every = 3000
    config.train.batch_size, config.train.log_every, config.train.num_devices = 128, 500, 1
    config.optim.kwargs = {"learning_rate": 1e-2, "warmup_steps": 1, "decay": "cosine"}
    config.optim.ema_rate = 0.99
    config.eval.draws, config.sample.num_images, config.sample.num_steps = 2, 4, 10
    return config


def make_jobs(objective: str, seeds: tuple[int, ...]) -> list[Job]:
    """One training for each seed."""
    config = make_config()
    config.schedule.train = objective
    config.schedule.name = "tabulated" if objective == "adaptive" else "monotone"
    return seeded(objective, config, seeds)


def learned(run: Run) -> ScheduleFn:
    """The schedule of a finished training."""
    return run.vdm.schedule_fn(states.trained_params(run)[1])


def row(name: str, qualities: list[Quality], seconds: float = 0.0) -> Row:
    """The row of an objective: means over the seeds, and the worst seed compared with the best
    possible schedule."""
    least = best(OMEGA_0, OMEGA_1, NUM_DIMS).variance
    variances = [q.variance for q in qualities]
    variations = [q.total_variation for q in qualities]
    return {
        "name": name,
        "variance": float(np.mean(variances)),
        "variance_stratified": float(np.mean([q.variance_stratified for q in qualities])),
        "total_variation": float(np.mean(variations)),
        "variance_to_optimal": float(np.mean(variances)) / least,
        "worst_variance_to_optimal": max(variances) / least,
        "worst_total_variation": max(variations),
        "variance_of_seeds": variances,
        "total_variation_of_seeds": variations,
        "seconds": seconds,
    }


def plot(path: Path, schedules: dict[str, ScheduleFn]) -> None:
    """Plots omega(t), and the density of omega next to the best one."""
    figure, (left, right) = make_figure(PAGE, 2.5, columns=2)
    t = np.linspace(0.0, 1.0, 1001)
    omegas = np.linspace(OMEGA_0, OMEGA_1, 601)[1:-1]
    data = GaussianData(1.0)
    for name, (colour, dash) in STYLES.items():
        if name == "optimal":
            share = 1 / (1 + np.exp(omegas))
            ends = jnp.asarray(OMEGA_0), jnp.asarray(OMEGA_1)
            line = np.asarray(data.least_variance_omega(jnp.asarray(t), *ends))
            p = share / (np.logaddexp(0, -OMEGA_0) - np.logaddexp(0, -OMEGA_1))
        else:
            line = np.asarray(schedules[name](jnp.asarray(t, jnp.float32)))
            p = np.asarray(jax.jit(lambda w, s=schedules[name]: density(s, w))(
                jnp.asarray(omegas, jnp.float32)))  # fmt: skip
        left.plot(t, line, linestyle=dash, color=colour, linewidth=1.4, label=name)
        right.plot(omegas, p, linestyle=dash, color=colour, linewidth=1.4, label=name)
    left.set_xlim(0.0, 1.0)
    left.set_xlabel("time $t$")
    left.set_ylabel(r"$\omega(t)$  [nats]")
    left.legend(frameon=False)
    right.set_xlabel(r"$\omega$  [nats]")
    right.set_ylabel(r"density of $\omega$  [per nat]")
    right.set_xlim(OMEGA_0, OMEGA_1)
    right.set_ylim(0.0, 0.15)
    save_figure(figure, path)


def main() -> None:
    """Trains the schedules, then writes results.json and snr_oracle.png."""
    flags = parse_flags(__file__)
    seeds = SEEDS[flags.scale]
    identified = identity(make_config(), "experiments.snr_oracle.run", flags.scale)
    jobs = {objective: make_jobs(objective, seeds) for objective in TRAINED}
    if not finish([job for objective_jobs in jobs.values() for job in objective_jobs], flags):
        return
    qualities: dict[str, list[Quality]] = {}
    seconds: dict[str, float] = {}
    shown: dict[str, ScheduleFn] = {"linear": lambda t: (1 - t) * OMEGA_0 + t * OMEGA_1}
    for objective, objective_jobs in jobs.items():
        schedules = [learned(run) for run in open_runs(objective_jobs, flags.outdir)]
        shown[objective] = schedules[0]
        qualities[objective] = [quality(schedule, NUM_DIMS) for schedule in schedules]
        reports = [result.report for result in results(objective_jobs, flags.outdir)]
        seconds[objective] = sum(report["train_secs"] for report in reports)
    rows = [
        row("linear", [quality(shown["linear"], NUM_DIMS)]),
        *(row(objective, qualities[objective], seconds[objective]) for objective in TRAINED),
        row("optimal", [best(OMEGA_0, OMEGA_1, NUM_DIMS)]),
    ]
    rows = [identified | {"seeds": list(seeds)} | r for r in rows]
    write_results(flags.outdir, rows)
    plot(flags.outdir / "snr_oracle.png", shown)
    columns = ("name", "variance", "variance_stratified", "total_variation",
               "worst_variance_to_optimal", "worst_total_variation", "seconds")  # fmt: skip
    print(format_table(rows, columns))


if __name__ == "__main__":
    main()
