"""Processes that are killed at a chosen instant, and what they tell of themselves until then.

A start costs the imports, 5 seconds, so each process is forked from one that has them done and has
started no JAX backend. Fork with threads is safe where none holds a lock: the only ones are
OpenBLAS's, which it stops for a fork by itself.
"""

import importlib
import mmap
import os
import random
import signal
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

PATIENCE = 900.0  # seconds until a process counts as hanging
NOT_REPEATABLE = {"time_secs", "images_per_sec"}


class Shared:
    """What a process says of itself that survives its kill: its phase; how far it has come, steps
    begun or units of work done; what is saved, the step of the last checkpoint or the records of a
    journal; how many of those it found when it opened it, -1 before; files written; seconds of the
    last save."""

    _NAMES = ("phase", "reached", "saved", "found", "writes", "secs")
    _FIELDS = struct.Struct("<16sqqqqd")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)  # shared with forked processes
        self.reset()

    def reset(self) -> None:
        """As a process that is to be started finds it."""
        self._set("start-up", 0, 0, -1, 0, 0.0)

    def _set(self, phase: str, *numbers: Any) -> None:
        self._memory[: self._FIELDS.size] = self._FIELDS.pack(phase.encode(), *numbers)

    def get(self) -> dict[str, Any]:
        """All of it by name."""
        phase, *numbers = self._FIELDS.unpack(self._memory[: self._FIELDS.size])
        return dict(zip(self._NAMES, (phase.rstrip(b"\0").decode(), *numbers), strict=True))

    def update(self, **changes: Any) -> None:
        """Other values for some of it."""
        self._set(*(self.get() | changes).values())


@dataclass
class Phase:
    """What became of the kills of one phase: `lost` counts what was saved and was not there for the
    next start, a checkpoint, a record of a journal or a finished file; `wrong` says what else was
    not as it should be."""

    kills: int = 0
    lost: int = 0
    signals: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def preload() -> None:
    """The imports of a run."""
    importlib.import_module("tests.preloaded")


def fork(function: Callable[[], int], log: Path, shared: Shared | None = None) -> int:
    """The id of a process that calls `function` with its output in a file, and says in `shared`
    when that is over."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 99
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        status = function()
        if shared is not None:
            shared.update(phase="over")
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait(pid: int, secs: float = PATIENCE) -> int | None:
    """The exit status, minus the number of a signal; None if it has none after that time."""
    end = time.monotonic() + secs
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(min(0.002, max(end - time.monotonic(), 0.0)))


def finish(pid: int, log: Path) -> None:
    """Waits for a process that must succeed."""
    status = wait(pid)
    assert status == 0, (status, log.read_text())


def has_ended(pid: int) -> bool:
    """Whether it has, without reaping it: its status is still wanted."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def runs_until(pid: int, condition: Callable[[], bool]) -> bool:
    """Waits for the condition: whether the process still runs then."""
    while not has_ended(pid):
        if condition():
            return True
        time.sleep(0.0005)
    return False


def runs_for(pid: int, secs: float) -> bool:
    """The same for an instant."""
    end = time.monotonic() + secs
    return runs_until(pid, lambda: time.monotonic() >= end)


def choose_signal(rng: random.Random) -> signal.Signals:
    """SIGKILL or SIGTERM."""
    return rng.choice([signal.SIGKILL, signal.SIGTERM])


def complaints(wanted: int, status: int | None, said: str, over: bool) -> list[str]:
    """Complaints about how a process ended that was sent the signal `wanted` (0: no signal).

    over: whether its program had finished before the signal."""
    if status is None:
        return [f"hangs: {said}"]
    # What SIGTERM raises in a callback of the garbage collector, Python prints with a trace.
    swallowed = wanted == signal.SIGTERM and "Exception ignored" in said
    problems = []
    if "unreadable" in said or ("Traceback" in said and not swallowed):
        problems.append(f"says {said}")
    # Before main() and after it a signal finds no handler, and a process that is exiting none at
    # all; a swallowed one leaves time to finish.
    allowed = {0: {0}, signal.SIGKILL: {-9}, signal.SIGTERM: {143, -15}}[wanted]
    if status not in allowed and not ((swallowed or over) and status == 0):
        problems.append(f"status {status} after signal {wanted}: {said}")
    return problems


def without(found: dict[str, Any]) -> dict[str, Any]:
    """A record without the times."""
    return {
        key: value
        for key, value in found.items()
        if key not in NOT_REPEATABLE and not key.endswith("_secs")
    }


def arrays_of(file: Path) -> dict[str, tuple]:
    """The arrays of an .npz: all of each that can differ."""
    with np.load(file) as found:
        return {k: (str(v.dtype), v.shape, v.tobytes()) for k, v in found.items()}


def differing_arrays(file: Path, other: Path) -> list[str]:
    """Names of arrays whose bits differ."""
    ours, theirs = arrays_of(file), arrays_of(other)
    return [
        f"{file.name}:{name}"
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    ]
