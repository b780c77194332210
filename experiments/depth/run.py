"""How much is lost with few steps, in training and in evaluation? (the form of VDM's Table 2)"""

import copy
import math
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from experiments.results import Row, format_table, identity, parse_flags, write_results
from vdm.api import load_config
from vdm.compare import Result
from vdm.evaluation.statistics import standard_error
from vdm.io.plots import BLUE, GREY, VERMILLION, make_figure, save_figure
from vdm.loops import evaluate_run, train
from vdm.run import open_run

FOLDER = Path(__file__).parent.parent.parent / "configs"
TRAINED_WITH = (10, 100, 0)  # steps of the bound; 0 is continuous time
EVALUATED_WITH = (10, 30, 100, 300, 1000, 0)
SEEDS = (0, 1, 2)
BEST = (0, 0)  # trained and evaluated in continuous time: what the others are compared with


def name(num_steps: int) -> str:
    """T as the paper writes it."""
    return str(num_steps) if num_steps else "inf"


def results(config: ConfigDict, trained_with: int, outdir: Path) -> list[list[Result]]:
    """[seeds][evaluated with]: one training for each seed, evaluated in every number of steps."""
    config.model.num_steps = trained_with
    found = []
    for seed in SEEDS:
        # The same images and noise for every model of a seed, other noise for another seed.
        config.seed = config.eval.seed = seed
        config.eval.num_steps = trained_with
        workdir = outdir / "runs" / f"T{name(trained_with)}-seed{seed}"
        train(open_run(config, workdir))
        of_seed = []
        for num_steps in EVALUATED_WITH:
            config.eval.num_steps = num_steps
            evaluate_run(open_run(config, workdir))
            of_seed.append(Result(workdir))
        found.append(of_seed)
    return found


def row(trained_with: int, num_steps: int, ours: list[Result], best: list[Result]) -> Row:
    """Means over the seeds, and the paired difference to the best with its error over seeds."""
    bpds = np.array([result.bpd.mean() for result in ours])
    difference = bpds - np.array([result.bpd.mean() for result in best])
    images = [r.bpd.mean(axis=0) - b.bpd.mean(axis=0) for r, b in zip(ours, best, strict=True)]
    noise = [result.report["stderr_monte_carlo"] for result in ours]
    first = ours[0].report
    return {
        "name": f"trained {name(trained_with)}, evaluated {name(num_steps)}",
        "train_num_steps": trained_with,
        "num_steps": num_steps,
        "bpd": float(bpds.mean()),
        "stderr": math.hypot(*noise) / len(noise),
        "stderr_images": float(np.mean([result.report["stderr_images"] for result in ours])),
        "bpd_of_seeds": bpds.tolist(),
        "difference": float(difference.mean()),
        "difference_stderr_seeds": standard_error(difference),
        "difference_stderr_images": standard_error(np.mean(images, axis=0)),
        "seeds": list(SEEDS),
        "seconds": sum(result.report["train_secs"] for result in ours) / len(EVALUATED_WITH),
        **{key: first[key] for key in (
            "bound", "num_examples", "draws_per_example", "params", "step", "data_fingerprint")},
    }  # fmt: skip


def plot(path: Path, rows: list[Row]) -> None:
    """Bits/dim against T of the evaluation, a line for each T of the training."""
    figure, (axes,) = make_figure(4.2, 2.8)
    places = np.arange(len(EVALUATED_WITH))
    for steps, colour, mark in zip(TRAINED_WITH, (GREY, VERMILLION, BLUE), "s^o", strict=True):
        mine = [r for r in rows if r["train_num_steps"] == steps]
        label = f"trained with T = {steps}" if steps else "trained in continuous time"
        axes.plot(places, [r["bpd"] for r in mine], mark + "-", color=colour, label=label)
    axes.set_yscale("log")
    axes.set_yticks([2, 3, 5, 8], ["2", "3", "5", "8"])
    axes.minorticks_off()
    axes.set_xticks(places, [name(t).replace("inf", r"$\infty$") for t in EVALUATED_WITH])
    axes.set_xlabel("T of the evaluation")
    axes.set_ylabel("test bits/dim")
    axes.legend(frameon=False)
    save_figure(figure, path)


def main() -> None:
    """Trains and evaluates, writes results.json and depth.png."""
    flags = parse_flags(__file__)
    config = load_config(FOLDER / ("cifar10.py" if flags.scale == "full" else "digits.py"))
    if flags.scale == "small":
        config.train.num_steps = config.train.save_every = 1000
    config.eval.draws, config.sample.num_images, config.sample.num_steps = 20, 4, 10
    identified = identity(config, "experiments.depth.run", flags.scale)
    found = {t: results(copy.deepcopy(config), t, flags.outdir) for t in TRAINED_WITH}
    by_setting = {
        (trained, evaluated): [of_seed[i] for of_seed in found[trained]]
        for trained in TRAINED_WITH
        for i, evaluated in enumerate(EVALUATED_WITH)
    }
    rows = [
        identified | row(*setting, ours, by_setting[BEST]) for setting, ours in by_setting.items()
    ]
    write_results(flags.outdir, rows)
    plot(flags.outdir / "depth.png", rows)
    print(format_table(rows, ("name", "bpd", "stderr", "stderr_images", "difference",
                              "difference_stderr_seeds", "seconds")))  # fmt: skip


if __name__ == "__main__":
    main()
