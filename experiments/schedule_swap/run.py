"""Does the evaluation of a trained model depend on the schedule, and how noisy is each schedule?"""

import dataclasses
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.results import Row, format_table, identity, write_results
from experiments.sweep import CONFIGS, Job, finish, open_runs, parse_flags, seeded
from vdm.api import load_config
from vdm.diffusion.schedule_algebra import stretched
from vdm.evaluation.bits_per_dim import Evaluation
from vdm.evaluation.diagnostics import diagnose
from vdm.io.atomic import read_json
from vdm.io.plots import BLUE, GREY, VERMILLION, make_figure, save_figure
from vdm.nn.schedules import BetaLinear, Cosine, Linear
from vdm.runs import states
from vdm.runs.evaluate import run_evaluation
from vdm.runs.run import Run
from vdm.typing import Params

SEEDS = (0, 1, 2)
# Draws of each image: many on the first seed, so that each error is at most 0.002 bits/dim (the
# beta-linear schedule varies 30 times as much as the learned one).
DRAWS = {0: 6400, 1: 200, 2: 200}
TRAINED = ("bound", "variance")  # schedule.train of the monotone network
SCHEDULES = ("linear", "cosine", "beta_linear", "bound", "variance")
COLOURS = {"linear": GREY, "cosine": "#E69F00", "beta_linear": "#009E73", "bound": VERMILLION,
           "variance": BLUE}  # fmt: skip


def make_jobs(scale: str) -> dict[str, list[Job]]:
    """The jobs for each objective of the schedule: one training for each seed."""
    jobs = {}
    for name in TRAINED:
        config = load_config(CONFIGS / ("cifar10.py" if scale == "full" else "digits.py"))
        if scale == "small":  # a network three times faster, for the many draws
            config.network.kwargs.width, config.network.kwargs.num_blocks = 16, 0
            config.train.num_steps = config.train.save_every = 600
        config.eval.draws, config.sample.num_images, config.sample.num_steps = 20, 4, 10
        config.schedule.train = name
        jobs[name] = seeded(name, config, SEEDS)
    return jobs


class StretchedBetaLinear(nn.Module):
    """The beta-linear schedule with its own ends, -9.21 and 10, mapped linearly to other ends: for
    ends that it cannot reach, such as CIFAR-10's -13.3."""

    omega_0: float
    omega_1: float

    @nn.compact
    def __call__(self, t: Array) -> Array:
        """Computes omega(t)."""
        ends = jnp.asarray(self.omega_0, t.dtype), jnp.asarray(self.omega_1, t.dtype)
        return stretched(BetaLinear(parent=None).bind({}), *ends)(t)


def beta_linear(omega_0: float, omega_1: float) -> nn.Module:
    """The beta-linear schedule between these ends: re-timed if it reaches them, else stretched."""
    kind = BetaLinear if omega_0 > BetaLinear.omega_0 else StretchedBetaLinear
    return kind(omega_0, omega_1)


def swapped(name: str, run: Run, params: Params, other: Params) -> tuple[Run, Params]:
    """The trained model with the schedule of that name between the model's own ends. `other` are
    the parameters of the model whose schedule was trained by the bound."""
    if name == "variance":
        return run, params
    if name == "bound":  # The interior of the other schedule, the ends of this model.
        return run, params | {"schedule": other["schedule"] | {"ends": params["schedule"]["ends"]}}
    omega_0, omega_1 = (float(w) for w in run.vdm.schedule_fn(params)(jnp.array([0.0, 1.0])))
    module = {
        "linear": Linear(omega_0, omega_1, learn_ends=False),
        "cosine": Cosine(omega_0, omega_1, learn_ends=False),
        "beta_linear": beta_linear(omega_0, omega_1),
    }[name]
    model = dataclasses.replace(run.vdm, schedule=module)
    return dataclasses.replace(run, model=model), params | {"schedule": {}}


def differences(ours: Evaluation, theirs: Evaluation) -> tuple[float, float]:
    """The mean paired difference on the same images and noise, bits/dim, and its Monte-Carlo
    error."""
    nats = ours.total - theirs.total
    return float(ours.bpd(nats).mean()), ours.monte_carlo_error(nats).stderr


def summary(evaluations: list[Evaluation]) -> Row:
    """The columns of the first seed's evaluation, which is the most exact, and lists over all
    seeds."""
    reports: list[dict[str, Any]] = [e.summary() for e in evaluations]
    first = reports[0]
    return {
        "bpd": first["bpd"],
        "stderr": first["stderr_monte_carlo"],
        "stderr_degrees": first["stderr_degrees"],
        "stderr_images": first["stderr_images"],
        "variance": first["denoising_variance"],
        "bpd_of_seeds": [r["bpd"] for r in reports],
        "stderr_of_seeds": [r["stderr_monte_carlo"] for r in reports],
        "variance_of_seeds": [r["denoising_variance"] for r in reports],
        "bound": "elbo",
        "num_examples": first["num_examples"],
        "draws_of_seeds": [r["draws_per_example"] for r in reports],
        "seeds": list(SEEDS),
    }


