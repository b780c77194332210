"""What does each bound say about one trained model, on the same images?"""

import re
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from experiments.results import Row, format_table, identity, write_results
from experiments.sweep import CONFIGS, finish, parse_flags, seeded
from vdm.api import load_config
from vdm.compare import Result, difference
from vdm.evaluation.statistics import half_width
from vdm.io.atomic import read_json
from vdm.io.environment import commit
from vdm.io.plots import BLUE, GREEN, ORANGE, PAGE, PURPLE, VERMILLION, make_figure, save_figure
from vdm.runs.evaluate import evaluate_run
from vdm.runs.run import open_run

# (bound, T, draws of each image)
SETTINGS = (
    ("elbo", 0, 100),
    ("elbo", 100, 100),
    ("elbo", 10, 100),
    ("iw-8", 10, 2),
    ("iw-64", 10, 2),
    ("ode-decoder", 0, 2),
    ("ode-truncated-normal", 0, 2),
    ("ode-uniform", 0, 2),
)
KEYS = (
    "bpd", "stderr_images", "bound", "num_steps", "num_examples", "draws_per_example", "params",
    "step", "data_fingerprint", "K", "divergence", "stderr_hutchinson", "ode_solver",
)  # fmt: skip


def evaluated(config: ConfigDict, workdir: Path) -> list[Result]:
    """Evaluates the run with each setting in turn and returns one result for each."""
    results = []
    for config.eval.bound, config.eval.num_steps, config.eval.draws in SETTINGS:
        evaluate_run(open_run(config, workdir))
        results.append(Result(workdir))
    return results


def row(result: Result, elbo: Result) -> Row:
    """The row of one bound, with its paired difference from the ELBO in continuous time."""
    report = result.report
    steps = report["num_steps"] or "inf"
    paired = {} if result is elbo else difference(result, elbo)
    return {
        "name": report["bound"] + ("" if report["bound"].startswith("ode") else f" T={steps}"),
        "stderr": result.noise.stderr,
        "stderr_degrees": result.noise.degrees,
        "seconds": report["eval_secs"],
        **{key: report[key] for key in KEYS if key in report},
        **{key: value for key, value in paired.items() if key != "shared_noise"},
    }


def plot(path: Path, rows: list[Row]) -> None:
    """Plots the bounds next to each other, with 95% intervals over noise."""
    figure, (axes,) = make_figure(PAGE, 2.3)
    styles = {"elbo": (BLUE, "o"), "ode-decoder": (VERMILLION, "s"), "ode-uniform": (ORANGE, "D"),
              "ode-truncated-normal": (PURPLE, "v")}  # fmt: skip
    places = np.arange(len(rows))[::-1]
    for place, row in zip(places, rows, strict=True):
        colour, mark = styles.get(row["bound"], (GREEN, "^"))
        error = half_width(row["stderr"], row["stderr_degrees"])
        axes.errorbar(row["bpd"], place, xerr=error, fmt=mark, color=colour, markersize=4,
                      capsize=3)  # fmt: skip
        end = row["bpd"] + np.nan_to_num(error)
        axes.annotate(f"{row['bpd']:.3f}", (end, place), (5, 0), va="center", fontsize=7,
                      textcoords="offset points")  # fmt: skip
    axes.margins(x=0.08)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    names = [row["name"].replace("T=inf", "$T = \\infty$") for row in rows]
    axes.set_yticks(places, [re.sub(r"T=(\d+)", r"$T = \1$", name) for name in names])
    axes.set_xlabel("bound of the test split [bits/dim] (bars: 95% over noise)")
    save_figure(figure, path)


def main() -> None:
    """Trains and evaluates, then writes results.json and bounds.png."""
    flags = parse_flags(__file__)
    config = load_config(CONFIGS / ("cifar10.py" if flags.scale == "full" else "digits.py"))
    identified = identity(config, "experiments.bounds.run", flags.scale)
    jobs = seeded("model", config, (0,))
    if not finish(jobs, flags):
        return
    workdir = flags.outdir / "runs" / jobs[0].name
    results = evaluated(jobs[0].config, workdir)
    trained = read_json(workdir / "environment.json")["commit"] or commit()
    rows = [identified | {"train_commit": trained} | row(r, results[0]) for r in results]
    write_results(flags.outdir, rows)
    plot(flags.outdir / "bounds.png", rows)
    print(format_table(rows, ("name", "bpd", "stderr", "stderr_images", "stderr_hutchinson",
                              "difference", "difference_stderr_images", "stderr_degrees",
                              "seconds")))  # fmt: skip


if __name__ == "__main__":
    main()
