"""How many bits/dim on each data set? (the form of VDM's Table 1)"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.results import Row, format_table, identity, write_results
from experiments.sweep import CONFIGS, Job, finish, mean_row, parse_flags, results, seeded
from vdm.api import load_config
from vdm.config.build import build_source
from vdm.evaluation.statistics import half_width
from vdm.io.plots import BLUE, COLUMN, GREY, make_figure, save_figure
from vdm.models.vdm import count_parameters
from vdm.runs import states
from vdm.runs.run import build_run


class Case(NamedTuple):
    """A config file, the argument of its get_config, and the seeds of its trainings."""

    file: str
    variant: str = ""
    seeds: tuple[int, ...] = (0,)


SCALES = {
    "small": {
        "digits": Case("digits.py", seeds=(0, 1, 2)),
        "fashion_mnist": Case("fashion_mnist.py"),
        "cifar10": Case("cifar10.py", "cpu"),
    },
    "full": {
        "cifar10": Case("cifar10.py"),
        "cifar10, augmented": Case("cifar10.py", "aug"),
        "imagenet32": Case("imagenet32.py"),
        "imagenet64": Case("imagenet64.py"),
    },
}
COLUMNS = ("name", "config", "parameters", "step", "bpd", "stderr", "stderr_images",
           "stderr_seeds", "seconds", "stderr_degrees")  # fmt: skip


def make_jobs(scale: str) -> dict[str, list[Job]]:
    """The jobs of each data set, one for each seed."""
    return {
        name: seeded(
            name.replace(", ", "-"),
            load_config(CONFIGS / case.file, *([case.variant] if case.variant else [])),
            case.seeds,
        )
        for name, case in SCALES[scale].items()
    }


def facts(case: Case, job: Job) -> Row:
    """The columns that describe what was trained, and the bits/dim of uniform codes."""
    argument = f":{case.variant}" if case.variant else ""
    params = states.abstract_state(build_run(job.config, Path())).params
    return {
        "config": f"configs/{case.file}{argument}",
        "parameters": count_parameters(params),
        "uniform_bpd": float(np.log2(build_source(job.config.data).num_codes)),
    }


def plot(path: Path, rows: list[Row]) -> None:
    """Plots the bound of each data set over the bits/dim of uniform codes, with 95% intervals over
    images."""
    figure, (axes,) = make_figure(COLUMN, 0.7 + 0.45 * len(rows))
    places = [-float(place) for place in range(len(rows))]
    axes.barh(places, [row["uniform_bpd"] for row in rows], color=GREY, alpha=0.35, height=0.6)
    errors = [half_width(row["stderr_images"], row["num_examples"] - 1) for row in rows]
    axes.barh(places, [row["bpd"] for row in rows], color=BLUE, height=0.6, xerr=errors)
    for place, row in zip(places, rows, strict=True):
        axes.text(0.1, place, f"{row['bpd']:.3f}", va="center", color="white", fontsize=8)
        uniform = f"{row['uniform_bpd']:.2f}"
        axes.text(row["uniform_bpd"] - 0.1, place, uniform, va="center", ha="right", fontsize=7)
    axes.set_yticks(places, [row["name"] for row in rows])
    axes.set_xlabel("test bits/dim (grey: uniform codes;\nbars: 95% over images)")
    axes.grid(visible=False, axis="y")
    save_figure(figure, path)


def main() -> None:
    """Trains and evaluates, then writes results.json and data_sets.png."""
    flags = parse_flags(__file__)
    jobs, rows = make_jobs(flags.scale), []
    first = next(iter(jobs.values()))[0].config
    identified = identity(first, "experiments.data_sets.run", flags.scale)
    if not finish([job for seeds in jobs.values() for job in seeds], flags):
        return
    for name, seeds in jobs.items():
        row = mean_row(name, seeds, results(seeds, flags.outdir), flags.outdir)
        rows.append(identified | row | facts(SCALES[flags.scale][name], seeds[0]))
    write_results(flags.outdir, rows)
    plot(flags.outdir / "data_sets.png", rows)
    print(format_table(rows, COLUMNS))


if __name__ == "__main__":
    main()