def swap_row(name: str, evaluations: dict[str, list[Evaluation]]) -> Row:
    """The row of one schedule on the three checkpoints, compared with the other four."""
    pairs = [
        differences(ours, theirs)
        for other in SCHEDULES
        if other != name
        for ours, theirs in zip(evaluations[name], evaluations[other], strict=True)
    ]
    row, line = summary(evaluations[name]), summary(evaluations["linear"])
    to_variance, error = differences(evaluations[name][0], evaluations["variance"][0])
    ratios = np.divide(row["variance_of_seeds"], line["variance_of_seeds"])
    return {"name": name} | row | {
        "difference_to_variance": to_variance,
        "difference_stderr": error,
        "largest_difference_in_stderrs": max(abs(d) / error for d, error in pairs),
        "variance_to_linear": ratios.tolist(),
    }  # fmt: skip


def attainable(evaluation: Evaluation) -> float:
    """The least variance that any schedule can have on this model, estimated from draws with a
    schedule that covers omega evenly."""
    columns = evaluation.columns
    density, term = (evaluation.bpd(columns[k]) for k in ("loss_density", "denoising_matching"))
    return diagnose(columns["omega_t"], density, term).optimal_variance


def plot(path: Path, omegas: dict[str, np.ndarray], rows: list[Row]) -> None:
    """Plots the five schedules of the first seed, and the variance of each."""
    figure, (left, right) = make_figure(6.75, 2.6, columns=2)
    places = np.arange(len(SCHEDULES))[::-1]
    dashes: dict[str, Any] = {"linear": (0, (6, 2)), "bound": "-.", "variance": "-", "cosine": "--"}
    for name, place, row in zip(SCHEDULES, places, rows, strict=True):
        omega = omegas[name]
        left.plot(np.linspace(0, 1, len(omega)), omega, color=COLOURS[name], linewidth=1.4,
                  linestyle=dashes.get(name, (0, (5, 1, 1, 1, 1, 1))),
                  label=name.replace("_", "-"))  # fmt: skip
        right.barh(place, row["variance"], 0.6, color=COLOURS[name])
        right.text(row["variance"], place, f" {row['variance']:.3g}", va="center")
    left.set_xlim(0.0, 1.0)
    left.set_xlabel("time $t$")
    left.set_ylabel(r"$\omega(t) = -\log\,\mathrm{SNR}(t)$  [nats]")
    labels = [f"{r['name'].replace('_', '-')}\n{r['bpd']:.3f} bits/dim" for r in rows]
    right.set_yticks(places, labels)
    right.grid(visible=False, axis="y")
    right.set_xlabel("variance of the denoising term [(bits/dim)²]")
    right.margins(x=0.15)
    figure.legend(loc="outside upper center", ncols=len(SCHEDULES), frameon=False)
    save_figure(figure, path)


def main() -> None:
    """Trains, swaps schedules and evaluates, then writes results.json and schedule_swap.png."""
    flags = parse_flags(__file__)
    jobs = make_jobs(flags.scale)
    identified = identity(jobs["variance"][0].config, "experiments.schedule_swap.run", flags.scale)
    if not finish([job for of_name in jobs.values() for job in of_name], flags):
        return
    evaluations: dict[str, list[Evaluation]] = {name: [] for name in SCHEDULES}
    omegas, seconds, fingerprint = {}, 0.0, ""
    runs = {name: open_runs(of_name, flags.outdir) for name, of_name in jobs.items()}
    for seed, run, other in zip(SEEDS, runs["variance"], runs["bound"], strict=True):
        params, other_params = (states.trained_params(r)[1] for r in (run, other))
        seconds += read_json(run.workdir / "eval.json")["train_secs"]
        fingerprint = run.source.load(run.source.evaluation_split).fingerprint
        for name in SCHEDULES:
            swap, swap_params = swapped(name, run, params, other_params)
            evaluations[name].append(run_evaluation(swap, swap_params, DRAWS[seed]))
            if seed == SEEDS[0]:
                t = jnp.linspace(0.0, 1.0, 513)
                omegas[name] = np.asarray(swap.vdm.schedule_fn(swap_params)(t))
            print(f"seed {seed}, {name}: {evaluations[name][-1].summary()}", flush=True)
    optima = [attainable(evaluation) for evaluation in evaluations["linear"]]
    shared = identified | {
        "seconds": seconds,
        "data_fingerprint": fingerprint,
        "optimal_variance_of_seeds": optima,
    }
    rows = [shared | swap_row(name, evaluations) for name in SCHEDULES]
    write_results(flags.outdir, rows)
    plot(flags.outdir / "schedule_swap.png", omegas, rows)
    columns = ("name", "bpd", "stderr", "stderr_images", "variance", "difference_to_variance",
               "difference_stderr", "largest_difference_in_stderrs",
    )  # fmt: skip
    print(format_table(rows, columns))
    print(f"least attainable variance, by seed: {optima}")


if __name__ == "__main__":
    main()
