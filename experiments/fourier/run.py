"""What do Fourier features of the latent gain? (the form of VDM's ablation, its Figure 5)"""

from pathlib import Path

import numpy as np

from experiments.results import Row, format_table, identity, write_results
from experiments.sweep import CONFIGS, Job, finish, mean_row, paired, parse_flags, results, seeded
from vdm.api import load_config
from vdm.evaluation.statistics import half_width
from vdm.io.metrics_log import read_metrics
from vdm.io.plots import BLUE, COLUMN, PAGE, VERMILLION, make_figure, save_figure

SEEDS = {"small": {"digits": (0, 1, 2), "fashion_mnist": (0,)}, "full": {"cifar10": (0, 1, 2)}}
SETTINGS = {"Fourier": True, "no Fourier": False}
COLUMNS = ("name", "step", "bpd", "stderr", "stderr_images", "stderr_seeds", "difference",
           "difference_stderr_seeds", "difference_stderr_images", "seconds",
           "stderr_degrees")  # fmt: skip


def make_jobs(scale: str) -> dict[tuple[str, str], list[Job]]:
    """The jobs of each data set and setting, one for each seed."""
    jobs = {}
    for data, seeds in SEEDS[scale].items():
        for setting, fourier in SETTINGS.items():
            config = load_config(CONFIGS / f"{data}.py")
            config.network.kwargs.fourier = fourier
            name = f"{data}-{setting.replace(' ', '-')}"
            jobs[data, setting] = seeded(name, config, seeds)
    return jobs


def curve(jobs: list[Job], outdir: Path) -> tuple[np.ndarray, np.ndarray]:
    """The steps that were logged, and at each the mean over seeds of the training bound since the
    step logged before, bits/dim."""
    logs = [read_metrics(outdir / "runs" / job.name) for job in jobs]
    lines = [[line for line in log if "train/bpd" in line] for log in logs]
    steps = np.array([line["step"] for line in lines[0]])
    return steps, np.mean([[line["train/bpd"] for line in logged] for logged in lines], axis=0)


def plot(path: Path, jobs: dict[tuple[str, str], list[Job]], rows: list[Row], outdir: Path) -> None:
    """Plots the training bound against the steps, and the final test bound with a 95% interval over
    images."""
    names = list(dict.fromkeys(data for data, _ in jobs))
    figure, panels = make_figure(PAGE if len(names) > 1 else COLUMN, 2.6, len(names))
    styles = {"Fourier": (BLUE, "-", "o"), "no Fourier": (VERMILLION, "--", "s")}
    by_name = {row["name"]: row for row in rows}
    for data, axes in zip(names, panels, strict=True):
        least = []
        for setting, (colour, dash, mark) in styles.items():
            steps, bound = curve(jobs[data, setting], outdir)
            axes.plot(steps, bound, dash, color=colour, linewidth=1.0, label=setting)
            row = by_name[f"{data}, {setting}"]
            error = half_width(row["stderr_images"], row["num_examples"] - 1)
            axes.errorbar(steps[-1] * 1.02, row["bpd"], error, fmt=mark,
                          color=colour, markersize=4, label=f"test {row['bpd']:.3f}")  # fmt: skip
            least.append(min(bound.min(), row["bpd"]))
        axes.set_ylim(min(least) - 0.05, min(least) + 1.0)
        axes.set_title(data)
        axes.set_xlabel("training step")
        axes.set_ylabel("bits/dim")
        axes.legend(frameon=False, fontsize=7)
    save_figure(figure, path)


def main() -> None:
    """Trains and evaluates, then writes results.json and fourier.png."""
    flags = parse_flags(__file__)
    jobs, rows = make_jobs(flags.scale), []
    first = next(iter(jobs.values()))[0].config
    identified = identity(first, "experiments.fourier.run", flags.scale)
    if not finish([job for setting_jobs in jobs.values() for job in setting_jobs], flags):
        return
    for (data, setting), setting_jobs in jobs.items():
        evaluated = results(setting_jobs, flags.outdir)
        row = mean_row(f"{data}, {setting}", setting_jobs, evaluated, flags.outdir)
        reference = results(jobs[data, "Fourier"], flags.outdir)
        rows.append(identified | row | paired(evaluated, reference))
    write_results(flags.outdir, rows)
    plot(flags.outdir / "fourier.png", jobs, rows, flags.outdir)
    print(format_table(rows, COLUMNS))


if __name__ == "__main__":
    main()
