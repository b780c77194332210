"""What a person sees while the program runs: a progress bar on a terminal, else lines."""

import sys
from types import TracebackType
from typing import Self

from vdm import distributed


def say(line: str) -> None:
    """One line on standard output, at once, also when it goes to a file or a pipe; of several
    processes the first speaks."""
    if distributed.is_first():
        print(line, flush=True)


class Progress:
    """Progress of `total` units of work: a bar on a terminal, else only what is reported."""

    def __init__(
        self, what: str, total: int, done: int = 0, unit: str = "it", quiet: bool = False
    ) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            desc=what,
            total=total,
            initial=done,
            unit=unit,
            disable=quiet or not sys.stdout.isatty() or not distributed.is_first(),
            file=sys.stdout,
            dynamic_ncols=True,
            leave=False,
        )

    def update(self, done: int, total: int | None = None) -> None:
        """`done` units of all, of a total that may have become known, are finished."""
        if total is not None:
            self._bar.total = total
        self._bar.update(done - self._bar.n)

    def report(self, text: str) -> None:
        """News of the work: behind the bar on a terminal, a line of its own elsewhere."""
        if self._bar.disable:
            say(text)
        else:
            self._bar.set_postfix_str(text.partition(": ")[2] or text)  # the bar counts steps

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()
