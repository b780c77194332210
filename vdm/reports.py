"""What an evaluation and a set of samples leave in a workdir."""

import contextlib
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike

from vdm import sharding
from vdm.config_changes import computed_fields
from vdm.data.records import resolve_data_dir
from vdm.data.sources import Split
from vdm.evaluation import quality
from vdm.evaluation.diagnostics import Diagnosis, can_diagnose, diagnose
from vdm.evaluation.features import read_features
from vdm.evaluation.kept_features import data_features, features_in_batches
from vdm.evaluation.likelihood import TERMS, Evaluation, evaluate, examples_per_call
from vdm.evaluation.samples import Samples, draw_samples, sample_dtype, samples_per_call
from vdm.io import images, plots
from vdm.io.checksums import params_digest
from vdm.io.console import Progress, say
from vdm.io.files import read_json, remove, save_npz, write_json
from vdm.io.journal import Journal
from vdm.model import VDM
from vdm.run import Run
from vdm.typing import Params

FEW = 10
"""Degrees of freedom below which an error is too rough to be printed without them: a 95% interval
is then more than 2.2 errors to each side, and 12.7 with one."""

_OF_ANY_MODEL = ("num_images", "batch_size", "seed", "features", "precision_recall")

MAX_REAL = 50_000
"""Images that samples are compared with: as many as published distances use."""


