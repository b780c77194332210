"""How many network evaluations does each sampler need for samples of a given quality?"""

import dataclasses
import functools
import time
from collections import Counter
from pathlib import Path

import numpy as np

from experiments.results import Row, format_table, identity, write_results
from experiments.sampler_orders.styles import style
from experiments.sweep import CONFIGS, finish, kept, open_runs, parse_flags, seeded
from vdm.api import load_config
from vdm.diffusion import flow, langevin, samplers
from vdm.diffusion.samplers import Sampler
from vdm.evaluation.features import MLPFeatures, read_mlp_features, train_mlp_features
from vdm.evaluation.quality import compare
from vdm.evaluation.statistics import standard_error
from vdm.io.plots import PAGE, make_figure, save_figure
from vdm.runs import states
from vdm.runs.run import Run
from vdm.runs.sample import run_samples, sampling_of
from vdm.typing import Params

CONFIG = CONFIGS / "digits.py"
SEEDS = (0, 1, 2)
BUDGETS = (10, 24)  # network evaluations per image
NUM_SAMPLES = {"small": 1500, "full": 5000}
SAMPLERS: dict[str, Sampler] = {
    "ancestral": samplers.ancestral(),
    "mixture_ancestral": samplers.mixture_ancestral(),
    "euler_maruyama": samplers.euler_maruyama(),
    "predictor_corrector": langevin.predictor_corrector(),
    "annealed_langevin": langevin.annealed_langevin(corrections=1, step_size=0.5),
    "ddim": samplers.ddim(),
    "heun": samplers.heun(),
    "dpm_solver": samplers.dpm_solver(),
    "dpm_solver, stochastic": samplers.dpm_solver(stochastic=True),
    "dpm_solver, noise below 1": samplers.dpm_solver(stochastic=True, noisy_below=1.0),
    "flow, tolerance 0.1": flow.flow(1e-1),
    "flow, tolerance 0.01": flow.flow(1e-2),
}
REFERENCE = ("ancestral", 1000)
FLOOR = "real training images drawn anew"
COLUMNS = ("sampler", "evaluations", "frechet", "frechet_spread", "difference",
           "difference_stderr", "kernel", "kernel_stderr", "precision", "recall")  # fmt: skip


def build_features(run: Run, outdir: Path) -> MLPFeatures:
    """Trains a classifier of the real digits and writes it to outdir/features.npz; the features are
    its last hidden layer."""
    path, split = outdir / "features.npz", run.source.load("train")
    if path.is_file():
        return read_mlp_features(path)
    assert split.labels is not None
    return train_mlp_features(path, split.examples, split.labels, run.source.num_codes)


