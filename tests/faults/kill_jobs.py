"""Kills of what is done with a trained model, and of the preparation of data.

A job is one command whose result is known from an undisturbed process. Its processes are killed one
after another, a third of them at an instant that is uniform over the command's life, a third when a
uniform share of the work is done, a third while a file is written, until one comes to its end. Then

- every file is the undisturbed process's, bit for bit, but for how long it took; and after each
  kill every file is the one that was there before or that one, and none is missing but the report
  of what is being replaced;
- where a journal keeps what is finished, each process found all records that the ones before it had
  appended;
- the signals end the process, with the status that belongs to them and no traceback.
"""

import functools
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.processes import (
    Phase,
    Shared,
    arrays_of,
    choose_signal,
    complaints,
    finish,
    fork,
    has_ended,
    runs_for,
    runs_until,
    wait,
    without,
)

MOST_KILLS = 4  # of one command, so that commands are finished too
WORKDIR = "work"
NUM_IMAGES = 12  # that are compressed, in three parts

CHANGES = {
    "evaluation": {"eval.draws": 6, "eval.batch_size": 60},
    "sampling": {"sample.num_images": 40, "sample.batch_size": 4, "sample.num_steps": 20},
    "compression": {"compress.lanes": 4, "compress.num_steps": 40},
}
CHANGES["decompression"] = CHANGES["compression"]
REPORTS = (f"{WORKDIR}/eval.json", f"{WORKDIR}/samples.json")
MODES = {
    "evaluation": ["--mode=eval"],
    "sampling": ["--mode=sample"],
    "compression": ["--mode=compress", "--input={0}/images.npy", "--output={0}/images.vdm"],
    "decompression": ["--mode=decompress", "--input={0}/images.vdm", "--output={0}/pictures"],
}
PHASES = (*MODES, "preparation")


@dataclass(frozen=True)
class Job:
    """A command in a folder. `begin` is what lies in the folder beforehand, `main` the program with
    these arguments, `names` the files that it writes there, or folders of such."""

    phase: str
    begin: Path
    main: Callable[[Path], int]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Undisturbed:
    """What a job's files hold at the beginning and at the end, by their names; seconds of its life,
    units of its work and files that it writes."""

    before: dict[str, Any]
    after: dict[str, Any]
    life: float
    units: int
    writes: int


