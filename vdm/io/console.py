"""What a person sees while the program runs: a progress bar on a terminal, else lines."""

import sys
import time
from types import TracebackType
from typing import Self

from vdm.devices import processes
from vdm.io.streams import Forgiving, write

LINE_SECS = 30.0
"""Without a terminal, from one line to the next."""


def say(line: str) -> None:
    """One line on standard output, at once, also when it goes to a file or a pipe, and without an
    error where it cannot be written; of several processes the first speaks."""
    if processes.is_first():
        write(sys.stdout, f"{line}\n")


class Progress:
    """Progress of `total` units of work: a bar on a terminal, which `leave` keeps there at the end;
    elsewhere what is reported, and a line where nothing was for half a minute, with the time that
    is left."""

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
        self._updates, self._first = 0, done  # units done when the clock starts
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
            postfix="compiling",  # until something is done
        )

    def update(self, done: int, total: int | None = None) -> None:
        """`done` units of all, of a total that may have become known, are finished."""
        if total is not None:
            self._bar.total = self._total = total
        self._updates += 1
        if self._updates <= 2:  # where it begins, and the first part, with its compilation
            self._begin, self._first = time.monotonic(), done
        if done > self._done and getattr(self._bar, "postfix", "") == "compiling":
            self._bar.postfix = None
        self._bar.update(done - self._done)
        self._done = done
        if self._bar.disable and not self._quiet and time.monotonic() - self._line > LINE_SECS:
            self.report(f"{self._what}: {done}/{self._total} {self._unit}")

    def report(self, text: str) -> None:
        """News of the work: behind the bar on a terminal, a line of its own elsewhere."""
        if self._bar.disable:
            self._line = time.monotonic()
            say(text + self._left())
        else:
            self._bar.set_postfix_str(text.partition(": ")[2] or text)  # the bar counts steps

    def _left(self) -> str:
        """Such as ", 02:30 left", at the speed since the clock started."""
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