def plans() -> list[tuple[str, Sampler, int]]:
    """(name, sampler, steps) for each row of a seed."""
    planned = [(REFERENCE[0], SAMPLERS[REFERENCE[0]], REFERENCE[1])]
    for name, sampler in SAMPLERS.items():
        if sampler.evaluations:
            planned += [(name, sampler, budget // sampler.evaluations) for budget in BUDGETS]
        else:  # One interval, in which the tolerance determines the number of steps.
            planned.append((name, sampler, 1))
    return planned


def rows_of_real(
    run: Run, features: MLPFeatures, real_features: np.ndarray, seed: int, num_samples: int
) -> list[Row]:
    """The rows of real images: those of the test split, which are by other writers, and as many
    draws from the training images as there are samples, which is the best that a sampler can do."""
    drawn = np.random.default_rng(seed).choice(run.source.load("train").examples, num_samples)
    test = run.source.load("test").examples
    return [
        {"name": f"{name}/seed{seed}", "sampler": name, "evaluations": 0, "seconds": 0.0,
         "seed": seed, "num_samples": len(images), "features": features.name}
        | compare(features(images, run.source.num_codes), real_features)
        for name, images in ((FLOOR, drawn), ("real test images", test))
    ]  # fmt: skip


def rows_of_seed(
    run: Run, params: Params, features: MLPFeatures, seed: int, num_samples: int
) -> list[Row]:
    """The rows of every sampler on one trained model, compared with the training images."""
    num_codes = run.source.num_codes
    real_features = features(run.source.load("train").examples, num_codes)
    shared = {"seed": seed, "num_samples": num_samples, "features": features.name}
    rows = rows_of_real(run, features, real_features, seed, num_samples)
    own = sampling_of(run)
    for name, sampler, num_steps in plans():
        start = time.monotonic()
        drawn = run_samples(
            run, params, sampling=dataclasses.replace(own, sampler=sampler, num_steps=num_steps),
            num_samples=num_samples, seed=seed,
        )  # fmt: skip
        evaluations = round(drawn.network_evaluations, 1)
        row = shared | {"sampler": name, "evaluations": evaluations, "num_steps": num_steps}
        row |= compare(features(drawn.data, num_codes), real_features)
        row |= {"name": f"{name}/{evaluations:g}/seed{seed}", "seconds": time.monotonic() - start}
        print(row["name"], f"{row['frechet']:.3f}", f"{row['seconds']:.1f} s", flush=True)
        rows.append(row)
    return rows


def means(rows: list[Row]) -> list[Row]:
    """One row for each sampler and budget: means over the seeds, their spread, and the difference
    from the reference on the same models and z_1, with its standard error over the seeds."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault((row["sampler"], row.get("num_steps")), []).append(row)
    reference_frechet = np.array([row["frechet"] for row in groups[REFERENCE]])
    table = []
    for (name, _), mine in groups.items():
        numbers = ("evaluations", "frechet", "kernel", "kernel_stderr", "precision", "recall")
        frechet = np.array([row["frechet"] for row in mine])
        line: Row = {key: float(np.mean([row[key] for row in mine])) for key in numbers}
        line |= {"sampler": name, "frechet_spread": float(frechet.std(ddof=1))}
        if not name.startswith("real") and (name, mine[0]["num_steps"]) != REFERENCE:
            line["difference"] = float(np.mean(frechet - reference_frechet))
            line["difference_stderr"] = standard_error(frechet - reference_frechet)
        table.append(line)
    return table


def plot(path: Path, table: list[Row]) -> None:
    """Plots the Frechet distance against evaluations; bars: standard deviation over the seeds."""
    figure, (axes,) = make_figure(PAGE, 3.0)
    names = [name for name in dict.fromkeys(r["sampler"] for r in table) if "real" not in name]
    counts = Counter(r["evaluations"] for r in table)  # those that share one stand side by side
    for name, shift in zip(names, np.geomspace(0.88, 1.14, len(names)), strict=True):
        mine = sorted((r for r in table if r["sampler"] == name), key=lambda r: r["evaluations"])
        axes.errorbar(
            [r["evaluations"] * (shift if counts[r["evaluations"]] > 1 else 1.0) for r in mine],
            [r["frechet"] for r in mine],
            [r["frechet_spread"] for r in mine],
            **style(name), label=name.replace("_", " "), capsize=2,
        )  # fmt: skip
    for name, line in ((FLOOR, "--"), ("real test images", ":")):
        distance = next(r["frechet"] for r in table if r["sampler"] == name)
        axes.axhline(distance, color="black", linewidth=0.8, linestyle=line, label=name)
    budgets = (5, 10, 24, 50, 100, 250, 1000)
    axes.set_xscale("log")
    axes.set_yscale("log")
    low, high = axes.get_xlim()
    shown = [n for n in budgets if low <= n <= high]
    axes.set_xticks(shown, [str(n) for n in shown])
    axes.xaxis.minorticks_off()
    low, high = axes.get_ylim()
    ticks = [n for n in (0.5, 1, 2, 5, 10, 20, 50, 100, 200) if low <= n <= high]
    axes.set_yticks(ticks, [f"{n:g}" for n in ticks])
    axes.yaxis.minorticks_off()
    axes.set_xlabel("network evaluations for each image (bars: one standard deviation over seeds)")
    axes.set_ylabel("Fréchet distance to training images")
    figure.legend(frameon=False, loc="outside right center")
    save_figure(figure, path)


def main() -> None:
    """Trains what is not yet trained and samples, then writes results.json, features.npz and
    sampler_quality.png."""
    flags = parse_flags(__file__)
    config = load_config(CONFIG)
    config.sample.batch_size = 300
    config.sample.grid.name = "equal_omegas"  # The best of three for the ODE in few steps.
    identified = identity(config, "experiments.sampler_quality.run", flags.scale)
    jobs, rows, num_samples = seeded("digits", config, SEEDS), [], NUM_SAMPLES[flags.scale]
    if not finish(jobs, flags):
        return
    for seed, run in zip(SEEDS, open_runs(jobs, flags.outdir), strict=True):
        params = states.trained_params(run)[1]
        features = build_features(run, flags.outdir)
        test = run.source.load("test")
        assert test.labels is not None
        accuracy = features.accuracy(test.examples, test.labels, run.source.num_codes)
        shared = identified | {"features_accuracy": accuracy}
        measure = functools.partial(rows_of_seed, run, params, features, seed, num_samples)
        settings = {
            "config": identified["config_hash"], "num_samples": num_samples,
            "plans": [(name, steps) for name, _, steps in plans()], "features": features.name,
        }  # fmt: skip
        rows += kept(flags.outdir, f"seed{seed}", settings, shared, measure)
    write_results(flags.outdir, rows)
    table = means(rows)
    plot(flags.outdir / "sampler_quality.png", table)
    print(format_table(table, COLUMNS))


if __name__ == "__main__":
    main()
