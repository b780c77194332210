"""How many bits/dim does each reverse kernel reach in how many network evaluations?"""

import functools
import time
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from experiments.kernels.figure import plot
from experiments.kernels.oracle import oracle_rows
from experiments.results import Row, format_table, identity, row_identity, write_results
from experiments.sweep import (
    CONFIGS,
    Job,
    finish,
    kept,
    mean_row,
    paired,
    parse_flags,
    results,
    seeded,
)
from vdm import api
from vdm.api import BitsPerDim, Model, load_config
from vdm.evaluation.statistics import standard_error
from vdm.io.atomic import read_json


class Kernel(NamedTuple):
    """A reverse kernel with its decoder and its levels, as the fields of a config name them."""

    kernel: str
    decoder: str = "bayes"
    grid: str = "equal_times"


class Data(NamedTuple):
    """A data set: the config that its model is trained with, the seeds of the trainings, and what
    is evaluated: numbers of steps (0: continuous time), the first `images` test images, draws; of
    100 steps and in continuous time, whose difference is small, `fine` times as many draws.
    trained: the T of further trainings. budget: the preset whose training and size are taken.
    per_dim: whether there are enough training images for a variance of each dimension."""

    file: str
    preset: str
    seeds: tuple[int, ...]
    steps: tuple[int, ...]
    images: int
    draws: int
    trained: tuple[int, ...] = ()
    budget: str = ""
    per_dim: bool = False
    fine: int = 1

    def draws_of(self, num_steps: int) -> int:
        """The number of draws of each image."""
        return self.draws if 0 < num_steps < 100 else self.draws * self.fine


KERNELS = {
    "gaussian": Kernel("gaussian"),
    "gaussian_fitted": Kernel("gaussian_fitted"),
    "gaussian_fitted_per_dim": Kernel("gaussian_fitted_per_dim"),
    "mixture": Kernel("mixture"),
    "mixture, network": Kernel("mixture", "network"),
    "gaussian, least_bound": Kernel("gaussian", "bayes", "least_bound"),
    "mixture, network, least_bound": Kernel("mixture", "network", "least_bound"),
}
BEGIN = {5: -4.0, 10: -5.5, 20: -7.0}
"""omega_0 with which the training for T steps begins; it is learned. These are near the lowest of
the levels of least bound. Steps below them are wasted, and from -8 it is learned too slowly."""
DROPOUT = 0.3
"""The share of activations dropped while a network is trained for T steps, instead of the config's
0.2, with which it overfits: with data.holdout = 200, T = 5 and seed 0 the held-out images have
1.836 instead of 1.852 bits/dim, a paired difference of 0.016 +- 0.003 over images."""
SCALES = {
    "small": {
        "digits": Data(
            "digits.py", "", (0, 1, 2), (2, 5, 10, 20, 100), 297, 50, (5, 10, 20),
            per_dim=True, fine=4,
        ),
        "fashion_mnist": Data("fashion_mnist.py", "codes", (0,), (5, 10, 20, 50), 1000, 4),
        "cifar10": Data("cifar10.py", "codes_cpu", (0,), (5, 10, 20, 50), 100, 2),
    },
    "full": {
        "cifar10": Data(
            "cifar10.py", "codes_cpu", (0,), (5, 10, 20, 50, 100), 10_000, 4, budget="gpu1h"
        ),
    },
}  # fmt: skip
ORACLE = ("name", "entropy_nats", "excess_nats", "excess_stderr")


def config_of(data: Data) -> ConfigDict:
    """The config of a data set's model, trained in continuous time."""
    config = load_config(CONFIGS / data.file, *([data.preset] if data.preset else []))
    if data.budget:
        budget = load_config(CONFIGS / data.file, data.budget)
        config.train.update(budget.train)
        for field in ("width", "num_blocks", "dtype", "remat"):
            config.network.kwargs[field] = budget.network.kwargs[field]
    return config


def trained_for(data: Data, num_steps: int) -> ConfigDict:
    """The same model trained for T steps of the mixture kernel with the network's decoder."""
    config = config_of(data)
    config.model.update(num_steps=num_steps, kernel="mixture", decoder="network")
    config.schedule.kwargs.omega_0 = BEGIN[num_steps]
    config.network.kwargs.dropout = DROPOUT
    config.eval.num_steps = num_steps
    config.sample.update(name="mixture_ancestral", num_steps=num_steps)
    return config


def make_jobs(scale: str) -> dict[str, dict[int, list[Job]]]:
    """Data set -> T of the training (0: continuous time) -> a job for each seed."""
    jobs: dict[str, dict[int, list[Job]]] = {}
    for name, data in SCALES[scale].items():
        jobs[name] = {0: seeded(name, config_of(data), data.seeds)}
        for steps in data.trained:
            jobs[name][steps] = seeded(f"{name}-T{steps}", trained_for(data, steps), data.seeds)
    return jobs


def measured(models: list[Model], kernel: Kernel, num_steps: int, data: Data) -> list[BitsPerDim]:
    """The bound of every seed's model on the same images, each with its own noise."""
    grid = kernel.grid if num_steps else None
    return [
        model.using(kernel.kernel, kernel.decoder).bpd(
            model.split("test").examples[: data.images], num_steps=num_steps,
            draws=data.draws_of(num_steps), grid=grid, seed=seed,
        )
        for seed, model in zip(data.seeds, models, strict=True)
    ]  # fmt: skip


