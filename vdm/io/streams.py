"""Standard output and error that cannot end a run: what cannot be written is left out.

The reader of a pipe may have gone (`| head`), the disk or the terminal too; a stream may be closed,
replaced by an object with `write` alone, or have an encoding without a letter of some path.
"""

import atexit
import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any


def write(stream: Any, text: str) -> None:
    """Writes to a stream, which may be None, and flushes it. Letters that its encoding does not
    have are written as escapes."""
    try:
        try:
            stream.write(text)
        except UnicodeEncodeError as error:
            stream.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
        stream.flush()
    except Exception:
        return


class Forgiving:
    """A stream with all that `print` and tqdm ask of one, none of which raises."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes the text at once, as far as that is possible."""
        write(self._stream, text)
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        try:
            return bool(self._stream.isatty())
        except Exception:
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def forgiving() -> Iterator[None]:
    """For a whole program: the standard streams are `Forgiving` inside, and what they still hold
    at the end does not change the exit status."""
    for descriptor in range(3):  # a file would be opened as one that is closed, and written to
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (Forgiving(stream) for stream in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        for stream in streams:
            _empty(stream)


def forgive() -> None:
    """`forgiving` for the rest of the program."""
    context = forgiving()
    context.__enter__()
    atexit.register(context.__exit__, None, None, None)


@contextlib.contextmanager
def quiet_orbax() -> Iterator[None]:
    """orbax logs dozens of lines for each save through absl's logger, which is also ours and the
    host program's, and on a full disk hundreds of lines of tracebacks from its threads, and from
    those of tensorstore, which call a loop that orbax has closed. What matters comes as an
    exception."""
    logger, inside = logging.getLogger("absl"), f"{os.sep}orbax{os.sep}checkpoint{os.sep}"
    quiet = logging.Filter()
    quiet.filter = lambda record: inside not in record.pathname
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    logger.addFilter(quiet)
    sys.unraisablehook = hook
    try:
        yield
    finally:
        logger.removeFilter(quiet)
        if sys.unraisablehook is hook:  # else another thread has set one meanwhile
            sys.unraisablehook = before


def _empty(stream: Any) -> None:
    """Drops what a stream holds and cannot write: Python would try it once more as it exits, print
    "Exception ignored" and exit with status 120."""
    try:
        stream.flush()
    except Exception:
        with contextlib.suppress(Exception):
            descriptor = stream.fileno()
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), descriptor)
            stream.flush()
