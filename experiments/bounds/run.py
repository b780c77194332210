"""What does each bound say of one trained model, on the same images?"""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from experiments.results import Row, format_table, identity, write_results
from experiments.sweep import CONFIGS, finish, parse_flags, seeded
from vdm.api import load_config
from vdm.compare import Result, difference
from vdm.io.environment import commit
from vdm.io.files import read_json
from vdm.io.plots import BLUE, VERMILLION, make_figure, save_figure
from vdm.loops import evaluate_run
from vdm.run import open_run

# bound, T, draws of each image
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
    """One result for each setting."""
    found = []
    for config.eval.bound, config.eval.num_steps, config.eval.draws in SETTINGS:
        evaluate_run(open_run(config, workdir))
        found.append(Result(workdir))
    return found


def row(result: Result, elbo: Result) -> Row:
    """The number, and its paired difference to the ELBO in continuous time."""
    report = result.report
    steps = report["num_steps"] or "inf"
    paired = {} if result is elbo else difference(result, elbo)
    return {
        "name": report["bound"] + ("" if report["bound"].startswith("ode") else f" T={steps}"),
        "stderr": report["stderr_monte_carlo"],
        "seconds": report["eval_secs"],
        **{key: report[key] for key in KEYS if key in report},
        **{key: value for key, value in paired.items() if key != "shared_noise"},
    }


def plot(path: Path, rows: list[Row]) -> None:
    """The bounds side by side, with 95% intervals over noise."""
    figure, (axes,) = make_figure(5.0, 2.6)
    places = np.arange(len(rows))[::-1]
    colours = [VERMILLION if row["bound"].startswith("ode") else BLUE for row in rows]
    widths = [row["bpd"] for row in rows]
    axes.barh(places, widths, color=colours, xerr=[1.96 * row["stderr"] for row in rows])
    axes.set_yticks(places, [row["name"] for row in rows])
    for place, row in zip(places, rows, strict=True):
        axes.text(0.03, place, f"{row['bpd']:.3f}", va="center", color="white", fontsize=7)
    axes.set_xlabel("test bits/dim (blue: ancestral steps, red: the flow)")
    save_figure(figure, path)


def main() -> None:
    """Trains, evaluates, writes results.json and bounds.png."""
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
                              "difference", "difference_stderr_images", "seconds")))  # fmt: skip


if __name__ == "__main__":
    main()