def run_evaluation(
    run: Run,
    params: Params,
    draws: int,
    journal: Journal | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """The run's bound on the split that it is evaluated on. With a journal, whose parts are not
    computed again, it shows its progress. Abandoned soon after stop() is true."""
    options = run.options.eval
    split = run.source.load(run.source.evaluation_split)
    with Progress("evaluate", 1, unit="batch", quiet=journal is None) as progress:
        return evaluate(
            run.model,
            params,
            split,
            run.mesh,
            estimator=run.estimator,
            draws=draws,
            batch_size=options.batch_size,
            seed=options.seed,
            finished=tuple(journal.parts) if journal else (),
            on_part=journal.append if journal else lambda part: None,
            on_batch=progress.update,
            stop=stop,
        )


@contextlib.contextmanager
def _open_journal(
    run: Run, name: str, doing: str, identity: dict[str, Any], dtype: DTypeLike = np.float32
) -> Iterator[Journal]:
    """The journal of the evaluation or the samples, `<name>.partial` in the workdir. What several
    processes do is not kept, as each would have to know what is finished."""
    with contextlib.ExitStack() as stack:
        folder = run.workdir
        if jax.process_count() > 1:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            journal = Journal(folder / f"{name}.partial", identity, dtype)
        except BlockingIOError:
            raise ValueError(
                f"another process is {doing} {run.workdir}: wait for it, or stop it"
            ) from None
        yield stack.enter_context(journal)


def report_evaluation(
    run: Run, step: int, params: Params, init_from: str | None = None
) -> Evaluation:
    """Evaluates and writes eval.json, eval_examples.npz, omega.png and loss_density.png.

    init_from: where the parameters come from, if not from this run's training.
    What is finished of it survives a kill in `eval.partial`, until all is written.
    """
    options, start = run.options.eval, time.monotonic()
    split = run.source.load(run.source.evaluation_split)
    identity = _identity(run, params, split)
    with _open_journal(run, "eval", "evaluating", identity) as journal:
        if journal.dropped:
            say(f"dropping {journal.dropped} finished parts of another evaluation")
        if journal.parts:
            say(f"going on with the evaluation in {journal.path}, {len(journal.parts)} parts done")
        result = run_evaluation(run, params, options.draws, journal)
        report = result.summary() | {
            "bound": run.estimator.name,
            "num_steps": run.estimator.num_steps,
            **run.estimator.facts,
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
        if "num_evaluations" in result.columns:  # of the network, for each image and draw
            report["network_evaluations"] = result.columns["num_evaluations"].mean()
        if init_from:
            report["init_from"] = str(init_from)
        elif run.options.weighting != "bound":
            report["trained_on"] = f"{run.options.weighting} weighting, not a bound"
        save_npz(  # nats of each image, averaged over its draws, and the bound of every draw
            run.workdir / "eval_examples.npz",
            index=np.arange(len(split.examples)),
            **{name: result.columns[name].mean(axis=0) for name in TERMS if name in result.columns},
            total=result.total.mean(axis=0),
            total_of_draws=result.total,
        )
        written = ["eval_examples.npz", *_pictures(run, params, result)]
        write_json(run.workdir / "eval.json", report)  # last: it says that all of it is there
        journal.remove()
    say(describe_evaluation(report))
    say(f"wrote eval.json, {', '.join(written)} in {run.workdir}")
    return result


def _identity(run: Run, params: Params, split: Split) -> dict[str, Any]:
    """All that the parts of an evaluation depend on, to the last bit."""
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
    """Writes omega.png, if there is a schedule, and, where the bound has a loss density,
    loss_density.png; their names."""
    if not isinstance(run.model, VDM):
        return []
    t = jnp.linspace(0.0, 1.0, 513)
    initial = run.model.init_schedule(run.init_key)
    plots.plot_schedule(
        run.workdir / "omega.png",
        t,
        run.model.schedule_fn(params)(t),
        run.model.schedule_fn({"schedule": initial})(t),
    )
    diagnosis = _diagnosis(run, result)
    if diagnosis is None:
        remove(run.workdir / "loss_density.png")  # of another bound
        return ["omega.png"]
    omega = run.model.schedule_fn(params)(t).reshape(t.size, -1).mean(axis=1)
    plots.plot_loss_density(run.workdir / "loss_density.png", diagnosis, t, omega)
    return ["omega.png", "loss_density.png"]


def _diagnosis(run: Run, result: Evaluation) -> Diagnosis | None:
    """Of a bound in continuous time with enough draws; else nothing."""
    columns = result.columns
    if run.estimator.num_steps or not can_diagnose(columns.get("omega_t", ())):
        return None
    density, denoising = (result.bpd(columns[k]) for k in ("loss_density", "denoising_matching"))
    return diagnose(columns["omega_t"], density, denoising)


def eval_scalars(result: Evaluation) -> dict[str, float]:
    """Its summary as metrics.jsonl names it, without what the bound does not have."""
    summary = result.summary().items()
    return {f"eval/{name}": value for name, value in summary if value is not None}


def finished_report(run: Run) -> str:
    """What eval.json says, if the run is trained to its last step, evaluated and sampled; else
    nothing."""
    steps = run.checkpoints.steps()
    if not steps or steps[-1] < run.options.train.num_steps:
        return ""
    # Each is the last file of its kind, so the others are there, and of this step.
    reports = [run.workdir / "samples.json", run.workdir / "eval.json"]
    if not all(report.is_file() and read_json(report)["step"] == steps[-1] for report in reports):
        return ""
    return describe_evaluation(read_json(reports[1]))


def describe_evaluation(report: dict[str, Any]) -> str:
    """eval.json in a line: the number, its errors, and what kind of number it is."""
    levels, num_steps = report.get("num_levels"), report["num_steps"]
    steps = f"T = {num_steps}" if num_steps else "continuous time"
    if levels:
        steps = f"{levels} latent level{'s' * (levels > 1)}"
    images, noise = (report[f"stderr_{kind}"] for kind in ("images", "monte_carlo"))
    degrees = report.get("stderr_degrees") or FEW  # not recorded once
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


def run_samples(
    run: Run, params: Params, journal: Journal | None = None, **changes: Any
) -> Samples:
    """Samples as config.sample says, but for the changes; params: of `Run.guided_params`. Those in
    a journal are not drawn again."""
    options = run.options.sample
    num_samples = changes.get("num_samples", options.num_images)
    labels = None if options.label < 0 else np.full(num_samples, options.label)
    settings: dict[str, Any] = {
        "num_samples": options.num_images,
        "sampler": run.sampler,
        "grid": run.grid,
        "guidance": run.guidance,
        "num_steps": options.num_steps,
        "batch_size": options.batch_size,
        "seed": options.seed,
        "labels": labels,
        "interpolate": options.interpolate,
        "num_frames": options.num_frames,
    } | changes
    if journal:
        settings |= {"finished": tuple(journal.parts), "on_part": journal.append}
    with Progress("sample", settings["num_samples"], unit="image") as progress:
        return draw_samples(run.model, params, mesh=run.mesh, on_batch=progress.update, **settings)


def _samples_identity(run: Run, params: Params) -> dict[str, Any]:
    """All that samples depend on, to the last bit."""
    options = run.options.sample
    compared_by = ("features", "precision_recall")
    return {
        "params": params_digest(params),
        "computed": computed_fields(run.resolved),
        "data": [run.source.shape, run.source.num_codes, run.source.num_classes],
        "settings": {k: v for k, v in run.resolved["sample"].items() if k not in compared_by},
        "per_call": samples_per_call(
            run.model, params, options.num_images, run.mesh,
            sampler=run.sampler, num_steps=options.num_steps, guidance=run.guidance,
            batch_size=options.batch_size,
        ),
        "devices": sharding.name_devices(run.mesh),
        "jax": jax.__version__,
    }  # fmt: skip


def sample_quality(run: Run, samples: np.ndarray) -> dict[str, Any]:
    """How far samples are from the training split: of vectors the sliced Wasserstein distance, of
    images the distances of the features in config.sample.features, if a file is named, to the
    first 50,000 images ("num_real" says how many these were), whose features are kept in the data
    folder. Nothing where the data are gone."""
    source, options = run.source, run.options.sample
    num_codes, are_vectors = source.num_codes, len(source.shape) == 1 and not source.num_codes
    if not (are_vectors or options.features):
        return {}
    try:
        split = source.load("train")
    except (ValueError, OSError) as error:
        say(f"the samples are not compared with the data: {error}")
        return {}
    if are_vectors:
        return {"sliced_wasserstein": quality.sliced_wasserstein(samples, split.examples)}
    features, real = read_features(options.features), split.examples[:MAX_REAL]
    folder = resolve_data_dir(run.resolved["data"]["data_dir"]) / "features"
    with Progress("features of the data", len(real), unit="image") as progress:
        of_real = data_features(
            folder, split.fingerprint, features, real, num_codes, progress.update
        )
    with Progress("features of the samples", len(samples), unit="image") as progress:
        of_samples = features_in_batches(features, samples, num_codes, progress.update)
    with Progress("compare", 1, unit="row") as progress:
        compared = quality.compare(of_samples, of_real, options.precision_recall, progress.update)
    return {"features": features.name, "num_real": len(real)} | compared


def report_samples(run: Run, step: int, params: Params, init_from: str | None = None) -> None:
    """Draws samples and writes samples.npz and samples.json; of images and points samples.png; of
    images on the way from noise, if asked for, samples.gif.

    What is drawn survives a kill in `samples.partial`, until all is written. The samples are there
    before they are compared with anything.
    """
    options = run.options.sample
    identity = _samples_identity(run, params)
    kind = sample_dtype(run.model, options.num_steps, options.num_frames)
    with _open_journal(run, "samples", "sampling from", identity, kind) as journal:
        if journal.dropped:
            say(f"dropping {journal.dropped} finished parts of other samples")
        if journal.parts:
            done = sum(map(len, journal.parts))
            say(f"going on with the samples in {journal.path}, {done} images done")
        drawn = run_samples(run, params, journal)
        remove(run.workdir / "samples.json")  # of other samples, from here on
        written = _write_samples(run, drawn)
        _write_report(run, step, drawn, sample_quality(run, drawn.data), init_from)
        journal.remove()
    say(
        f"wrote {len(drawn.data)} samples in {run.workdir}: {', '.join(written)}, samples.json; "
        f"{drawn.network_evaluations:.4g} network evaluations for each"
    )


def _write_samples(run: Run, drawn: Samples) -> list[str]:
    """Writes samples.npz and what can be seen of it; their names."""
    workdir, source, columns = run.workdir, run.source, run.options.sample.interpolate or None
    save_npz(workdir / "samples.npz", samples=drawn.data, labels=drawn.labels, frames=drawn.frames)
    written = ["samples.npz"]
    are_images = len(source.shape) == 3 and source.shape[-1] in (1, 3) and source.num_codes
    if source.shape == (2,):
        try:
            test = source.load(source.evaluation_split).examples
        except (ValueError, OSError):  # the data are gone, which was said
            test = drawn.data[:0]
        plots.plot_points(workdir / "samples.png", drawn.data, test)
        written.append("samples.png")
    elif are_images:
        images.save_grid(workdir / "samples.png", drawn.data, source.num_codes, columns)
        written.append("samples.png")
    remove(workdir / "samples.gif")  # of other samples
    if are_images and len(drawn.frames):
        images.save_animation(workdir / "samples.gif", drawn.frames, source.num_codes, columns)
        written.append("samples.gif")
    return written


def _write_report(
    run: Run, step: int, drawn: Samples, compared: dict[str, Any], init_from: str | None
) -> None:
    """Writes samples.json."""
    settings = run.resolved["sample"]
    if not isinstance(run.model, VDM):  # no step of these was taken
        settings = {key: settings[key] for key in _OF_ANY_MODEL}
    report = settings | {
        "network_evaluations": drawn.network_evaluations,
        "step": step,
        "params": run.options.eval.params,
        "quality": compared,
    }
    if init_from:
        report["init_from"] = str(init_from)
    write_json(run.workdir / "samples.json", report)
