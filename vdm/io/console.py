"""What a person sees while the program runs: a progress bar on a terminal, else lines."""

import sys
import time
from types import TracebackType
from typing import Self

from vdm import distributed
from vdm.streams import Forgiving, write


def say(line: str) -> None:
    """One line on standard output, at once, also when it goes to a file or a pipe, and without an
    error where it cannot be written; of several processes the first speaks."""
    if distributed.is_first():
        write(sys.stdout, f"{line}\n")


class Progress:
    """Progress of `total` units of work: a bar on a terminal, which `leave` keeps there at the end;
    else only what is reported, with the time that is left."""

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
        self._done, self._total = done, total
        self._first: tuple[float, int] | None = None  # when something was done, and how much
        self._bar = tqdm(
            desc=what,
            total=total,
            initial=done,
            unit=unit,
            disable=quiet or not stream.isatty() or not distributed.is_first(),
            file=stream,
            dynamic_ncols=True,
            leave=leave,
            postfix="compiling",  # until something is done
        )

    def update(self, done: int, total: int | None = None) -> None:
        """`done` units of all, of a total that may have become known, are finished."""
        if total is not None:
            self._bar.total = self._total = total
        if self._first is None:  # what took a compilation says nothing of the others
            self._first = time.monotonic(), done
            self._bar.postfix = None
        self._bar.update(done - self._done)
        self._done = done

    def report(self, text: str) -> None:
        """News of the work: behind the bar on a terminal, a line of its own elsewhere."""
        if self._bar.disable:
            say(text + self._left())
        else:
            self._bar.set_postfix_str(text.partition(": ")[2] or text)  # the bar counts steps

    def _left(self) -> str:
        """Such as ", 02:30 left"."""
        since, before = self._first or (0.0, 0)
        if not before < self._done < self._total:
            return ""
        secs = (time.monotonic() - since) * (self._total - self._done) / (self._done - before)
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
