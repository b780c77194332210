"""Output for the user while the program runs: a progress bar on a terminal, otherwise lines."""

import sys
import time
from types import TracebackType
from typing import Self

from vdm.devices import processes
from vdm.io.streams import Forgiving, write

LINE_SECS = 30.0
"""Seconds between two progress lines without a terminal."""


def say(line: str) -> None:
    """Prints a line to standard output, flushed, and ignores errors of writing.

    If a run has several processes, only the first one prints.
    """
    if processes.is_first():
        write(sys.stdout, f"{line}\n")


class Progress:
    """Shows the progress of `total` units of work, `done` of which are done already.

    On a terminal it draws a bar, which stays at the end if `leave` is set. Elsewhere it prints each
    report, and a line with the remaining time if there was no report for LINE_SECS. If `quiet` is
    set, it prints only the reports.
    """

    def __init__(
        self,
        what: str,
        total: int,
        done: int = 0,
        unit: str = "it",
        quiet: bool = False,
        leave: bool = False,
    ) -> None:
        from tqdm import tqdm

        stream = Forgiving(sys.stdout)
        self._what, self._unit, self._quiet = what, unit, quiet
        self._done, self._total = done, total
        self._updates, self._first = 0, done  # _first: units done when the clock started
        self._begin = self._line = time.monotonic()
        self._bar = tqdm(
            desc=what,
            total=total,
            initial=done,
            unit=unit,
            disable=quiet or not stream.isatty() or not processes.is_first(),
            file=stream,
            dynamic_ncols=True,
            leave=leave,
            postfix="compiling",  # removed once something is done
        )

    def update(self, done: int, total: int | None = None) -> None:
        """Sets the number of finished units and, if it has become known, their total."""
        if total is not None:
            self._bar.total = self._total = total
        self._updates += 1
        # The clock restarts after the first part of the work, which includes compilation.
        if self._updates <= 2:
            self._begin, self._first = time.monotonic(), done
        if done > self._done and getattr(self._bar, "postfix", "") == "compiling":
            self._bar.postfix = None
        self._bar.update(done - self._done)
        self._done = done
        if self._bar.disable and not self._quiet and time.monotonic() - self._line > LINE_SECS:
            self.report(f"{self._what}: {done}/{self._total} {self._unit}")

    def report(self, text: str) -> None:
        """Shows a message: after the bar on a terminal, as a separate line elsewhere."""
        if self._bar.disable:
            self._line = time.monotonic()
            say(text + self._left())
        else:
            # The bar already counts steps, which a text such as "step 10: ..." begins with.
            self._bar.set_postfix_str(text.partition(": ")[2] or text)

    def _left(self) -> str:
        """The remaining time, such as ", 02:30 left", at the speed since the clock started."""
        done = self._done - self._first
        if not done or self._done >= self._total:
            return ""
        secs = (time.monotonic() - self._begin) / done * (self._total - self._done)
        return f", {self._bar.format_interval(secs)} left"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()
