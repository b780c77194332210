"""How much slower is a step of the CIFAR-10 network that trains the schedule for variance?"""

import statistics
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.results import Row, format_table, identity, parse_flags, write_results
from vdm.api import load_config
from vdm.devices import sharding
from vdm.io.plots import BLUE, COLUMN, make_figure, save_figure
from vdm.runs import states
from vdm.runs.run import build_run
from vdm.training.gradient import Objective
from vdm.training.optim import Averaging
from vdm.training.step import make_train_step

CONFIG = Path(__file__).parent.parent.parent / "configs" / "cifar10.py"
ROUNDS = 15
# name: (schedule, schedule.train)
VARIANTS = {
    "fixed": ("monotone", "fixed"),
    "bound": ("monotone", "bound"),
    "variance": ("monotone", "variance"),
    "variance_stratified": ("monotone", "variance_stratified"),
    "adaptive": ("tabulated", "adaptive"),
}


class Step:
    """A compiled train step with its own state."""

    def __init__(self, config: ConfigDict, name: str) -> None:
        config.schedule.name, config.schedule.train = VARIANTS[name]
        run = build_run(config, Path("unused"))
        options = run.options
        step: Any = make_train_step(
            run.model,
            run.optimizer,
            run.step_key,
            Objective(0, options.train_schedule),
            Averaging(options.ema_rate, options.ema_warmup),
            mesh=run.mesh,
        )
        codes = np.random.default_rng(0).integers(0, 256, (options.train.batch_size, 32, 32, 3))
        self.batch = sharding.put_batch({"examples": codes.astype(np.uint8)}, run.mesh)
        self.state = states.initial_state(run)
        self.compiled, self.arrays = step.lower(self.state, self.batch).compile(), step.arrays
        self.flops = self.compiled.cost_analysis()["flops"]

    def seconds(self) -> float:
        """Runs one step and returns its seconds."""
        start = time.perf_counter()
        self.state, metrics = self.compiled(self.state, self.batch, *self.arrays)
        jax.block_until_ready((self.state, metrics))
        return time.perf_counter() - start


def make_config(scale: str) -> ConfigDict:
    """The config of the paper's network; at scale "small" with two blocks and a batch of 8 on one
    device."""
    config = load_config(CONFIG)
    config.data.name = "synthetic"
    config.data.kwargs = {"shape": (32, 32, 3), "num_codes": 256, "num_train": 8, "num_test": 8}
    if scale == "small":
        config.network.kwargs.num_blocks = 2
        config.train.batch_size, config.train.num_devices = 8, 1
    return config


def plot(path: Path, rows: list[Row]) -> None:
    """Plots the time of a step relative to that of the step that trains the schedule by the bound:
    median and quartiles."""
    figure, (axes,) = make_figure(COLUMN, 1.9)
    places = np.arange(len(rows))[::-1]
    for place, row in zip(places, rows, strict=True):
        low, middle, high = (
            100 * (x - 1)
            for x in (row["time_ratio_quartiles"][0], row["time_ratio"],
                      row["time_ratio_quartiles"][1])
        )  # fmt: skip
        axes.errorbar(middle, place, xerr=[[middle - low], [high - middle]], fmt="o", color=BLUE,
                      markersize=4, capsize=2)  # fmt: skip
    axes.axvline(0.0, color="0.3", linewidth=0.8)
    axes.axvline(3.0, color="0.3", linewidth=0.8, linestyle="--")
    axes.set_yticks(places, [row["name"].replace("_", ", ") for row in rows])
    axes.set_ylim(-0.5, len(rows) - 0.5)
    axes.set_xlabel("time of a step against 'bound' [%]\n(bars: quartiles; dashed: 3%)")
    save_figure(figure, path)


def main() -> None:
    """Times the steps in turn, then writes results.json and schedule_cost.png."""
    flags = parse_flags(__file__)
    config = make_config(flags.scale)
    identified = identity(config, "experiments.schedule_cost.run", flags.scale)
    steps = {name: Step(config, name) for name in VARIANTS}
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for measured in range(-2, ROUNDS):  # The first two rounds are warm-up.
        order = list(steps.items())
        for name, step in order[measured % 5 :] + order[: measured % 5]:  # The first one varies.
            seconds = step.seconds()
            if measured >= 0:
                times[name].append(seconds)
    # Ratios are taken within a round, because the machine's load changes from round to round.
    ratios = {n: [a / b for a, b in zip(times[n], times["bound"], strict=True)] for n in times}
    rows = [
        identified
        | {
            "name": name,
            "step_secs": statistics.median(times[name]),
            "time_ratio": statistics.median(ratios[name]),
            "time_ratio_quartiles": statistics.quantiles(ratios[name], n=4)[::2],
            "gflops": step.flops / 1e9,
            "flops_ratio": step.flops / steps["bound"].flops,
            "seconds": sum(times[name]),
        }
        for name, step in steps.items()
    ]
    write_results(flags.outdir, rows)
    plot(flags.outdir / "schedule_cost.png", rows)
    print(format_table(rows, ("name", "step_secs", "time_ratio", "gflops", "flops_ratio")))


if __name__ == "__main__":
    main()
