"""What do learned end points, Fourier features and the schedule's objective each contribute?"""

import itertools
import math
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from experiments.results import Row, format_table, identity, parse_flags, write_results
from experiments.snr_ablation.collapse import collapse
from vdm.api import load_config
from vdm.compare import Result
from vdm.evaluation.statistics import standard_error
from vdm.io.plots import BLUE, GREY, VERMILLION, make_figure, save_figure
from vdm.loops import train
from vdm.run import open_run

FOLDER = Path(__file__).parent.parent.parent / "configs"
SEEDS = (0, 1, 2)
ENDS = {"learned": True, "fixed": False}
FOURIER = {"Fourier": True, "no Fourier": False}
# interior: schedule.name, schedule.train (a straight line has no interior to train)
INTERIORS = {"fixed": ("linear", "bound"), "bound": ("monotone", "bound"),
             "variance": ("monotone", "variance")}  # fmt: skip
SETTINGS = tuple(itertools.product(ENDS, FOURIER, INTERIORS))
BEST = ("learned", "Fourier", "variance")
Setting = tuple[str, str, str]


def results(config: ConfigDict, setting: Setting, outdir: Path) -> list[Result]:
    """One training for each seed."""
    ends, fourier, interior = setting
    config.schedule.kwargs.learn_ends = ENDS[ends]
    config.network.kwargs.fourier = FOURIER[fourier]
    config.schedule.name, config.schedule.train = INTERIORS[interior]
    found = []
    for seed in SEEDS:
        config.seed = config.eval.seed = seed
        workdir = outdir / "runs" / f"{ends}-{fourier.replace(' ', '-')}-{interior}-seed{seed}"
        train(open_run(config, workdir))
        found.append(Result(workdir))
    return found


def row(setting: Setting, ours: list[Result], best: list[Result]) -> Row:
    """Means over the seeds, and the paired difference to the best with its error over seeds."""
    reports = [result.report for result in ours]
    mean = {
        key: float(np.mean([report[key] for report in reports]))
        for key in ("bpd", "stderr_images", "bpd_reconstruction", "bpd_prior", "bpd_denoising",
                    "omega_0", "omega_1")
    }  # fmt: skip
    noise = [report["stderr_monte_carlo"] for report in reports]
    variances = [report["denoising_variance"] for report in reports]
    difference = np.array(
        [o.report["bpd"] - b.report["bpd"] for o, b in zip(ours, best, strict=True)]
    )
    ends, fourier, interior = setting
    return mean | {
        "name": f"ends {ends}, {fourier}, interior {interior}",
        "stderr": math.hypot(*noise) / len(noise),
        "variance": float(np.mean(variances)),
        "bpd_of_seeds": [report["bpd"] for report in reports],
        "variance_of_seeds": variances,
        "difference": float(difference.mean()),
        "difference_stderr_seeds": standard_error(difference),
        "seeds": list(SEEDS),
        "seconds": sum(report["train_secs"] for report in reports),
        **{key: reports[0][key] for key in (
            "bound", "num_examples", "draws_per_example", "params", "step", "data_fingerprint")},
    }  # fmt: skip


def plot(path: Path, rows: list[Row], falling: list[Row]) -> None:
    """Bits/dim and variance of the twelve, and the collapse of the ends."""
    figure, (left, right) = make_figure(6.75, 3.0, columns=2)
    for setting, r in zip(SETTINGS, rows, strict=True):
        ends, fourier, interior = setting
        colour = {"fixed": GREY, "bound": VERMILLION, "variance": BLUE}[interior]
        mark = {"learned": "o", "fixed": "s"}[ends]
        face = colour if fourier == "Fourier" else "white"
        error = 1.96 * standard_error(np.array(r["bpd_of_seeds"]))
        left.errorbar(
            r["variance"], r["bpd"], error, fmt=mark, color=colour, mfc=face, markersize=5
        )
    for interior, colour in (("fixed", GREY), ("bound", VERMILLION), ("variance", BLUE)):
        left.plot([], [], "o", color=colour, label=f"interior {interior}")
    left.plot([], [], "s", color="black", mfc="none", label="ends fixed")
    left.plot([], [], "o", color="black", mfc="none", label="no Fourier")
    left.set_xlabel("variance of the denoising term [(bits/dim)²]")
    left.set_ylabel("test bits/dim")
    left.legend(frameon=False)
    steps = [int(r["name"].split()[-1]) for r in falling]
    styles = {"denoising": (BLUE, "-"), "reconstruction": (VERMILLION, "--"), "prior": (GREY, ":")}
    for term, (colour, dash) in styles.items():
        right.plot(steps, [r[f"bpd_{term}"] for r in falling], dash, color=colour, label=term)
    right.set_xlabel("steps that follow the denoising term alone")
    right.set_ylabel("bits/dim")
    right.legend(frameon=False)
    save_figure(figure, path)


def main() -> None:
    """Trains and evaluates; writes results.json and snr_ablation.png."""
    flags = parse_flags(__file__)
    config = load_config(FOLDER / ("cifar10.py" if flags.scale == "full" else "digits.py"))
    if flags.scale == "small":
        config.network.kwargs.width, config.network.kwargs.num_blocks = 16, 0
        config.train.num_steps = config.train.save_every = 200
    config.eval.draws, config.sample.num_images, config.sample.num_steps = 20, 4, 10
    identified = identity(config, "experiments.snr_ablation.run", flags.scale)
    found = {setting: results(config, setting, flags.outdir) for setting in SETTINGS}
    rows = [row(setting, ours, found[BEST]) for setting, ours in found.items()]
    best = open_run(best_config(config), found[BEST][0].run)
    falling = collapse(best, best.trained_params()[1])
    falling = [{"seconds": 0.0} | r for r in falling]
    write_results(flags.outdir, [identified | r for r in (*rows, *falling)])
    plot(flags.outdir / "snr_ablation.png", rows, falling)
    print(format_table(rows, ("name", "bpd", "stderr", "variance", "difference",
                              "difference_stderr_seeds", "omega_0", "omega_1")))  # fmt: skip
    print(format_table(falling, ("name", "bpd_reconstruction", "bpd_prior", "bpd_denoising",
                                 "sum_of_terms_bpd", "omega_0", "omega_1")))  # fmt: skip


def best_config(config: ConfigDict) -> ConfigDict:
    """The config of the first run of BEST."""
    config.schedule.kwargs.learn_ends = config.network.kwargs.fourier = True
    config.schedule.name, config.schedule.train = INTERIORS[BEST[2]]
    config.seed = config.eval.seed = SEEDS[0]
    return config


if __name__ == "__main__":
    main()
