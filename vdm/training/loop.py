"""The only loop over steps, and the plan that it carries out: it knows neither runs nor configs."""

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
    """SIGTERM or SIGINT arrived and the state is saved; `signum` is the signal."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


@dataclasses.dataclass(frozen=True)
class Plan:
    """A training, of the run's model or of its noise-conditioned classifier.

    name: in the progress bar. step: compiled; num_steps of them are taken, the last one is saved.
    batch_size: images of a step. save_every, log_every, eval_every: intervals in steps; 0 for the
    last two is never, though every save has its log line. watchdog_secs: as in config.train.
    secs: seconds of training before this start.
    log: (step, the scalars of `vdm.training.metrics`) -> the log line; may record the scalars.
    save: (step, state); writes to `checkpoints`. evaluate: (step, state, stop) -> a line with the
    result; Abandoned soon after stop() is true; may record it.
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
        """Whether that step has a log line of its own, beside those of saves and evaluations."""
        return _is_due(step, self.log_every)

    def saves(self, step: int) -> bool:
        """Whether that step has a checkpoint, whatever signals come."""
        return step == self.num_steps or _is_due(step, self.save_every)

    def evaluates(self, step: int) -> bool:
        """Whether there is an evaluation on the way at that step; the last one has its own."""
        return _is_due(step, self.eval_every) and 0 < step < self.num_steps


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


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
    stop = any_signal(signals)  # also one that came after the last step: nobody else would look
    if stop:
        path = plan.checkpoints.path(int(state.step))
        raise Interrupted(
            f"stopped at step {int(state.step)}, saved in {path}; the same command goes on", stop
        )
    return state


@dataclasses.dataclass(frozen=True)
class _Loop:
    """A plan being carried out, with what watches over it.

    signals: the stop signals that came so far, appended to as they arrive.
    """

    plan: Plan
    progress: Progress
    signals: list[int]
    watchdog: Watchdog

    def steps(self, first: int, state: TrainState, batches: Iterator[Batch]) -> TrainState:
        """Takes the steps after `first`, with their logs, saves and evaluations, until the last one
        or a stop signal."""
        plan, watch = self.plan, Stopwatch(self.plan.secs)
        pending: list[Metrics] = []  # of the steps since the last log line, still on the devices
        for step in range(first + 1, plan.num_steps + 1):
            state, metrics = self.take(step, first, state, batches)
            pending.append(metrics)
            limit_run_ahead(pending)
            if step == first + 1:  # its compilation counts as time, not as speed
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
            # Logged before the save: a kill in between repeats the line and loses none.
            self.progress.report(plan.log(step, scalars))
            if save:
                self.save(step, state)
                stop = any_signal(self.signals)  # again: what came meanwhile stops here
            if stop:  # an evaluation of this step is made up for by the next start
                break
            if evaluates and not self.evaluate(step, state):  # made up for, if the state is there
                if not save:
                    self.save(step, state)
                break
            watch.start()
        return state

    def take(
        self, step: int, first: int, state: TrainState, batches: Iterator[Batch]
    ) -> tuple[TrainState, Metrics]:
        """Takes one step on the next batch; `first` is the state that this start began with."""
        self.watchdog.enter(f"waiting for the data of step {step}")
        batch = next(batches)
        self.watchdog.enter(_on_devices(step, first), long=step == first + 1)
        # The first call lowers the step, and a component of the user's own may close over an
        # array, which is read back from the device then.
        with jax.transfer_guard("allow" if step == first + 1 else "disallow"):
            return self.plan.step(state, batch)

    def save(self, step: int, state: TrainState) -> None:
        """Saves the state after `step`; NonFiniteError where a parameter is not finite."""
        self.watchdog.enter(f"saving step {step}", long=True)
        check_finite(state, step)
        self.plan.save(step, state)

    def evaluate(self, step: int, state: TrainState) -> bool:
        """Evaluates the state and reports the result; False if a stop signal cut that short."""
        self.watchdog.enter(f"evaluating step {step}", long=True)
        alone = jax.process_count() == 1  # else the others would wait for this one
        try:
            line = self.plan.evaluate(step, state, lambda: alone and bool(self.signals))
        except Abandoned:
            return False
        self.progress.report(line)
        return True
