"""Trainings that are killed at random and started again, until they are finished.

A training is the program on the digits with a tiny network. Each of its processes is killed by
SIGKILL or SIGTERM, half of them at an instant that is uniform over an undisturbed run's life, half
inside a save: when the folder STEP.partial has appeared, after a uniform part of the time that a
save takes. The same command is then started again, until the training is finished. Then

- the final checkpoint, the evaluation and the samples are those of the undisturbed run, bit for
  bit (but for how long they took);
- metrics.jsonl has every line once, with the values of the undisturbed run: a line is a mean over
  the steps since the line before it, and SIGTERM adds one where it stopped;
- every start resumed from the newest complete save, and no save was damaged;
- SIGTERM lost no step, SIGKILL at most those since the last save.
"""

import json
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.processes import (
    Phase,
    Shared,
    choose_signal,
    complaints,
    differing_arrays,
    finish,
    fork,
    has_ended,
    runs_for,
    wait,
    without,
)

ROOT = Path(__file__).parents[2]


NUM_STEPS, SAVE_EVERY, LOG_EVERY, EVAL_EVERY = 60, 15, 5, 30


MOST_KILLS = 8  # of one training, so that trainings are finished too


# With a learning rate that does not depend on the number of steps, so that all compile the same.
TINY = {
    "network.kwargs.width": 8, "network.kwargs.num_blocks": 0, "optim.kwargs.decay": "none",
    "schedule.kwargs.hidden_features": 8, "train.num_devices": 2, "train.batch_size": 32,
    "train.num_steps": NUM_STEPS, "train.save_every": SAVE_EVERY, "train.log_every": LOG_EVERY,
    "train.eval_every": EVAL_EVERY, "train.eval_draws": 1, "eval.draws": 2,
    "sample.num_steps": 3, "sample.num_images": 4,
}  # fmt: skip


def command(workdir: Path, **changes: Any) -> list[str]:
    """The arguments of a training in a workdir."""
    fields = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    if "optim.name" in fields:
        del fields["optim.kwargs.decay"]  # another optimiser's
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    return [f"--config={ROOT / 'configs' / 'digits.py'}", f"--workdir={workdir}", *overrides]