def row_of(name: str, bounds: list[BitsPerDim], data: Data, num_steps: int) -> Row:
    """The means over the seeds, with their errors; the degrees are those of one seed's error times
    their number, because the seeds' noises are independent."""
    bpds = np.array([bound.mean for bound in bounds])
    noise = [bound.stderr_monte_carlo for bound in bounds]
    return {
        "name": name,
        "num_steps": num_steps,
        "bpd": float(bpds.mean()),
        "stderr": float(np.sqrt(np.sum(np.square(noise))) / len(noise)),
        "stderr_degrees": float(sum(bound.stderr_degrees for bound in bounds)),
        "stderr_images": standard_error(np.mean([bound.per_image for bound in bounds], axis=0)),
        "stderr_seeds": standard_error(bpds) if len(bpds) > 1 else None,
        "bpd_of_seeds": bpds.tolist(),
        "seeds": list(data.seeds),
        "num_examples": data.images,
        "draws_per_example": data.draws_of(num_steps),
        "bound": "elbo",
    }


def rows_of(name: str, data: Data, models: list[Model], num_steps: int) -> list[Row]:
    """The rows of the models that are trained in continuous time, for T steps (0: continuous time):
    each kernel, with the difference from the Gaussian one on the same images."""
    rows, start = [], time.monotonic()
    if not num_steps:
        for decoder, label in (("bayes", "any kernel"), ("network", "any kernel, network")):
            bounds = measured(models, Kernel("gaussian", decoder), 0, data)
            row = row_of(f"{name} {label} T=inf", bounds, data, 0)
            row["seconds"], start = time.monotonic() - start, time.monotonic()
            rows.append(row)
        return rows
    reference: list[BitsPerDim] = []
    for label, kernel in KERNELS.items():
        if label == "gaussian_fitted_per_dim" and not data.per_dim:
            continue
        bounds = measured(models, kernel, num_steps, data)
        row = row_of(f"{name} {label} T={num_steps}", bounds, data, num_steps)
        row["evaluations"] = evaluations(kernel, num_steps)
        reference = reference or bounds
        change = np.mean(
            [b.per_image - r.per_image for b, r in zip(bounds, reference, strict=True)], axis=0
        )
        if bounds is not reference:
            row["difference"] = float(change.mean())
            row["difference_stderr_images"] = standard_error(change)
        row["seconds"], start = time.monotonic() - start, time.monotonic()
        print(row["name"], f"{row['bpd']:.4f}", flush=True)
        rows.append(row)
    return rows


def evaluations(kernel: Kernel, num_steps: int) -> int:
    """Network evaluations of T steps; the network's decoder takes one more."""
    return num_steps + (kernel.decoder == "network")


def by_steps(rows: list[Row], data: str) -> list[Row]:
    """The bits/dim of a data set with a row for each kernel and a column for each T."""
    table: dict[str, Row] = {}
    for row in rows:
        if row["name"].startswith(f"{data} "):
            kernel, _, steps = row["name"].removeprefix(f"{data} ").rpartition(" ")
            table.setdefault(kernel, {"kernel": kernel})[steps] = row["bpd"]
    return list(table.values())


def columns_of(table: list[Row]) -> tuple[str, ...]:
    """The columns of such a table, in the order of T."""
    steps = {column for row in table for column in row if column != "kernel"}
    return ("kernel", *sorted(steps, key=lambda column: float(column.removeprefix("T="))))


def main() -> None:
    """Trains and evaluates, then writes results.json and kernels.png."""
    flags = parse_flags(__file__)
    cases, jobs = SCALES[flags.scale], make_jobs(flags.scale)
    if not finish([job for of in jobs.values() for seeds in of.values() for job in seeds], flags):
        return
    rows: list[Row] = []
    for name, data in cases.items():
        trainings = jobs[name]
        identified = identity(trainings[0][0].config, "experiments.kernels.run", flags.scale)
        workdirs = [flags.outdir / "runs" / job.name for job in trainings[0]]
        identified["train_commit"] = read_json(workdirs[0] / "environment.json")["commit"]
        models = [api.load(workdir) for workdir in workdirs]
        settings = {"config": identified["config_hash"], "kernels": KERNELS} | data._asdict()
        for num_steps in (0, *data.steps):
            measure = functools.partial(rows_of, name, data, models, num_steps)
            rows += kept(flags.outdir, f"{name} T={num_steps}", settings, identified, measure)
        found = results(trainings[0], flags.outdir)
        row = mean_row(f"{name} every test image T=inf", trainings[0], found, flags.outdir)
        rows.append(identified | row)
        for steps in data.trained:
            found = results(trainings[steps], flags.outdir)
            row = mean_row(f"{name} trained for T={steps}", trainings[steps], found, flags.outdir)
            gained = paired(found, results(trainings[0], flags.outdir))
            row |= {f"{key}_to_inf": value for key, value in gained.items()}
            rows.append(identified | row | {"evaluations": steps + 1})
    traced = row_identity({}, "experiments.kernels.run", flags.scale)
    rows += [traced | row for row in oracle_rows()]
    write_results(flags.outdir, rows)
    plot(flags.outdir / "kernels.png", rows)
    for name in cases:
        table = by_steps(rows, name)
        print(f"\n{name}, bits/dim\n\n{format_table(table, columns_of(table))}")
    print("\n" + format_table([row for row in rows if "excess_nats" in row], ORACLE))


if __name__ == "__main__":
    main()
