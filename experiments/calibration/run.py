"""Are the standard errors right? Repeated evaluations of one small model, and how often their
95% interval holds the long-run mean."""

import json
import time
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from scipy.stats import t as student

from experiments.results import Row, format_table, identity, parse_flags, write_results
from vdm.api import Model, load, load_config
from vdm.evaluation.statistics import num_strata
from vdm.io.plots import BLUE, GREY, make_figure, save_figure
from vdm.loops import train
from vdm.run import open_run

CONFIG = Path(__file__).parent.parent.parent / "configs" / "digits.py"
# bound, steps, draws, images
SETTINGS = (
    ("elbo", 0, 20, 297),
    ("elbo", 100, 10, 297),
    ("iw-4", 5, 10, 20),
    ("ode-decoder", 0, 4, 20),
)


def small_model(outdir: Path, config: ConfigDict) -> Model:
    """A network of a few thousand parameters, trained for seconds."""
    workdir = outdir / "runs" / "small"
    train(open_run(config, workdir))
    return load(workdir)


def coverage(model: Model, images: np.ndarray, setting: tuple, repetitions: int) -> Row:
    """Repeated evaluations with other noise, on the same images."""
    bound, num_steps, draws, num_images = setting
    freedom = draws - (num_strata(draws) if bound == "elbo" else 1)
    start = time.monotonic()
    found = [
        model.bpd(images[:num_images], bound=bound, num_steps=num_steps, draws=draws, seed=seed)
        for seed in range(repetitions)
    ]
    means = np.array([result.mean for result in found])
    errors = np.array([result.stderr_monte_carlo for result in found])
    inside = np.abs(means - means.mean()) <= student.ppf(0.975, freedom) * errors
    return {
        "name": f"{bound} T={num_steps or 'inf'} draws={draws}",
        "bound": bound,
        "num_steps": num_steps,
        "draws_per_example": draws,
        "num_examples": num_images,
        "repetitions": repetitions,
        "degrees_of_freedom": freedom,
        "bpd": float(means.mean()),
        "stderr": float(means.std(ddof=1) / np.sqrt(repetitions)),
        "coverage": float(inside.mean()),
        "stderr_claimed": float(np.sqrt(np.mean(errors**2))),
        "stderr_measured": float(means.std(ddof=1)),
        "seconds": time.monotonic() - start,
        "means": means.tolist(),
        "errors": errors.tolist(),
    }


def plot(path: Path, row: Row) -> None:
    """The intervals of one setting around its long-run mean, in order."""
    figure, (axes,) = make_figure(6.0, 2.4)
    means, errors = np.array(row["means"]), np.array(row["errors"])
    order = np.argsort(means)
    half = student.ppf(0.975, row["degrees_of_freedom"]) * errors[order]
    axes.errorbar(np.arange(len(means)), means[order], half, fmt=".", color=BLUE, linewidth=0.7,
                  markersize=2)  # fmt: skip
    axes.axhline(row["bpd"], color=GREY, linestyle="--", linewidth=1)
    axes.set_xlabel(f"{len(means)} evaluations, sorted ({row['name']})")
    axes.set_ylabel("bits/dim, 95% interval")
    save_figure(figure, path)


def main() -> None:
    """Evaluates again and again, writes results.json and calibration.png."""
    flags = parse_flags(__file__)
    config = load_config(CONFIG)
    config.network.kwargs.width, config.network.kwargs.num_blocks = 8, 1
    config.train.num_steps = 300
    config.eval.ode.num_steps = 5
    identified = identity(config, "experiments.calibration.run", flags.scale)
    model = small_model(flags.outdir, config)
    test = model.run.source.load("test")
    repetitions = 200 if flags.scale == "small" else 1000
    rows = []
    for setting in SETTINGS:
        row = coverage(model, test.examples, setting, repetitions)
        print(json.dumps({key: row[key] for key in ("name", "coverage", "seconds")}), flush=True)
        rows.append(identified | row | {"data_fingerprint": test.fingerprint})
    plot(flags.outdir / "calibration.png", rows[0])
    rows = [{k: v for k, v in row.items() if k not in ("means", "errors")} for row in rows]
    write_results(flags.outdir, rows)
    print(format_table(rows, ("name", "bpd", "coverage", "stderr_claimed", "stderr_measured",
                              "seconds")))  # fmt: skip


if __name__ == "__main__":
    main()
