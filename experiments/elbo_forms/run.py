"""Do both forms of the bound agree, which is less noisy, and what does the printed formula give?"""

import math
import time

import numpy as np

from experiments.elbo_forms import four_steps
from experiments.elbo_forms.estimates import (
    PRIORS,
    bound,
    describe,
    moments,
    monte_carlo_error,
    on_examples,
    variance_error,
)
from experiments.elbo_forms.figure import plot_forms
from experiments.results import Row, format_table, identity, write_results
from experiments.sweep import CONFIGS, finish, parse_flags, seeded
from vdm.api import Model, load, load_config
from vdm.evaluation.statistics import standard_error
from vdm.io.atomic import read_json

CONFIG = CONFIGS / "digits.py"
STEPS = {"small": (8, 32), "full": (8, 32, 128, 1000)}
PATHS = {"small": 20, "full": 100}
LEVELS = {"small": 200, "full": 1000}
COLUMNS = ("name", "nats", "stderr_nats", "reconstruction", "prior", "matching")
VARIANCES = ("name", "variance_path", "variance_one_level", "variance_bound")


def four_step_rows(num_paths: int) -> list[Row]:
    """The rows of the four-step example: exact by quadrature, with a Monte-Carlo error of the
    bound."""
    terms, weights = four_steps.by_quadrature()
    sampled, rows = four_steps.by_monte_carlo(num_paths), []
    for form in PRIORS:
        levels = getattr(terms.levels, form)[..., 0]
        of_one_level = len(levels[0]) * weights @ levels**2
        rows.append({
            "name": f"four_steps_{form}",
            **describe(terms, form, weights),
            "variance_one_level": float(of_one_level.sum() - (weights @ levels).sum() ** 2),
            "nats_monte_carlo": moments(bound(sampled, form))[0],
            "stderr_nats": monte_carlo_error(bound(sampled, form)),
            "paths": num_paths,
        })  # fmt: skip
    return rows


def digits_rows(model: Model, num_steps: int, scale: str) -> list[Row]:
    """The rows of the trained model on the test split at T = num_steps, and of the paired
    difference between the forms."""
    start = time.perf_counter()
    split = model.run.source.load("test")
    terms, one_level = on_examples(model, split, num_steps, PATHS[scale], LEVELS[scale])
    bits = 1 / (split.examples[0].size * math.log(2))  # bits/dim per nat
    shared = {
        "num_steps": num_steps, "paths": PATHS[scale], "levels": LEVELS[scale],
        "num_examples": len(split.examples), "step": model.step, "seeds": [0],
        "data_fingerprint": split.fingerprint,
    }  # fmt: skip

    def errors(values: np.ndarray) -> Row:
        nats, stderr = moments(values)[0], monte_carlo_error(values)
        return {
            "nats": nats,
            "stderr_nats": stderr,
            "bpd": nats * bits,
            "stderr": stderr * bits,
            "stderr_images": standard_error(values.mean(axis=0)) * bits,
            "variance_bound": moments(values)[1],
            "stderr_variance_bound": variance_error(values),
        }

    rows = []
    for form in PRIORS:
        single = getattr(one_level, form)
        mean, variance = moments(single)
        rows.append({
            "name": f"digits_T{num_steps}_{form}",
            **describe(terms, form),
            **errors(bound(terms, form)),
            "matching_one_level": mean,
            "stderr_one_level": monte_carlo_error(single),
            "variance_one_level": variance,
            "stderr_variance_one_level": variance_error(single),
            "stderr_variance_path": variance_error(getattr(terms.levels, form).sum(axis=1)),
        })  # fmt: skip
    difference = bound(terms, "consistency") - bound(terms, "denoising")
    name = f"digits_T{num_steps}_consistency_minus_denoising"
    rows.append({"name": name, "bound": "difference", **errors(difference)})
    seconds = time.perf_counter() - start
    return [row | shared | {"seconds": seconds} for row in rows]


def main() -> None:
    """Trains the model and measures both forms, then writes results.json and the figure."""
    flags = parse_flags(__file__)
    config = load_config(CONFIG)
    identified = identity(config, "experiments.elbo_forms.run", flags.scale)
    jobs = seeded("model", config, (0,))
    if not finish(jobs, flags):
        return
    workdir = flags.outdir / "runs" / jobs[0].name
    start = time.perf_counter()
    rows = four_step_rows(2_000_000)
    rows = [row | {"seconds": time.perf_counter() - start} for row in rows]
    model = load(workdir)
    trained = {
        "train_secs": read_json(workdir / "eval.json")["train_secs"],
        "train_commit": read_json(workdir / "environment.json")["commit"],
    }
    for num_steps in STEPS[flags.scale]:
        rows += [row | trained for row in digits_rows(model, num_steps, flags.scale)]
    rows = [identified | row for row in rows]
    write_results(flags.outdir, rows)
    plot_forms(flags.outdir / "elbo_forms.png", {row["name"]: row for row in rows}, 32)
    print(format_table(rows, COLUMNS), format_table(rows, VARIANCES), sep="\n\n")


if __name__ == "__main__":
    main()
