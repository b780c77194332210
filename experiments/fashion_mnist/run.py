"""How many bits/dim does a small network reach on Fashion-MNIST in minutes on a CPU, and how many
with the settings of the published code?"""

import shutil
from pathlib import Path

from ml_collections import ConfigDict

from experiments.results import Row, format_table, identity, write_results
from experiments.sweep import CONFIGS, finish, mean_row, parse_flags, results, seeded
from vdm.api import load_config
from vdm.compare import difference
from vdm.io.metrics_log import read_metrics
from vdm.io.plots import BLUE, VERMILLION, make_figure, save_figure

CONFIG = CONFIGS / "fashion_mnist.py"
PRESETS = ("cpu", "peer")
PICTURES = ("samples.png", "omega.png", "loss_density.png")


def make_config(name: str, scale: str) -> ConfigDict:
    """The config of a row: "cpu" is the preset, "peer" the same network with the settings of the
    published code."""
    config = load_config(CONFIG, name)
    if scale == "full":  # both of the size of "gpu1h", for an accelerator
        budget = load_config(CONFIG, "gpu1h")
        config.train.update(budget.train)
        for field in ("width", "num_blocks", "dtype", "remat"):
            config.network.kwargs[field] = budget.network.kwargs[field]
        config.eval.draws = budget.eval.draws
    return config


def plot(path: Path, runs: list[Path], rows: list[Row]) -> None:
    """Plots the bound on the training images, nearly all of them seen once, against time, and the
    bound on the test images."""
    figure, (axes,) = make_figure(3.3, 2.5)
    for run, row, colour, mark in zip(runs, rows, (BLUE, VERMILLION), "os", strict=True):
        lines = [line for line in read_metrics(run) if "train/bpd" in line]
        minutes = [line["time_secs"] / 60 for line in lines]
        curve = [line["train/bpd"] for line in lines]
        axes.plot(minutes, curve, color=colour, linewidth=1.0, marker=mark, markersize=3,
                  markevery=(4, 5), label=f"{row['name']}: training")  # fmt: skip
        axes.axhline(row["bpd"], color=colour, linewidth=0.8,
                     linestyle="--" if mark == "o" else "-.",
                     label=f"{row['name']}: test, {row['bpd']:.3f}")  # fmt: skip
    axes.set_ylim(2.8, 6.0)
    axes.set_xlim(left=0.0)
    axes.set_xlabel("time of training [minutes]")
    axes.set_ylabel("bits/dim")
    figure.legend(frameon=False, loc="outside upper center", ncols=2, handlelength=1.6,
                  columnspacing=1.0)  # fmt: skip
    save_figure(figure, path)


def main() -> None:
    """Trains and evaluates, then writes results.json and the pictures of the first row."""
    flags = parse_flags(__file__)
    jobs = [seeded(name, make_config(name, flags.scale), (0,)) for name in PRESETS]
    identified = identity(jobs[0][0].config, "experiments.fashion_mnist.run", flags.scale)
    if not finish([job for of_preset in jobs for job in of_preset], flags):
        return
    rows = [
        identified | mean_row(name, of_preset, results(of_preset, flags.outdir), flags.outdir)
        for name, of_preset in zip(PRESETS, jobs, strict=True)
    ]
    (cpu,), (peer,) = (results(of_preset, flags.outdir) for of_preset in jobs)
    rows[1] |= {k: v for k, v in difference(peer, cpu).items() if k.startswith("difference")}
    for picture in PICTURES:
        shutil.copy(cpu.run / picture, flags.outdir / picture)
    plot(flags.outdir / "fashion_mnist.png", [cpu.run, peer.run], rows)
    write_results(flags.outdir, rows)
    print(format_table(rows, ("name", "bpd", "stderr", "stderr_images", "difference",
                              "difference_stderr_images", "bound", "train_secs",
                              "stderr_degrees")))  # fmt: skip


if __name__ == "__main__":
    main()
