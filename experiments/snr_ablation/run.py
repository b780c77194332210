"""What do learned end points, Fourier features and the schedule's objective each contribute?"""

import itertools
from pathlib import Path

from experiments.results import Row, format_table, identity, seeds_half_width, write_results
from experiments.snr_ablation.collapse import collapse
from experiments.sweep import CONFIGS, Job, finish, mean_row, paired, parse_flags, results, seeded
from vdm.api import load_config
from vdm.io.plots import BLUE, GREY, VERMILLION, make_figure, save_figure
from vdm.runs import states
from vdm.runs.run import open_run

SEEDS = (0, 1, 2)
ENDS = {"learned": True, "fixed": False}
FOURIER = {"Fourier": True, "no Fourier": False}
# interior: (schedule.name, schedule.train); a straight line has no interior to train
INTERIORS = {"fixed": ("linear", "bound"), "bound": ("monotone", "bound"),
             "variance": ("monotone", "variance")}  # fmt: skip
SETTINGS = tuple(itertools.product(ENDS, FOURIER, INTERIORS))
BEST = ("learned", "Fourier", "variance")
Setting = tuple[str, str, str]


def make_jobs(scale: str) -> dict[Setting, list[Job]]:
    """The jobs of each setting, one for each seed."""
    jobs = {}
    for ends, fourier, interior in SETTINGS:
        config = load_config(CONFIGS / ("cifar10.py" if scale == "full" else "digits.py"))
        if scale == "small":
            config.network.kwargs.width, config.network.kwargs.num_blocks = 16, 0
            config.train.num_steps = config.train.save_every = 200
        config.eval.draws, config.sample.num_images, config.sample.num_steps = 20, 4, 10
        config.schedule.kwargs.learn_ends = ENDS[ends]
        config.network.kwargs.fourier = FOURIER[fourier]
        config.schedule.name, config.schedule.train = INTERIORS[interior]
        folder = f"{ends}-{fourier.replace(' ', '-')}-{interior}"
        jobs[ends, fourier, interior] = seeded(folder, config, SEEDS)
    return jobs


def plot(path: Path, rows: list[Row], falling: list[Row]) -> None:
    """Plots the bits/dim and variance of the twelve settings, and the collapse of the ends."""
    figure, (left, right) = make_figure(6.75, 3.0, columns=2)
    looks = {"fixed": (GREY, "s"), "bound": (VERMILLION, "^"), "variance": (BLUE, "o")}
    for (ends, fourier, interior), r in zip(SETTINGS, rows, strict=True):
        colour, mark = looks[interior]
        left.errorbar(
            r["variance"], r["bpd"], seeds_half_width(r), fmt=mark, color=colour, linewidth=0.8,
            capsize=2,
            markersize=3.5 if ends == "learned" else 8,  # The two nearly coincide.
            markerfacecolor=(colour, 0.5) if fourier == "Fourier" else "none",
        )  # fmt: skip
    for interior, (colour, mark) in looks.items():
        left.plot([], [], mark, color=colour, markersize=5, label=f"interior: {interior}")
    left.plot([], [], "D", color="black", mfc="none", markersize=6, label="large: ends fixed")
    left.plot([], [], "D", color="black", mfc="none", markersize=3.5, label="hollow: no Fourier")
    left.set_xlabel("variance of the denoising term [(bits/dim)²]")
    left.set_ylabel("test bits/dim (bars: 95% over seeds)")
    left.legend(ncols=2, handlelength=1.0, columnspacing=1.0, frameon=False,
                loc="lower left", bbox_to_anchor=(0.0, 1.0))  # fmt: skip
    steps = [int(r["name"].split()[-1]) for r in falling]
    styles = {"denoising": (BLUE, "o-"), "reconstruction": (VERMILLION, "s--"),
              "prior": (GREY, "^:")}  # fmt: skip
    for term, (colour, dash) in styles.items():
        right.plot(steps, [r[f"bpd_{term}"] for r in falling], dash, color=colour, markersize=3.5,
                   linewidth=1.2, label=term)  # fmt: skip
    right.set_xlabel("steps that follow the denoising term alone")
    right.set_ylabel("bits/dim")
    right.legend(ncols=2, frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0))
    save_figure(figure, path)


def main() -> None:
    """Trains and evaluates, then writes results.json and snr_ablation.png."""
    flags = parse_flags(__file__)
    jobs = make_jobs(flags.scale)
    identified = identity(jobs[BEST][0].config, "experiments.snr_ablation.run", flags.scale)
    if not finish([job for setting_jobs in jobs.values() for job in setting_jobs], flags):
        return
    best, rows = results(jobs[BEST], flags.outdir), []
    for (ends, fourier, interior), setting_jobs in jobs.items():
        evaluated = results(setting_jobs, flags.outdir)
        title = f"ends {ends}, {fourier}, interior {interior}"
        rows.append(
            mean_row(title, setting_jobs, evaluated, flags.outdir) | paired(evaluated, best)
        )
    first = jobs[BEST][0]
    run = open_run(first.config, flags.outdir / "runs" / first.name)
    falling = [{"seconds": 0.0} | row for row in collapse(run, states.trained_params(run)[1])]
    write_results(flags.outdir, [identified | row for row in (*rows, *falling)])
    plot(flags.outdir / "snr_ablation.png", rows, falling)
    print(format_table(rows, ("name", "bpd", "stderr", "variance", "difference",
                              "difference_stderr_seeds", "omega_0", "omega_1")))  # fmt: skip
    print(format_table(falling, ("name", "bpd_reconstruction", "bpd_prior", "bpd_denoising",
                                 "sum_of_terms_bpd", "omega_0", "omega_1")))  # fmt: skip


if __name__ == "__main__":
    main()
