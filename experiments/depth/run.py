"""How much do few steps cost, in training and in evaluation? (the form of VDM's Table 2)"""

from pathlib import Path

import numpy as np

from experiments.results import Row, format_table, identity, seeds_half_width, write_results
from experiments.sweep import CONFIGS, Job, finish, mean_row, paired, parse_flags, results, seeded
from vdm.api import load_config
from vdm.io.plots import BLUE, GREY, VERMILLION, make_figure, save_figure

TRAINED_WITH = (10, 100, 0)  # steps of the bound in training; 0 is continuous time
EVALUATED_WITH = (10, 30, 100, 300, 1000, 0)
SEEDS = (0, 1, 2)
BEST = (0, 0)  # trained and evaluated in continuous time: what the others are compared with


def name(num_steps: int) -> str:
    """T as the paper writes it: the number of steps, or "inf"."""
    return str(num_steps) if num_steps else "inf"


def make_jobs(scale: str) -> dict[int, list[Job]]:
    """The jobs for each T of the training: one for each seed, evaluated with every T."""
    jobs = {}
    for num_steps in TRAINED_WITH:
        config = load_config(CONFIGS / ("cifar10.py" if scale == "full" else "digits.py"))
        if scale == "small":
            config.train.num_steps = config.train.save_every = 1000
        config.eval.draws, config.sample.num_images, config.sample.num_steps = 20, 4, 10
        config.model.num_steps = config.eval.num_steps = num_steps
        jobs[num_steps] = seeded(
            f"T{name(num_steps)}", config, SEEDS, evaluated_with=EVALUATED_WITH
        )
    return jobs


def plot(path: Path, rows: list[Row]) -> None:
    """Plots bits/dim against T of the evaluation, with one line for each T of the training and 95%
    intervals over seeds."""
    figure, (axes,) = make_figure(3.3, 2.5)
    places = np.arange(len(EVALUATED_WITH))
    styles = ((GREY, "s:"), (VERMILLION, "^--"), (BLUE, "o-"))
    for steps, (colour, style) in zip(TRAINED_WITH, styles, strict=True):
        mine = [r for r in rows if r["train_num_steps"] == steps]
        error = [seeds_half_width(r) for r in mine]
        axes.errorbar(places, [r["bpd"] for r in mine], error, fmt=style, color=colour,
                      markersize=4, linewidth=1.2, capsize=2,
                      label=f"$T$ = {name(steps).replace('inf', chr(0x221E))}")  # fmt: skip
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    ticks = [t for t in (1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 8, 10, 15, 20) if low <= t <= high]
    axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    axes.set_xticks(places, [name(t).replace("inf", r"$\infty$") for t in EVALUATED_WITH])
    axes.set_xlabel("steps $T$ of the evaluation")
    axes.set_ylabel("test bits/dim (bars: 95% over seeds)")
    axes.legend(frameon=False, title="training with", alignment="left")
    save_figure(figure, path)


def main() -> None:
    """Trains and evaluates, then writes results.json and depth.png."""
    flags = parse_flags(__file__)
    jobs = make_jobs(flags.scale)
    identified = identity(jobs[0][0].config, "experiments.depth.run", flags.scale)
    if not finish([job for step_jobs in jobs.values() for job in step_jobs], flags):
        return
    best = results(jobs[BEST[0]], flags.outdir, BEST[1])
    rows = []
    for trained, step_jobs in jobs.items():
        for num_steps in EVALUATED_WITH:
            evaluated = results(step_jobs, flags.outdir, num_steps)
            title = f"trained {name(trained)}, evaluated {name(num_steps)}"
            row = mean_row(title, step_jobs, evaluated, flags.outdir) | paired(evaluated, best)
            rows.append(identified | row | {"train_num_steps": trained})
    write_results(flags.outdir, rows)
    plot(flags.outdir / "depth.png", rows)
    print(format_table(rows, ("name", "bpd", "stderr", "stderr_images", "difference",
                              "difference_stderr_seeds", "seconds")))  # fmt: skip


if __name__ == "__main__":
    main()
