"""How many bits/dim does a small network reach on Fashion-MNIST in minutes on a CPU, and how many
with the settings of the published code?"""

import json
import shutil
from pathlib import Path

from ml_collections import ConfigDict

from experiments.results import Row, format_table, identity, parse_flags, write_results
from vdm.api import load_config
from vdm.compare import Result, compare
from vdm.io.metrics import read_metrics
from vdm.io.plots import BLUE, VERMILLION, make_figure, save_figure
from vdm.loops import train
from vdm.run import open_run

CONFIG = Path(__file__).parent.parent.parent / "configs" / "fashion_mnist.py"
PICTURES = ("samples.png", "omega.png", "loss_density.png")


def make_config(name: str, scale: str) -> ConfigDict:
    """The preset "cpu", or "peer": the same network with the settings of the published code."""
    config = load_config(CONFIG, name)
    if scale == "full":  # both of the size of "gpu1h", for an accelerator
        budget = load_config(CONFIG, "gpu1h")
        config.train.update(budget.train)
        for field in ("width", "num_blocks", "dtype", "remat"):
            config.network.kwargs[field] = budget.network.kwargs[field]
        config.eval.draws = budget.eval.draws
    return config


def row_of(name: str, config: ConfigDict, outdir: Path) -> Row:
    """Trains and evaluates on the test split; a finished run in outdir is not trained again."""
    workdir = outdir / "runs" / name
    train(open_run(config, workdir))
    report = json.loads((workdir / "eval.json").read_text())
    kept = ("bpd", "stderr_images", "bpd_reconstruction", "bpd_prior", "bpd_denoising", "bound",
            "num_steps", "num_examples", "draws_per_example", "params", "step", "train_secs",
            "data_fingerprint")  # fmt: skip
    return {key: report[key] for key in kept} | {
        "name": name,
        "commit": json.loads((workdir / "environment.json").read_text())["commit"],
        "stderr": report["stderr_monte_carlo"],
        "seconds": report["train_secs"] + report["eval_secs"],
        "seeds": [report["seed"]],
    }


def plot(path: Path, outdir: Path, rows: list[Row]) -> None:
    """The bound of the training images, nearly all of them seen once, over time; the test's."""
    figure, (axes,) = make_figure(4.6, 2.8)
    for row, colour in zip(rows, (BLUE, VERMILLION), strict=True):
        lines = [r for r in read_metrics(outdir / "runs" / row["name"]) if "train/bpd" in r]
        minutes = [line["time_secs"] / 60 for line in lines]
        curve = [line["train/bpd"] for line in lines]
        axes.plot(minutes, curve, color=colour, linewidth=1.0, label=f"{row['name']}, training")
        axes.axhline(row["bpd"], color=colour, linestyle="--", linewidth=0.8,
                     label=f"{row['name']}, test {row['bpd']:.3f}")  # fmt: skip
    axes.set_ylim(2.8, 6.0)
    axes.set_xlabel("minutes of training")
    axes.set_ylabel("bits/dim")
    axes.legend(fontsize=7)
    save_figure(figure, path)


def main() -> None:
    """Trains, evaluates, writes results.json and the pictures."""
    flags = parse_flags(__file__)
    rows = []
    for name in ("cpu", "peer"):
        config = make_config(name, flags.scale)
        identified = identity(config, "experiments.fashion_mnist.run", flags.scale)
        rows.append(identified | row_of(name, config, flags.outdir))
    _, peer = compare([Result(flags.outdir / "runs" / row["name"]) for row in rows])
    rows[1] |= {key: value for key, value in peer.items() if key.startswith("difference")}
    for picture in PICTURES:
        shutil.copy(flags.outdir / "runs" / "cpu" / picture, flags.outdir / picture)
    plot(flags.outdir / "fashion_mnist.png", flags.outdir, rows)
    write_results(flags.outdir, rows)
    print(format_table(rows, ("name", "bpd", "stderr", "stderr_images", "difference",
                              "difference_stderr_images", "bound", "train_secs")))  # fmt: skip


if __name__ == "__main__":
    main()
