"""Train, evaluate, sample; the only loop over steps."""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from vdm import distributed, sharding
from vdm.classifier import NoisyClassifier
from vdm.components import OPTIMIZERS
from vdm.data.pipeline import train_batches
from vdm.data.sources import Split
from vdm.evaluation.calls import Abandoned
from vdm.evaluation.guided import Unguided
from vdm.io import lock
from vdm.io.console import Progress, say
from vdm.io.environment import describe
from vdm.io.files import to_json, write_json
from vdm.io.metrics import MetricsWriter, read_metrics
from vdm.io.signals import any_signal, stop_signals
from vdm.io.watchdog import Watchdog
from vdm.model import VDM, count_parameters
from vdm.reports import (
    eval_scalars,
    finished_report,
    report_evaluation,
    report_samples,
    run_evaluation,
)
from vdm.run import Run
from vdm.run_data import FILENAME as DATA
from vdm.run_data import check_split, settle
from vdm.training.classifier import make_classifier_step
from vdm.training.metrics import Stopwatch, check_finite, summarise
from vdm.training.plan import Plan
from vdm.training.schedule import objective
from vdm.training.state import TrainState
from vdm.training.step import Batch, Metrics
from vdm.typing import Params


class Interrupted(Exception):
    """SIGTERM or SIGINT arrived and the state is saved; `signum` is the signal."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


def train(run: Run, init_from: str | None = None, accept_new_data: bool = False) -> None:
    """Trains from scratch, from `init_from`, or from where the workdir's run stopped; then
    evaluates and samples. A finished run is left as it is.

    Before the first step all that it needs is read and checked, and nothing is written but the lock
    of the workdir. ValueError where another training holds that, or where the training data are
    not those of the run, unless `accept_new_data`.
    """
    options = run.options.train
    sharding.check_batch(options.batch_size, run.mesh, options.accumulate)
    # What each process reads from the disk decides what they do together, so they compare it.
    finished = finished_report(run)
    if not distributed.any_of(not finished):
        say(f"{run.workdir} is finished at step {run.checkpoints.steps()[-1]}: {finished}")
        return
    split = _training_split(run)
    check_split(run.model, run.source, run.source.load(run.source.evaluation_split))
    with lock.held(run.workdir, "training"):
        _train(run, split, init_from, accept_new_data)


def _training_split(run: Run) -> Split:
    split = run.source.load("train")
    check_split(run.model, run.source, split)
    return split


def _train(run: Run, split: Split, init_from: str | None, accept_new_data: bool) -> None:
    options, trained = run.options.train, bool(run.checkpoints.steps())
    distributed.agree("the newest checkpoint", max(run.checkpoints.steps(), default=0))
    state = run.first_state(init_from)
    distributed.agree("the step where training goes on", int(state.step))
    step = int(state.step) if trained else None
    data = settle(run.workdir, run.source, split, step, accept_new_data)
    with MetricsWriter(run.workdir, int(state.step), run.open_metrics_hook) as writer:
        _describe_run(run)
        write_json(run.workdir / DATA, data)
        _announce(run, split, state)
        batches = train_batches(
            split,
            options.batch_size,
            run.options.seed,
            int(state.step),
            jax.process_index(),
            jax.process_count(),
            run.augmentation,
        )
        on_devices = (sharding.put_batch(batch, run.mesh) for batch in batches)
        state = fit(run, state, on_devices, writer)
        step, params = int(state.step), run.chosen(state)
        result = report_evaluation(run, step, params)
        scalars = eval_scalars(result)
        line = to_json({"step": step} | scalars)
        if line not in read_metrics(run.workdir):  # a run that was killed in its samples has it
            writer.write(step, scalars)
    if run.guidance.num_classes and not run.classifier_checkpoints.steps():
        say("no classifier guides these samples: --mode=classifier trains one for --mode=sample")
        unguided = run.resolved["sample"] | {"guidance": {"name": "none", "kwargs": {}}}
        resolved = run.resolved | {"sample": unguided}
        run = dataclasses.replace(run, guidance=Unguided(), resolved=resolved)
    report_samples(run, step, run.guided_params(params))


def _announce(run: Run, split: Split, state: TrainState) -> None:
    """What is trained on what, and what of it is not as the config may be read."""
    say(
        f"{run.source.name}: {len(split.examples)} examples of shape {run.source.shape}; "
        f"{count_parameters(state.params):,} parameters; {sharding.name_devices(run.mesh)}"
    )
    warmup = run.resolved["optim"]["kwargs"].get("warmup_steps", 0)
    if run.resolved["optim"]["name"] in OPTIMIZERS and warmup > run.options.train.num_steps:
        say(
            f"the warm-up of {warmup} steps is longer than the run of "
            f"{run.options.train.num_steps}: the learning rate is not reached"
        )
    for note in split.notes:
        say(note)
    if isinstance(run.model, VDM):
        wanted, bound_steps = run.options.train_schedule, run.options.bound_steps
        if objective(wanted, bound_steps, run.model.multivariate) != wanted:
            why = f"with T = {bound_steps}" if bound_steps else "with an omega for each dimension"
            say(f"{why} the interior of the schedule changes the bound, and is trained on it")
    if run.options.weighting != "bound":
        say(
            f"the network is trained on the {run.options.weighting!r} weighting of the loss, which "
            "is not a bound; train/bpd and eval/bpd are bounds"
        )


def evaluate_run(run: Run, init_from: str | None = None) -> None:
    """--mode=eval: eval.json and its pictures from a checkpoint, of this run or of another."""
    step, params = run.trained_params(init_from)
    if init_from:
        _describe_run(run)
    for note in run.source.load(run.source.evaluation_split).notes:
        say(note)
    report_evaluation(run, step, params, init_from)


def sample_run(run: Run, init_from: str | None = None) -> None:
    """--mode=sample: samples.png and samples.npz from a checkpoint, of this run or of another."""
    step, params = run.trained_params(init_from)
    params = run.guided_params(params)
    if init_from:
        _describe_run(run)
    report_samples(run, step, params, init_from)


def train_classifier(run: Run, init_from: str | None = None, accept_new_data: bool = False) -> None:
    """--mode=classifier: trains p(label | z_t) on the run's data, between the ends of its schedule,
    or goes on with it; in the workdir's folder classifier/, locked and with a record of its data as
    the workdir of a training."""
    options, classifier = run.options.classifier, run.classifier
    if classifier is None:
        raise ValueError(
            f"--mode=classifier: data set {run.source.name!r} has no labels; choose one that has"
        )
    if not run.vdm.latents_are_data:
        raise ValueError(
            "--mode=classifier: it reads noisy data, which the latents of this model are not; "
            "sample.guidance.name = 'classifier_free' needs no classifier"
        )
    sharding.check_batch(options.batch_size, run.mesh, field="classifier.batch_size")
    split = _training_split(run)
    _, params = run.trained_params(init_from)
    with lock.held(run.workdir / "classifier", "training of a classifier"):
        _train_classifier(run, classifier, split, params, accept_new_data)


def _train_classifier(
    run: Run, classifier: NoisyClassifier, split: Split, params: Params, accept_new_data: bool
) -> None:
    options, folder = run.options.classifier, run.workdir / "classifier"
    trained = bool(run.classifier_checkpoints.steps())
    ends = run.vdm.schedule_fn(params)(jnp.array([0.0, 1.0]))
    state = run.first_classifier_state()
    first = int(state.step)
    data = settle(folder, run.source, split, first if trained else None, accept_new_data)
    run.keep_classifier_config()
    write_json(folder / DATA, data)
    distributed.agree("the step where the classifier goes on", first)
    train_step = make_classifier_step(
        classifier,
        run.vdm.likelihood,
        (ends[0], ends[1]) if ends[0].ndim == 0 else (ends[0][None], ends[1][None]),
        run.classifier_optimizer,
        run.classifier_keys[1],
        run.mesh,
    )
    batches = train_batches(
        split, options.batch_size, run.options.seed, first,
        jax.process_index(), jax.process_count(),
    )  # fmt: skip

    def log(step: int, scalars: dict[str, float]) -> str:
        return (
            f"classifier step {step}/{options.num_steps}: cross-entropy "
            f"{scalars['train/cross_entropy']:.4f} nats, accuracy "
            f"{scalars['train/accuracy']:.3f} over all noise levels"
        )

    checkpoints = run.classifier_checkpoints
    plan = Plan(
        name="classifier",
        step=train_step,
        num_steps=options.num_steps,
        batch_size=options.batch_size,
        save_every=run.options.train.save_every,
        log=log,
        save=checkpoints.save,
        checkpoints=checkpoints,
        watchdog_secs=run.options.train.watchdog_secs,
    )
    state = take_steps(plan, state, (sharding.put_batch(batch, run.mesh) for batch in batches))
    say(f"the classifier is in {checkpoints.path(int(state.step))}")


def _describe_run(run: Run) -> None:
    write_json(run.workdir / "environment.json", describe(run.options.seed))
    write_json(run.workdir / "config.json", run.resolved)


RUN_AHEAD = 16
"""Steps that may wait on the devices. Without a limit two CPU devices may starve each other of
threads, and XLA aborts: seen once, at 500 steps of a few milliseconds between log lines."""


def _stop_signal(signals: list[int], step: int) -> int:
    """The signal to stop at after this step, or 0. Several processes ask each other every
    RUN_AHEAD steps, so that one that only one of them got stops all at the same step."""
    alone = jax.process_count() == 1
    return any_signal(signals) if alone or step % RUN_AHEAD == 0 else 0


def limit_run_ahead(pending: list[Metrics]) -> None:
    """Waits for the step RUN_AHEAD before the last one, if it is still pending."""
    if len(pending) > RUN_AHEAD:
        jax.block_until_ready(pending[-1 - RUN_AHEAD])


def _on_devices(step: int, first: int) -> str:
    """The phase of a step: what hangs may be an earlier one that is waited for."""
    if step == first + 1:
        return f"step {step} on the devices, the first one, which is compiled"
    oldest = max(step - RUN_AHEAD, first + 1)
    return f"step {step} on the devices, or one from {oldest} on"


def take_steps(
    plan: Plan, state: TrainState, batches: Iterator[Batch], owed: bool = False
) -> TrainState:
    """The loop over steps, from the state's own to plan.num_steps; the state at its end.

    owed: whether the evaluation of the first state is to be made up for. Interrupted where a signal
    came, once the state is saved; NonFiniteError where a metric or a parameter is not finite.
    """
    first, batch_size, watch = int(state.step), plan.batch_size, Stopwatch(plan.secs)
    processes = jax.process_index(), jax.process_count()
    pending: list[Metrics] = []  # of the steps since the last log line, still on the devices
    with (
        Progress(plan.name, plan.num_steps, first, "step", leave=True) as progress,
        stop_signals() as signals,
        Watchdog(plan.watchdog_secs, processes) as watchdog,
    ):

        def save_state(step: int, state: TrainState) -> None:
            watchdog.enter(f"saving step {step}", long=True)
            check_finite(state, step)
            plan.save(step, state)

        def evaluate(step: int, state: TrainState) -> bool:
            """Whether it was not abandoned because a signal came."""
            watchdog.enter(f"evaluating step {step}", long=True)
            alone = jax.process_count() == 1  # else the others would wait for this one
            try:
                progress.report(plan.evaluate(step, state, lambda: alone and bool(signals)))
            except Abandoned:
                return False
            return True

        done = not owed or evaluate(first, state)
        watch.start()
        last = plan.num_steps if done else first
        for step in range(first + 1, last + 1):
            watchdog.enter(f"waiting for the data of step {step}")
            batch = next(batches)
            watchdog.enter(_on_devices(step, first), long=step == first + 1)
            # The first call lowers the step, and a component of the user's own may close over an
            # array, which is read back from the device then.
            with jax.transfer_guard("allow" if step == first + 1 else "disallow"):
                state, metrics = plan.step(state, batch)
            pending.append(metrics)
            limit_run_ahead(pending)
            if step == first + 1:  # its compilation counts as time, not as speed
                jax.block_until_ready(metrics)
                watch.leave_out(batch_size)

            stop = _stop_signal(signals, step)
            save, evaluates = bool(stop) or plan.saves(step), plan.evaluates(step)
            progress.update(step)
            if not (save or evaluates or plan.logs(step)):
                continue

            means = summarise(jax.device_get(pending), step)
            scalars = means | watch.stop(len(pending) * batch_size)
            pending = []
            # Logged before the save: a kill in between repeats the line and loses none.
            progress.report(plan.log(step, scalars))
            if save:
                save_state(step, state)
                stop = any_signal(signals)  # again: what came meanwhile stops here
            if stop:  # an evaluation of this step is made up for by the next start
                break
            if evaluates and not evaluate(step, state):  # made up for, if the state is there
                if not save:
                    save_state(step, state)
                break
            watch.start()
    stop = any_signal(signals)  # also one that came after the last step: nobody else would look
    if stop:
        path = plan.checkpoints.path(int(state.step))
        raise Interrupted(
            f"stopped at step {int(state.step)}, saved in {path}; the same command goes on", stop
        )
    return state


def fit(run: Run, state: TrainState, batches: Iterator[Batch], writer: MetricsWriter) -> TrainState:
    """Trains the model until train.num_steps, with logs, evaluations and checkpoints on the way."""
    options, first = run.options.train, int(state.step)
    train_step = run.train_step()

    def log(step: int, scalars: dict[str, float]) -> str:
        writer.write(step, scalars)
        return (
            f"step {step}/{options.num_steps}: train {scalars['train/bpd']:.4f} bits/dim, "
            f"{scalars['images_per_sec']:.0f} images/s"
        )

    def evaluate(step: int, state: TrainState, stop: Callable[[], bool]) -> str:
        evaluation = run_evaluation(run, run.chosen(state), options.eval_draws, stop=stop)
        writer.write(step, eval_scalars(evaluation))
        return f"step {step}: eval {evaluation.summary()['bpd']:.4f} bits/dim"

    plan = Plan(
        name="train",
        step=train_step,
        num_steps=options.num_steps,
        batch_size=options.batch_size,
        save_every=options.save_every,
        log=log,
        save=run.save,
        checkpoints=run.checkpoints,
        watchdog_secs=options.watchdog_secs,
        log_every=options.log_every,
        eval_every=options.eval_every,
        evaluate=evaluate,
        secs=run.trained_secs(first),
    )
    # Its checkpoint came first, so a stop may have cost an evaluation, not a step.
    owed = plan.evaluates(first) and not _is_evaluated(run, first)
    return take_steps(plan, state, batches, bool(distributed.any_of(owed)))


def _is_evaluated(run: Run, step: int) -> bool:
    return any(r["step"] == step and "eval/bpd" in r for r in read_metrics(run.workdir))