def instrument(shared: Shared) -> None:
    """Makes this process keep `shared` up to date."""
    from vdm.io.checkpoints import Checkpoints
    from vdm.io.watchdog import Watchdog
    from vdm.runs import sample, train

    enter, save = Watchdog.enter, Checkpoints.save

    def entered(self: Watchdog, what: str, long: bool = False) -> None:
        phase = {"saving": "saving", "evaluating": "evaluating"}.get(what.split()[0], "training")
        step = re.search(r"step (\d+)", what)
        shared.update(phase=phase, reached=int(step[1]) if step else 0)
        enter(self, what, long)

    def saved(self: Checkpoints, step: int, state: Any) -> None:
        start = time.monotonic()
        save(self, step, state)
        shared.update(saved=step, secs=time.monotonic() - start)

    def phase(name: str, function: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            shared.update(phase=name)
            return function(*args, **kwargs)

        return call

    Watchdog.enter, Checkpoints.save = entered, saved
    train.report_evaluation = phase("evaluating", train.report_evaluation)
    sample.report_samples = phase("sampling", sample.report_samples)


def start(arguments: list[str], shared: Shared, log: Path) -> int:
    """The id of a process of the program."""

    def run() -> int:
        from vdm.main import main

        instrument(shared)
        return main(["vdm.main", *arguments])

    shared.reset()
    return fork(run, log, shared)


def rows(workdir: Path) -> list[dict[str, Any]]:
    """metrics.jsonl."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def checkpoint_steps(workdir: Path) -> list[int]:
    """The complete ones, as their names say."""
    folder = workdir / "checkpoints"
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


def dump_state(workdir: Path, file: Path) -> int:
    """Writes the arrays of the newest checkpoint, for a comparison without JAX."""
    import jax
    from ml_collections import ConfigDict

    from vdm.devices import sharding
    from vdm.runs.run import open_run

    config = ConfigDict(json.loads((workdir / "config.json").read_text()))
    sharding.split_host(config.train.num_devices)
    run = open_run(config, workdir)
    from vdm.runs import states

    step, state = run.checkpoints.restore(states.abstract_state(run))
    assert step == NUM_STEPS, step
    leaves = {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree.leaves_with_path(state)}
    np.savez(file, **leaves)
    return 0


def expected_line(each: dict[int, dict[str, Any]], before: int, step: int) -> dict[str, Any]:
    """The line of `step` after one of `before`, from the values of each single step."""
    line: dict[str, Any] = {"step": step}
    for name in each[step]:
        values = [np.float32(each[s][name]) for s in range(before + 1, step + 1)]
        last = name in ("train/omega_0", "train/omega_1")
        line[name] = float(values[-1] if last else np.mean(values))
    return line


@dataclass
class Reference:
    """An undisturbed run: its folder, each step's values, how long it and a save take."""

    folder: Path
    each: dict[int, dict[str, Any]]
    life: float = 0.0
    save_secs: float = 0.05

    def wrong(self, workdir: Path, stops: set[int]) -> list[str]:
        """In what a finished training that SIGTERM stopped at `stops` differs."""
        found: list[str] = []
        state = workdir / "state.npz"
        log = workdir / "dump.log"
        if wait(fork(lambda: dump_state(workdir, state), log)) != 0:
            return [f"the final checkpoint is not restored: {log.read_text()}"]
        for name in ("state.npz", "eval_examples.npz", "samples.npz"):
            found += differing_arrays(workdir / name, self.folder / name)
        for name in ("eval.json", "samples.json"):
            ours, theirs = (json.loads((w / name).read_text()) for w in (workdir, self.folder))
            if without(ours) != without(theirs):
                found.append(name)
        lines = rows(workdir)
        training = [line for line in lines if "train/bpd" in line]
        steps = [line["step"] for line in training]
        regular = set(range(LOG_EVERY, NUM_STEPS + 1, LOG_EVERY))
        if steps != sorted(regular | (stops - {0})):
            found.append(f"lines of steps {steps}, stopped at {sorted(stops)}")
        else:
            for before, line in zip([0, *steps[:-1]], training, strict=True):
                if without(line) != expected_line(self.each, before, line["step"]):
                    found.append(f"line of step {line['step']}")
        evaluations = [without(line) for line in lines if "eval/bpd" in line]
        theirs = [without(line) for line in rows(self.folder) if "eval/bpd" in line]
        if evaluations != theirs:
            found.append(f"evaluations at {[line['step'] for line in evaluations]}")
        return found


def make_reference(folder: Path, shared: Shared, of_training: bool = True) -> Reference:
    """Runs it; the second time, with the compilation cache filled, its life is measured. Where no
    training is compared with it, once."""
    log = folder / "log"
    if not of_training:
        finish(start(command(folder / "whole"), shared, log), log)
        return Reference(folder / "whole", {})
    finish(start(command(folder / "each", train__log_every=1), shared, log), log)
    begin = time.monotonic()
    finish(start(command(folder / "whole"), shared, log), log)
    life, save_secs = time.monotonic() - begin, shared.get()["secs"]
    whole = folder / "whole"
    finish(fork(lambda: dump_state(whole, whole / "state.npz"), log), log)
    each = {
        line["step"]: {k: v for k, v in without(line).items() if k.startswith("train/")}
        for line in rows(folder / "each")
        if "train/bpd" in line
    }
    return Reference(whole, each, life, save_secs)


@dataclass
class Tally(Phase):
    """What happened to the trainings so far."""

    moments: Counter = field(default_factory=Counter)
    aimed_at_saves: int = 0
    trainings: int = 0
    lost_steps_max: int = 0

    def count(self, sent: signal.Signals, moment: str, how: str, lost: int) -> None:
        """Adds a kill by the signal `sent` that cost `lost` steps."""
        self.kills += 1
        self.signals[sent.name] += 1
        self.moments[moment] += 1
        self.aimed_at_saves += how == "in a save"
        self.lost_steps_max = max(self.lost_steps_max, lost)


def aim(pid: int, workdir: Path, reference: Reference, rng: random.Random) -> tuple[bool, str]:
    """Waits for the instant of a kill: (whether the process still runs, how it was chosen)."""
    if rng.random() < 0.5:
        return runs_for(pid, rng.uniform(0.0, reference.life)), "at random"
    seen, skip, folder = False, rng.randrange(3), workdir / "checkpoints"
    while not has_ended(pid):
        try:
            partial = any(".partial" in name for name in os.listdir(folder))
        except OSError:
            partial = False
        if partial and not seen:
            if not skip:
                return runs_for(pid, rng.uniform(0.0, reference.save_secs)), "in a save"
            skip -= 1
        seen = partial
        time.sleep(0.0005)
    return False, "in a save"


def train_with_kills(
    workdir: Path,
    reference: Reference,
    shared: Shared,
    tally: Tally,
    kills: int,
    rng: random.Random,
) -> None:
    """One training to its end, killed at most MOST_KILLS times and `kills` times in all."""
    log, stops = workdir.with_suffix(".log"), set()
    newest, mine = 0, 0  # step of the save that the next start must resume from; kills here
    while True:
        pid = start(command(workdir), shared, log)
        running, how, wanted = True, "", 0
        if mine < MOST_KILLS and tally.kills < kills:
            running, how = aim(pid, workdir, reference, rng)
            wanted = choose_signal(rng) if running else 0
        moment = shared.get()["phase"]
        if wanted:
            os.kill(pid, wanted)
        status = wait(pid)
        said, told = log.read_text(), shared.get()
        problems = complaints(wanted, status, said, told["phase"] == "over")
        if status is None:
            os.kill(pid, signal.SIGKILL)
            wait(pid)
            tally.wrong.append(f"{workdir.name}, {moment}: {problems}")
            return
        resumed = re.search(r"resuming .* at step (\d+)", said)
        if resumed and int(resumed[1]) != newest:
            problems.append(f"resumed at step {resumed[1]}, saved was {newest}")
        newest = max(checkpoint_steps(workdir), default=0)
        if newest < told["saved"]:
            tally.lost += 1
            problems.append(f"save of step {told['saved']} is lost")
        lost = max(told["reached"] - newest, 0)
        if wanted:
            mine += 1
            tally.count(wanted, moment, how, lost)
            stopped = re.search(r"stopped at step (\d+)", said)
            if stopped:
                stops.add(int(stopped[1]))
                if int(stopped[1]) != newest:
                    problems.append(f"stopped at {stopped[1]}, saved {newest}")
            if lost > SAVE_EVERY:
                problems.append(f"lost {lost} steps")
            print(
                f"kill {tally.kills:3d} {wanted.name} {how:9s} while {moment:10s} "
                f"at step {told['reached']:3d}: saved {newest:3d}, lost {lost:2d}"
                f"{''.join('; WRONG: ' + p for p in problems)}",
                flush=True,
            )
        tally.wrong += [f"{workdir.name}: {problem}" for problem in problems]
        if status == 0 or (not wanted and status):
            break
    tally.trainings += 1
    wrong = reference.wrong(workdir, stops) if status == 0 else []
    tally.wrong += [f"{workdir.name}: {what}" for what in wrong]
    print(f"{workdir.name} finished after {mine} kills: {wrong or 'as the undisturbed run'}")
