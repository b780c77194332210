"""The training loop, and the plan that it carries out. It knows neither runs nor configs."""

import dataclasses
from collections.abc import Callable, Iterator

import jax

from vdm.devices.waiting import Abandoned
from vdm.io.checkpoints import Checkpoints
from vdm.io.console import Progress
from vdm.io.signals import any_signal, stop_signals
from vdm.io.watchdog import Watchdog
from vdm.training.gradient import Batch, Metrics
from vdm.training.metrics import Stopwatch, check_finite, summarise
from vdm.training.state import TrainState
from vdm.training.step import StepFn


class Interrupted(Exception):
    """Raised when SIGTERM or SIGINT stopped the training, once the state is saved.

    signum: the signal.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one training does: that of the run's model, or of its noise-conditioned classifier.

    name: the label of the progress bar. step: the compiled step; num_steps of them are taken, and
    the last one is saved. batch_size: images in a step.
    save_every, log_every, eval_every: intervals in steps; 0 means never for the last two. Every
    save has a log line in any case.
    watchdog_secs: as in config.train. secs: seconds of training in earlier starts of the run.
    log: (step, the scalars of `vdm.training.metrics`) -> the log line; it may record the scalars.
    save: (step, state); writes to `checkpoints`.
    evaluate: (step, state, stop) -> a line with the result, which it may record; it raises
    Abandoned soon after stop() is true.
    """

    name: str
    step: StepFn
    num_steps: int
    batch_size: int
    save_every: int
    log: Callable[[int, dict[str, float]], str]
    save: Callable[[int, TrainState], None]
    checkpoints: Checkpoints
    watchdog_secs: int
    log_every: int = 0
    eval_every: int = 0
    evaluate: Callable[[int, TrainState, Callable[[], bool]], str] = lambda step, state, stop: ""
    secs: float = 0.0

    def logs(self, step: int) -> bool:
        """Returns whether the step has a log line apart from those of saves and evaluations."""
        return _is_due(step, self.log_every)

    def saves(self, step: int) -> bool:
        """Returns whether the step is saved even if no signal arrives."""
        return step == self.num_steps or _is_due(step, self.save_every)

    def evaluates(self, step: int) -> bool:
        """Returns whether the step is followed by an evaluation; the last step is evaluated
        elsewhere."""
        return _is_due(step, self.eval_every) and 0 < step < self.num_steps


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


RUN_AHEAD = 16
"""The number of steps that may be queued on the devices. Without a limit two CPU devices may starve
each other of threads, and XLA aborts: seen once, with 500 steps of a few milliseconds between log
lines."""


def _stop_signal(signals: list[int], step: int) -> int:
    """Returns the signal that stops the training after this step, or 0. Several processes compare
    theirs every RUN_AHEAD steps, so that a signal to one of them stops all at the same step."""
    alone = jax.process_count() == 1
    return any_signal(signals) if alone or step % RUN_AHEAD == 0 else 0


def limit_run_ahead(pending: list[Metrics]) -> None:
    """Waits for the step that is RUN_AHEAD before the last one, if it is still pending."""
    if len(pending) > RUN_AHEAD:
        jax.block_until_ready(pending[-1 - RUN_AHEAD])


def _on_devices(step: int, first: int) -> str:
    """Describes a step to the watchdog. What hangs may be an earlier step that is still queued."""
    if step == first + 1:
        return f"step {step} on the devices, the first one, which is compiled"
    oldest = max(step - RUN_AHEAD, first + 1)
    return f"step {step} on the devices, or one from {oldest} on"


def take_steps(
    plan: Plan, state: TrainState, batches: Iterator[Batch], owed: bool = False
) -> TrainState:
    """Takes steps from the state's own step to plan.num_steps, and returns the last state.

    owed: whether to begin with the evaluation of the first state, which an earlier start skipped.
    Raises Interrupted after a signal, once the state is saved, and NonFiniteError if a metric or a
    parameter is not finite.
    """
    first = int(state.step)
    processes = jax.process_index(), jax.process_count()
    with (
        Progress(plan.name, plan.num_steps, first, "step", leave=True) as progress,
        stop_signals() as signals,
        Watchdog(plan.watchdog_secs, processes) as watchdog,
    ):
        loop = _Loop(plan, progress, signals, watchdog)
        if not owed or loop.evaluate(first, state):
            state = loop.steps(first, state, batches)
    stop = any_signal(signals)  # including one after the last step, which nothing else would notice
    if stop:
        path = plan.checkpoints.path(int(state.step))
        raise Interrupted(
            f"stopped at step {int(state.step)}, saved in {path}; run the same command to resume",
            stop,
        )
    return state


@dataclasses.dataclass(frozen=True)
class _Loop:
    """A plan being carried out, with its progress bar and watchdog.

    signals: the stop signals so far; new ones are appended as they arrive.
    """

    plan: Plan
    progress: Progress
    signals: list[int]
    watchdog: Watchdog

    def steps(self, first: int, state: TrainState, batches: Iterator[Batch]) -> TrainState:
        """Takes the steps after `first`, with their logs, saves and evaluations, until the last one
        or a stop signal."""
        plan, watch = self.plan, Stopwatch(self.plan.secs)
        pending: list[Metrics] = []  # since the last log line, still on the devices
        for step in range(first + 1, plan.num_steps + 1):
            state, metrics = self.take(step, first, state, batches)
            pending.append(metrics)
            limit_run_ahead(pending)
            if step == first + 1:  # compilation counts as time, but not towards the speed
                jax.block_until_ready(metrics)
                watch.leave_out(plan.batch_size)

            stop = _stop_signal(self.signals, step)
            save, evaluates = bool(stop) or plan.saves(step), plan.evaluates(step)
            self.progress.update(step)
            if not (save or evaluates or plan.logs(step)):
                continue

            means = summarise(jax.device_get(pending), step)
            scalars = means | watch.stop(len(pending) * plan.batch_size)
            pending = []
            # Logged before saving: a kill in between then repeats the line instead of losing it.
            self.progress.report(plan.log(step, scalars))
            if save:
                self.save(step, state)
                stop = any_signal(self.signals)  # a signal that arrived while saving
            if stop:  # the next start makes up for this step's evaluation
                break
            if evaluates and not self.evaluate(step, state):  # save it, to make up for it later
                if not save:
                    self.save(step, state)
                break
            watch.start()
        return state

    def take(
        self, step: int, first: int, state: TrainState, batches: Iterator[Batch]
    ) -> tuple[TrainState, Metrics]:
        """Takes one step on the next batch. first: the step that this start began from."""
        self.watchdog.enter(f"waiting for the data of step {step}")
        batch = next(batches)
        self.watchdog.enter(_on_devices(step, first), long=step == first + 1)
        # The first call lowers the step. If a component of the user's own closes over an array,
        # that array is then read back from the device.
        with jax.transfer_guard("allow" if step == first + 1 else "disallow"):
            return self.plan.step(state, batch)

    def save(self, step: int, state: TrainState) -> None:
        """Saves the state after `step`. NonFiniteError if a parameter is not finite."""
        self.watchdog.enter(f"saving step {step}", long=True)
        check_finite(state, step)
        self.plan.save(step, state)

    def evaluate(self, step: int, state: TrainState) -> bool:
        """Evaluates the state and reports the result. Returns False if a stop signal ended it."""
        self.watchdog.enter(f"evaluating step {step}", long=True)
        alone = jax.process_count() == 1  # if not, the others would wait for this process
        try:
            line = self.plan.evaluate(step, state, lambda: alone and bool(self.signals))
        except Abandoned:
            return False
        self.progress.report(line)
        return True
