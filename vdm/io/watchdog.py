"""A thread that prints where a run hangs, without stopping it."""

import contextlib
import faulthandler
import sys
import threading
import time
from types import TracebackType
from typing import Self, TextIO

from vdm.io.streams import write

LONG = 8
"""Factor by which a compilation, a save or an evaluation may take longer than other phases."""


class Watchdog:
    """Prints a line and the stack of every thread if a phase lasts too long, as a context manager.

    The line names the phase and, if there are several, the process. It is repeated after twice the
    time, four times the time and so on, until another phase begins. Nothing is stopped, as only a
    person can know whether, say, the file system will respond again. The watchdog needs Python's
    global lock, so it prints nothing while a C function holds that.

    Args:
        secs: how long a phase may last; 0 switches the watchdog off.
        process: (index of this process, number of processes of the run).
        stream: where to print; None for standard error.
    """

    def __init__(
        self, secs: float, process: tuple[int, int] = (0, 1), stream: TextIO | None = None
    ) -> None:
        self._secs, self._process, self._stream = secs, process, stream
        # A tuple that is replaced as a whole: the thread sees either the old phase or the new one.
        self._phase = ("starting", time.monotonic(), secs)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def enter(self, what: str, long: bool = False) -> None:
        """Begins a phase, such as "saving"; a `long` one may last LONG times as long."""
        self._phase = (what, time.monotonic(), self._secs * (LONG if long else 1))

    def __enter__(self) -> Self:
        if self._secs:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        seen, limit = None, 0.0
        wait = 0.0
        while not self._done.wait(wait):
            phase = self._phase
            what, since, patience = phase
            if phase is not seen:
                seen, limit = phase, patience
            passed = time.monotonic() - since
            if passed >= limit:
                self._report(what, passed)
                limit *= 2
            # Wake up in time for a phase that begins in the meantime with a shorter limit.
            wait = min(self._secs, max(limit - passed, 0.0))

    def _report(self, what: str, passed: float) -> None:
        index, count = self._process
        which = f" (process {index} of {count})" if count > 1 else ""
        stream = self._stream or sys.stderr
        if stream is None:  # standard error is closed, and its descriptor may belong to a file
            return
        write(
            stream,
            f"watchdog: {passed:.0f} s without progress{which}: {what}; the run keeps waiting, and "
            "this is where every thread is\n",
        )
        with contextlib.suppress(OSError, ValueError):
            faulthandler.dump_traceback(_descriptor(stream), all_threads=True)


def _descriptor(stream: TextIO) -> int:
    """The stream's file descriptor; that of standard error if it has none (as in a notebook)."""
    try:
        return stream.fileno()
    except Exception:
        return 2
