"""A thread that says where a run hangs, and leaves it alone."""

import contextlib
import faulthandler
import sys
import threading
import time
from types import TracebackType
from typing import Self, TextIO

from vdm.io.streams import write

LONG = 8
"""How many times the patience a compilation, a save or an evaluation gets."""


class Watchdog:
    """Writes a line and the stack of every thread when a phase lasts longer than `secs`, as a
    context manager.

    The line names the phase and, of several, the process. The next ones follow after twice the
    time each, until another phase is entered. Nothing is stopped: only a person knows whether the
    file system comes back. It needs Python's lock, so it is silent while a C function holds that.

    Args:
        secs: the patience; 0 watches nothing.
        process: index and number of the processes of the run.
        stream: where to write; None for standard error.
    """

    def __init__(
        self, secs: float, process: tuple[int, int] = (0, 1), stream: TextIO | None = None
    ) -> None:
        self._secs, self._process, self._stream = secs, process, stream
        # One tuple, replaced whole: the thread sees the old phase or the new one.
        self._phase = ("starting", time.monotonic(), secs)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def enter(self, what: str, long: bool = False) -> None:
        """The run does `what` from now on, such as "saving"; a `long` phase gets more patience."""
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
            # A phase entered meanwhile may have less patience than what is left of this one.
            wait = min(self._secs, max(limit - passed, 0.0))

    def _report(self, what: str, passed: float) -> None:
        index, count = self._process
        of = f" (process {index} of {count})" if count > 1 else ""
        stream = self._stream or sys.stderr
        if stream is None:  # standard error is closed, and its descriptor may be that of a file
            return
        write(
            stream,
            f"watchdog: {passed:.0f} s without progress{of}: {what}; it goes on waiting, and this "
            "is where every thread is\n",
        )
        with contextlib.suppress(OSError, ValueError):
            faulthandler.dump_traceback(_descriptor(stream), all_threads=True)


def _descriptor(stream: TextIO) -> int:
    """Of the stream, or of standard error where it is none of the system's (in a notebook)."""
    try:
        return stream.fileno()
    except Exception:
        return 2
