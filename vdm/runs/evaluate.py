"""--mode=eval: evaluates the bound and writes the results to the workdir."""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vdm.config.compatibility import computed_fields
from vdm.data.sources import Split
from vdm.devices import sharding
from vdm.diffusion.grids import equal_times
from vdm.diffusion.interning import kept
from vdm.evaluation.bits_per_dim import TERMS, Evaluation, evaluate, examples_per_call
from vdm.evaluation.diagnostics import Diagnosis, can_diagnose, diagnose
from vdm.io import plots
from vdm.io.atomic import read_json, remove, save_npz, write_json
from vdm.io.checksums import params_digest
from vdm.io.console import Progress, say
from vdm.io.journal import Journal
from vdm.models.interface import has_noise_levels
from vdm.models.vdm import VDM
from vdm.runs import levels, states
from vdm.runs.partial import open_journal, parts_in
from vdm.runs.run import Run
from vdm.typing import Params, PRNGKey


def evaluate_run(run: Run, init_from: str | None = None) -> None:
    """Evaluates a checkpoint of this run, or init_from, and writes eval.json and its pictures."""
    step, params = states.trained_params(run, init_from)
    if init_from:
        run.describe()
    for note in run.source.load(run.source.evaluation_split).notes:
        say(note)
    report_evaluation(run, step, params, init_from)


FEW = 10
"""An error with fewer degrees of freedom is printed together with them, because it is rough: a 95%
interval reaches more than 2.2 errors to each side, and 12.7 errors for one degree of freedom."""