def contents(folder: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """The content of these files and folders, without times: equal for equal results."""
    found: dict[str, Any] = {}
    for name in names:
        path = folder / name
        paths = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        for file in paths:
            key = str(file.relative_to(folder))
            if file.suffix == ".npz":
                found[key] = arrays_of(file)
            elif file.suffix == ".json" and file.parent.name == WORKDIR:
                found[key] = without(json.loads(file.read_text()))
            else:
                found[key] = file.read_bytes()
    return found


def make_jobs(
    trained: Path, folder: Path, command: Callable[..., list[str]], phases: list[str]
) -> dict[str, Job]:
    """The jobs of these phases for a trained workdir; what they begin with is put into `folder`,
    and `command(workdir, **fields)` are the arguments of the program."""
    jobs = {}
    for phase in phases:
        begin = folder / f"begin {phase}"
        begin.mkdir(parents=True)
        if phase == "preparation":
            jobs[phase] = Job(phase, begin, _prepare, ("digits/1.0.0",))
            continue
        shutil.copytree(trained, begin / WORKDIR)

        def program(place: Path, phase: str = phase) -> int:
            from vdm.main import main

            arguments = [argument.format(place) for argument in MODES[phase]]
            changes = {k.replace(".", "__"): v for k, v in CHANGES[phase].items()}
            return main(["vdm.main", *command(place / WORKDIR, **changes), *arguments])

        workdir = tuple(
            f"{WORKDIR}/{name}"
            for name in (
                "eval.json", "eval_examples.npz", "omega.png", "loss_density.png",
                "samples.json", "samples.npz", "samples.png", "config.json", "metrics.jsonl",
            )
        )  # fmt: skip
        outputs = {"compression": ("images.vdm",), "decompression": ("pictures",)}.get(phase, ())
        jobs[phase] = Job(phase, begin, program, (*workdir, *outputs))
        if phase in ("compression", "decompression"):
            _write_images(begin / "images.npy")
        if phase == "decompression":
            log = folder / "compress.log"
            finish(fork(functools.partial(program, begin, "compression"), log), log)
            (begin / "images.npy").unlink()
    return jobs


def _write_images(path: Path) -> None:
    from sklearn.datasets import load_digits

    images = load_digits().images[-NUM_IMAGES:, ..., None]
    np.save(path, images.astype(np.uint8))


def _prepare(place: Path) -> int:
    from vdm.data import digits, prepare

    generate = digits.Digits._generate_examples

    def counted(self: Any, start: int, stop: int) -> Any:
        for example in generate(self, start, stop):
            SHARED.update(reached=SHARED.get()["reached"] + 1)
            yield example

    digits.Digits._generate_examples = counted
    return prepare.main(["digits", f"--data_dir={place}"])


SHARED = Shared()


def instrument() -> None:
    """Makes this process keep SHARED up to date."""
    from vdm.io import atomic
    from vdm.io.console import Progress
    from vdm.io.journal import Journal

    opened, append, update, sync = Journal.__init__, Journal.append, Progress.update, atomic.sync

    def journal(self: Journal, *args: Any, **kwargs: Any) -> None:
        opened(self, *args, **kwargs)
        SHARED.update(found=len(self.parts), saved=len(self.parts))

    def appended(self: Journal, *args: Any) -> None:
        append(self, *args)
        SHARED.update(saved=len(self.parts))

    def updated(self: Progress, done: int, *args: Any) -> None:
        SHARED.update(reached=done)
        update(self, done, *args)

    def synced(path: Path) -> None:
        SHARED.update(writes=SHARED.get()["writes"] + 1)
        sync(path)

    Journal.__init__, Journal.append = journal, appended
    Progress.update, atomic.sync = updated, synced


def start(job: Job, place: Path, log: Path) -> int:
    """The id of a process of the job."""

    def run() -> int:
        instrument()
        return job.main(place)

    SHARED.reset()
    return fork(run, log, SHARED)


def run_undisturbed(job: Job, folder: Path) -> Undisturbed:
    """Twice: the second time, with the compilation cache filled, its life is measured."""
    before = contents(job.begin, job.names)
    for attempt in ("first", "second"):
        place = folder / f"{attempt} {job.phase}"
        shutil.copytree(job.begin, place)
        log, begin = place.with_suffix(".log"), time.monotonic()
        finish(start(job, place, log), log)
        life, told = time.monotonic() - begin, SHARED.get()
    after, first = contents(place, job.names), contents(folder / f"first {job.phase}", job.names)
    assert after == first, f"{job.phase} is not repeatable: {differing(after, first)}"
    assert after != before, job.phase
    return Undisturbed(before, after, life, told["reached"], told["writes"])


def differing(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Names under which the two are not equal."""
    return sorted(k for k in {*found, *expected} if found.get(k) != expected.get(k))


def aim(pid: int, undisturbed: Undisturbed, rng: random.Random) -> tuple[bool, str]:
    """Waits for the instant of a kill: whether the process still runs, how it was chosen."""
    how = rng.choice(["at random", "at work", "in a write"] if undisturbed.writes else
                     ["at random", "at work"])  # fmt: skip
    if how == "at random":
        return runs_for(pid, rng.uniform(0.0, undisturbed.life)), how
    if how == "at work":
        units = rng.uniform(0.0, undisturbed.units)
        running = runs_until(pid, lambda: SHARED.get()["reached"] >= units)
    else:
        writes = rng.randint(1, undisturbed.writes)
        running = runs_until(pid, lambda: SHARED.get()["writes"] >= writes)
    return running and runs_for(pid, rng.uniform(0.0, 0.01)), how


def kill_job(
    job: Job, undisturbed: Undisturbed, place: Path, phase: Phase, kills: int, rng: random.Random
) -> None:
    """One command to its end, killed at most MOST_KILLS times and `kills` times in all."""
    shutil.copytree(job.begin, place)
    log, saved, mine = place.with_suffix(".log"), 0, 0
    while True:
        pid, wanted, how = start(job, place, log), 0, "not killed"
        if mine < MOST_KILLS and phase.kills < kills:
            running, how = aim(pid, undisturbed, rng)
            wanted = choose_signal(rng) if running and not has_ended(pid) else 0
        if wanted:
            os.kill(pid, wanted)
        status, told, said = wait(pid), SHARED.get(), log.read_text()
        if status is None:
            os.kill(pid, signal.SIGKILL)
            wait(pid)
        problems = complaints(wanted, status, said, told["phase"] == "over")
        now = contents(place, job.names)
        journal_is_there = bool(list((place / WORKDIR).glob("*.partial")))
        old, new = undisturbed.before, undisturbed.after
        halves = [
            name
            for name in sorted({*now, *old})
            if not (name in now and now[name] in (old.get(name), new.get(name)))
            # The report of other results goes before these, and the journal is there meanwhile.
            and not (name not in now and name in REPORTS and journal_is_there)
        ]
        if halves:
            problems.append(f"{halves} are neither the old nor the new ones")
        # A process that came to its journal, or to the work, must have found what the others left.
        begun = told["found"] >= 0 or told["reached"]
        lost = max(saved - max(told["found"], 0), 0) if begun else 0
        finished = now == undisturbed.after
        saved = 0 if finished and not journal_is_there else max(saved, told["saved"])
        if wanted:
            phase.kills += 1
            phase.signals[signal.Signals(wanted).name] += 1
        phase.lost += lost
        mine += bool(wanted)
        if status == 0 and not finished:
            problems.append(f"ends with other files: {differing(now, undisturbed.after)}: {said}")
        phase.wrong += [f"{place.name}: {problem}" for problem in problems]
        print(
            f"{job.phase}: {signal.Signals(wanted).name if wanted else 'finished'} {how} at "
            f"{told['reached']} of {undisturbed.units}, {told['writes']} writes: lost {lost}"
            f"{''.join('; WRONG: ' + p for p in problems)}",
            flush=True,
        )
        if status == 0 or not wanted:
            break
    shutil.rmtree(place, ignore_errors=True)


def run_jobs(
    jobs: dict[str, Job], kills: dict[str, int], folder: Path, rng: random.Random, end: float
) -> dict[str, Phase]:
    """That many kills of each, while the monotonic clock is before `end`."""
    found = {}
    for name, job in jobs.items():
        phase = found[name] = Phase()
        if not kills[name]:
            continue
        undisturbed, count = run_undisturbed(job, folder), 0
        while phase.kills < kills[name] and time.monotonic() < end:
            kill_job(job, undisturbed, folder / f"{name} {count}", phase, kills[name], rng)
            count += 1
    return found
