"""What a training does, and when: all that the loop over steps asks of one."""

import dataclasses
from collections.abc import Callable

from vdm.io.checkpoints import Checkpoints
from vdm.training.state import TrainState
from vdm.training.step import StepFn


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