def run_evaluation(
    run: Run,
    params: Params,
    draws: int,
    journal: Journal | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Evaluates the run's bound on its evaluation split.

    journal: parts in it are not computed again; with a journal, progress is shown. stop: raises
    `vdm.devices.waiting.Abandoned` soon after stop() is true.
    """
    options = run.options.eval
    split = run.source.load(run.source.evaluation_split)
    with Progress("evaluate", 1, unit="batch", quiet=journal is None) as progress:
        parts = parts_in(
            journal, batch_size=options.batch_size, on_batch=progress.update, stop=stop
        )
        return evaluate(
            run.model,
            params,
            split,
            run.mesh,
            estimator=run.estimator,
            draws=draws,
            seed=options.seed,
            parts=parts,
        )


def report_evaluation(
    run: Run, step: int, params: Params, init_from: str | None = None
) -> Evaluation:
    """Evaluates and writes eval.json, eval_examples.npz, omega.png and loss_density.png.

    init_from: where the parameters come from, if not from this run's training.
    Finished parts are kept in `eval.partial` until everything is written, so a killed evaluation
    resumes.
    """
    options, start = run.options.eval, time.monotonic()
    split = run.source.load(run.source.evaluation_split)
    trained = run, params
    run, params = levels.for_evaluation(run, params, options.num_steps, run.eval_grid)
    identity = _identity(run, params, split)
    with open_journal(run, "eval", "evaluating", identity) as journal:
        if journal.dropped:
            say(f"dropping {journal.dropped} finished parts of another evaluation")
        if journal.parts:
            say(f"resuming the evaluation in {journal.path}, {len(journal.parts)} parts done")
        result = run_evaluation(run, params, options.draws, journal)
        report = result.summary() | {
            "bound": run.estimator.name,
            "num_steps": run.estimator.num_steps,
            **run.estimator.facts,
            **_kernel_facts(run, params),
            "strata": result.strata,
            "split": split.name,
            "dataset": run.source.name,
            "data_fingerprint": split.fingerprint,
            "params": options.params,
            "step": step,
            "omega_0": result.omega_0,
            "omega_1": result.omega_1,
            "train_secs": None if init_from else run.trained_secs(step),
            "train_images": None if init_from else step * run.options.train.batch_size,
            "eval_secs": time.monotonic() - start,
            "seed": run.options.seed,
            "eval_seed": options.seed,
            "num_dims": result.num_dims,
        }
        if "num_evaluations" in result.columns:  # one for each image and draw
            report["network_evaluations"] = result.columns["num_evaluations"].mean()
        if init_from:
            report["init_from"] = str(init_from)
        elif run.options.weighting != "bound":
            report["trained_on"] = f"{run.options.weighting} weighting, not a bound"
        save_npz(  # nats of each image, averaged over its draws, and the bound of every draw
            run.workdir / "eval_examples.npz",
            index=np.arange(len(split.examples)),
            **{
                name: result.columns[name].mean(axis=0)
                for name in (*TERMS, *result.more_terms)
                if name in result.columns
            },
            total=result.total.mean(axis=0),
            total_of_draws=result.total,
        )
        written = ["eval_examples.npz", *_pictures(*trained, result)]
        write_json(run.workdir / "eval.json", report)  # last: if it exists, the others do too
        journal.remove()
    say(describe_evaluation(report))
    say(f"wrote eval.json, {', '.join(written)} in {run.workdir}")
    return result


def _kernel_facts(run: Run, params: Params) -> dict[str, Any]:
    """Returns what eval.json says of the reverse kernel, the decoder and the levels of a bound of
    T steps."""
    if not has_noise_levels(model := run.model):
        return {}
    grid = run.resolved["eval"]["grid"]["name"]
    facts: dict[str, Any] = {"kernel": model.reverse, "decoder": model.decoder_rule, "grid": grid}
    if not run.estimator.num_steps:
        return facts
    if run.eval_grid is not equal_times:
        facts["omegas"] = jax.device_get(params["schedule"]["omegas"])
    facts["network_evaluations"] = run.estimator.num_steps + model.network_decodes
    if model.needs_u(run.estimator.num_steps) and run.estimator.name == "elbo":
        facts["kernel_divergence"] = "mean over one normal draw u and -u"
    return facts


def _identity(run: Run, params: Params, split: Split) -> dict[str, Any]:
    """Returns everything that the parts of an evaluation depend on, to the last bit."""
    options = run.options.eval
    return {
        "params": params_digest(params),
        "model": computed_fields(run.resolved),
        "estimator": repr(run.estimator),
        "draws": options.draws,
        "batch_size": options.batch_size,
        "seed": options.seed,
        "per_call": examples_per_call(
            run.model, params, run.estimator, len(split.examples), run.mesh, options.batch_size
        ),
        "data": split.fingerprint,
        "devices": sharding.name_devices(run.mesh),
        "jax": jax.__version__,
    }


def _pictures(run: Run, params: Params, result: Evaluation) -> list[str]:
    """Writes omega.png if there is a schedule, and loss_density.png if the bound has that density.
    Returns the names of the files."""
    model = run.model
    if not has_noise_levels(model) or "schedule" not in model.supports:
        return []
    t = np.linspace(0.0, 1.0, 513, dtype=np.float32)
    learned, initial = jax.device_get(_schedules(model)(params["schedule"], run.init_key, t))
    plots.plot_schedule(run.workdir / "omega.png", t, learned, initial)
    diagnosis = _diagnosis(run, result)
    if diagnosis is None:
        remove(run.workdir / "loss_density.png")  # one of another bound
        return ["omega.png"]
    omega = learned.reshape(t.size, -1).mean(axis=1)
    plots.plot_loss_density(run.workdir / "loss_density.png", diagnosis, t, omega)
    return ["omega.png", "loss_density.png"]


@kept  # one compiled function instead of a hundred operations
def _schedules(model: VDM) -> Callable[[Params, PRNGKey, np.ndarray], tuple[jax.Array, jax.Array]]:
    """The function from parameters, a key and times to omega with these parameters and with the
    initial ones of the key."""

    def schedules(learned: Params, key: PRNGKey, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        initial = model.init_schedule(key)
        omega, initial_omega = (model.schedule_fn({"schedule": p}) for p in (learned, initial))
        return omega(t), initial_omega(t)

    return jax.jit(schedules)


def _diagnosis(run: Run, result: Evaluation) -> Diagnosis | None:
    """Returns the diagnosis of a continuous-time bound with enough draws, otherwise None."""
    columns = result.columns
    if run.estimator.num_steps or not can_diagnose(columns.get("omega_t", ())):
        return None
    density, denoising = (result.bpd(columns[k]) for k in ("loss_density", "denoising_matching"))
    return diagnose(columns["omega_t"], density, denoising)


def eval_scalars(result: Evaluation) -> dict[str, float]:
    """Returns the summary under the names of metrics.jsonl, without values that the bound lacks."""
    summary = result.summary().items()
    return {f"eval/{name}": value for name, value in summary if value is not None}


def finished_report(run: Run) -> str:
    """Returns a line about eval.json if the run is trained to its last step, evaluated and sampled;
    otherwise ""."""
    steps = run.checkpoints.steps()
    if not steps or steps[-1] < run.options.train.num_steps:
        return ""
    # Each of these is written last, so if it is of this step, the files beside it are too.
    reports = [run.workdir / "samples.json", run.workdir / "eval.json"]
    if not all(report.is_file() and read_json(report)["step"] == steps[-1] for report in reports):
        return ""
    return describe_evaluation(read_json(reports[1]))


def describe_evaluation(report: dict[str, Any]) -> str:
    """Describes eval.json in one line: the number, its errors, and the kind of bound."""
    levels, num_steps = report.get("num_levels"), report["num_steps"]
    steps = f"T = {num_steps}" if num_steps else "continuous time"
    usual = {"kernel": "gaussian", "grid": "equal_times"} if num_steps else {}
    for key, value in (usual | {"decoder": "bayes"}).items():
        if report.get(key, value) != value:
            steps += f", {report[key]} {'levels' if key == 'grid' else key}"
    if levels:
        steps = f"{levels} latent level{'s' * (levels > 1)}"
    images, noise = (report[f"stderr_{kind}"] for kind in ("images", "monte_carlo"))
    degrees = report.get("stderr_degrees") or FEW  # earlier versions did not record it
    rough = f", {degrees} degree{'s' * (degrees > 1)} of freedom" if degrees < FEW else ""
    divergence = f" ({report['divergence']} divergence)" if "divergence" in report else ""
    trained_on = f"; trained on the {report['trained_on']}" if "trained_on" in report else ""
    return (
        f"{report['split']} bits/dim {report['bpd']:.4f} +- {_error(images)} (images) "
        f"+- {_error(noise)} (Monte Carlo{rough}): {report['bound']}{divergence}, {steps}, "
        f"{report['params']} parameters of step {report['step']}, {report['num_examples']} "
        f"examples x {report['draws_per_example']} draws{trained_on}"
    )


def _error(value: float | None) -> str:
    return "unknown" if value is None or math.isnan(value) else f"{value:.4f}"
