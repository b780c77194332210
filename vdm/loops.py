"""Train, evaluate, sample: the only loop over steps, and what a workdir receives."""

import math
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vdm import sharding
from vdm.data.pipeline import train_batches
from vdm.evaluation.likelihood import Evaluation, evaluate
from vdm.evaluation.samples import draw_samples
from vdm.io import images, plots
from vdm.io.console import Progress, say
from vdm.io.environment import describe
from vdm.io.files import read_json, save_npz, write_json
from vdm.io.metrics import MetricsWriter
from vdm.io.signals import stop_signals
from vdm.model import count_parameters
from vdm.run import Run
from vdm.training.state import TrainState
from vdm.training.step import Batch, Metrics, make_train_step
from vdm.typing import Params


class NonFiniteError(RuntimeError):
    """The bound or its gradient is no number any more."""


class Interrupted(Exception):
    """SIGTERM or SIGINT arrived and the state is saved; `signum` is the signal."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


def train(run: Run, init_from: str | None = None) -> None:
    """Trains from scratch, from `init_from`, or from where the workdir's run stopped; then
    evaluates and samples. A finished run is left as it is."""
    sharding.check_batch(run.options.train.batch_size, run.mesh)
    finished = _finished(run)
    if finished:
        say(f"{run.workdir} is finished at step {run.checkpoints.steps()[-1]}: {finished}")
        return
    split = run.source.load("train")
    state = run.first_state(init_from)
    write_json(run.workdir / "environment.json", describe(run.options.seed))
    write_json(run.workdir / "config.json", run.resolved)
    say(
        f"{run.source.name}: {len(split.examples)} examples of shape {run.source.shape}; "
        f"{count_parameters(state.params):,} parameters; {sharding.name_devices(run.mesh)}"
    )
    batches = train_batches(
        split,
        run.options.train.batch_size,
        run.options.seed,
        int(state.step),
        jax.process_index(),
        jax.process_count(),
    )
    state = fit(run, state, (sharding.put_batch(batch, run.mesh) for batch in batches))
    step, params = int(state.step), run.chosen(state)
    result = _report(run, step, params)
    with MetricsWriter(run.workdir, step) as writer:
        writer.write(step, _eval_scalars(result))
    _draw(run, params)


def evaluate_run(run: Run) -> None:
    """--mode=eval: eval.json and its pictures from a checkpoint."""
    _report(run, *run.trained_params())


def sample_run(run: Run) -> None:
    """--mode=sample: samples.png and samples.npz from a checkpoint."""
    _draw(run, run.trained_params()[1])


def _finished(run: Run) -> str:
    """What eval.json says, if the run is trained to its last step, evaluated and sampled; else
    nothing."""
    steps, report = run.checkpoints.steps(), run.workdir / "eval.json"
    done = steps and steps[-1] >= run.options.train.num_steps and report.is_file()
    if not done or not (run.workdir / "samples.npz").is_file():
        return ""
    saved = read_json(report)
    return describe_evaluation(saved) if saved["step"] == steps[-1] else ""


def fit(run: Run, state: TrainState, batches: Iterator[Batch]) -> TrainState:
    """Steps until train.num_steps, with logs, evaluations and checkpoints on the way."""
    options, first = run.options.train, int(state.step)
    train_step = make_train_step(
        run.model,
        run.optimizer,
        run.step_key,
        run.options.bound_steps,
        run.options.ema_rate,
        run.options.ema_warmup,
    )
    watch = Stopwatch(run.trained_secs(first))
    pending: list[Metrics] = []  # of the steps since the last log line, still on the devices
    with (
        MetricsWriter(run.workdir, first) as writer,
        Progress("train", options.num_steps, first, "step") as progress,
        stop_signals() as signals,
    ):
        for step in range(first + 1, options.num_steps + 1):
            batch = next(batches)
            with jax.transfer_guard("disallow"):
                state, metrics = train_step(state, batch)
            pending.append(metrics)
            if step == first + 1:  # its compilation counts as time, not as speed
                jax.block_until_ready(metrics)
                watch.leave_out(options.batch_size)

            stop = bool(signals)  # looked at once: a signal may come at any moment
            last = stop or step == options.num_steps
            save = last or step % options.save_every == 0
            evaluates = options.eval_every > 0 and step % options.eval_every == 0 and not last
            progress.update(step)
            if not (save or evaluates or step % options.log_every == 0):
                continue

            scalars = summarise(pending, step) | watch.stop(len(pending) * options.batch_size)
            pending = []
            # Logged before the save: a kill in between repeats the line and loses none.
            writer.write(step, scalars)
            progress.report(_log_line(step, options.num_steps, scalars))
            if save:
                run.checkpoints.save(step, state)
            if evaluates and not signals:
                evaluation = _evaluation(run, run.chosen(state), options.eval_draws, quiet=True)
                writer.write(step, _eval_scalars(evaluation))
                progress.report(f"step {step}: eval {evaluation.summary()['bpd']:.4f} bits/dim")
            if stop:
                where = run.checkpoints.path(step)
                raise Interrupted(
                    f"stopped at step {step}, saved in {where}; the same command goes on",
                    signals[0],
                )
            watch.start()
    return state


def summarise(pending: list[Metrics], step: int) -> dict[str, float]:
    """Means of the metrics of the steps up to `step`; of omega_0 and omega_1 the last values.

    NonFiniteError names the first term and step that is not finite.
    """
    fetched = jax.device_get(pending)
    for index, metrics in enumerate(fetched):
        # The terms before their sum and the gradient, so that the message names the culprit.
        for name in sorted(metrics, key=lambda name: name in ("bpd", "grad_norm")):
            if not math.isfinite(metrics[name]):
                bad = step - len(fetched) + 1 + index
                raise NonFiniteError(f"train/{name} is {metrics[name]} at step {bad}")
    means = {f"train/{name}": float(np.mean([m[name] for m in fetched])) for name in fetched[0]}
    return means | {f"train/{end}": float(fetched[-1][end]) for end in ("omega_0", "omega_1")}


def _log_line(step: int, num_steps: int, scalars: dict[str, float]) -> str:
    return (
        f"step {step}/{num_steps}: train {scalars['train/bpd']:.4f} bits/dim, "
        f"{scalars['images_per_sec']:.0f} images/s"
    )


def _eval_scalars(result: Evaluation) -> dict[str, float]:
    """A summary as metrics.jsonl names it."""
    return {f"eval/{name}": value for name, value in result.summary().items()}


class Stopwatch:
    """Seconds of training, all told, and the speed since it was last started."""

    def __init__(self, secs: float) -> None:
        self._secs = secs
        self.start()

    def start(self) -> None:
        """Goes on, after an evaluation or a save, which do not count."""
        self._start = self._rate_start = time.monotonic()
        self._unrated = 0

    def leave_out(self, images: int) -> None:
        """Leaves what was done since the start out of the speed: a compilation."""
        self._rate_start, self._unrated = time.monotonic(), images

    def stop(self, images: int) -> dict[str, float]:
        """time_secs in all, and images_per_sec of the images done since the start."""
        now = time.monotonic()
        self._secs += now - self._start
        rate = (images - self._unrated) / (now - self._rate_start)
        return {"time_secs": self._secs, "images_per_sec": rate}


def _evaluation(run: Run, params: Params, draws: int, quiet: bool = False) -> Evaluation:
    options = run.options.eval
    split = run.source.load(run.source.evaluation_split)
    with Progress("evaluate", 1, quiet=quiet) as progress:
        return evaluate(
            run.model,
            params,
            split,
            run.mesh,
            num_steps=options.num_steps,
            draws=draws,
            batch_size=options.batch_size,
            seed=options.seed,
            on_batch=progress.update,
        )


def _report(run: Run, step: int, params: Params) -> Evaluation:
    """Evaluates and writes eval.json, eval_examples.npz, loss_density.png and omega.png."""
    options, start = run.options.eval, time.monotonic()
    split = run.source.load(run.source.evaluation_split)
    result = _evaluation(run, params, options.draws)
    summary = result.summary()
    report = summary | {
        "bound": options.bound,
        "num_steps": options.num_steps,
        "split": split.name,
        "dataset": run.source.name,
        "data_fingerprint": split.fingerprint,
        "params": options.params,
        "step": step,
        "omega_0": result.omega_0,
        "omega_1": result.omega_1,
        "train_secs": run.trained_secs(step),
        "train_images": step * run.options.train.batch_size,
        "eval_secs": time.monotonic() - start,
        "seed": run.options.seed,
    }
    save_npz(  # nats of each image, averaged over its draws
        run.workdir / "eval_examples.npz",
        index=np.arange(len(split.examples)),
        reconstruction=result.reconstruction.mean(axis=0),
        prior_matching=result.prior_matching.mean(axis=0),
        denoising_matching=result.denoising_matching.mean(axis=0),
    )
    written = ["eval_examples.npz", "omega.png"]
    if result.omega_t.size >= 16 and np.ptp(result.omega_t) > 0:
        written.append("loss_density.png")
        plots.plot_loss_density(
            run.workdir / "loss_density.png",
            result.omega_t,
            result.bpd(result.loss_density),
            integral=options.num_steps == 0,
        )
    t = jnp.linspace(0.0, 1.0, 513)
    initial = run.model.init_schedule(run.init_key)
    plots.plot_schedule(
        run.workdir / "omega.png",
        t,
        run.model.schedule_fn(params)(t),
        run.model.schedule_fn({"schedule": initial})(t),
    )
    write_json(run.workdir / "eval.json", report)  # last: it says that all of it is there
    say(describe_evaluation(report))
    say(f"wrote eval.json, {', '.join(written)} in {run.workdir}")
    return result


def describe_evaluation(report: dict[str, Any]) -> str:
    """eval.json in a line: the number, its errors, and what kind of number it is."""
    steps = f"T = {report['num_steps']}" if report["num_steps"] else "continuous time"
    images, noise = (report[f"stderr_{kind}"] for kind in ("images", "monte_carlo"))
    return (
        f"{report['split']} bits/dim {report['bpd']:.4f} +- {_error(images)} (images) "
        f"+- {_error(noise)} (Monte Carlo): {report['bound']}, {steps}, {report['params']} "
        f"parameters of step {report['step']}, {report['num_examples']} examples x "
        f"{report['draws_per_example']} draws"
    )


def _error(value: float | None) -> str:
    return "unknown" if value is None or math.isnan(value) else f"{value:.4f}"


def _draw(run: Run, params: Params) -> None:
    """Draws samples and writes samples.npz, and samples.png of images and of points."""
    options = run.options.sample
    with Progress("sample", options.num_images, unit="image") as progress:
        samples = draw_samples(
            run.model,
            params,
            options.num_images,
            run.mesh,
            step=run.sampler_step,
            num_steps=options.num_steps,
            batch_size=options.batch_size,
            seed=options.seed,
            on_batch=progress.update,
        )
    save_npz(run.workdir / "samples.npz", samples=samples)
    path, written = run.workdir / "samples.png", "samples.npz, samples.png"
    if run.source.shape == (2,):
        plots.plot_points(path, samples, run.source.load(run.source.evaluation_split).examples)
    elif len(run.source.shape) == 3 and run.source.shape[-1] in (1, 3) and run.source.num_codes:
        images.save_grid(path, samples, run.source.num_codes)
    else:
        written = "samples.npz"
    say(f"wrote {len(samples)} samples in {run.workdir}: {written}")
