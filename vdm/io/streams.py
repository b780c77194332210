"""Standard output and error that never end a run: output that cannot be written is dropped.

The reader of a pipe may have exited (`| head`), the disk may be full or the terminal closed; a
stream may be closed, replaced by an object that has only `write`, or have an encoding that lacks a
letter of some path.
"""

import atexit
import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any


def write(stream: Any, text: str) -> None:
    """Writes to a stream, which may be None, flushes it and ignores errors. Letters that the
    stream's encoding lacks are written as escapes."""
    try:
        try:
            stream.write(text)
        except UnicodeEncodeError as error:
            stream.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
        stream.flush()
    except Exception:
        return


class Forgiving:
    """Wraps a stream so that the methods that `print` and tqdm call never raise."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes and flushes the text, if possible."""
        write(self._stream, text)
        return len(text)

    def flush(self) -> None:
        """Does nothing, because `write` flushes."""

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        try:
            return bool(self._stream.isatty())
        except Exception:
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def forgiving() -> Iterator[None]:
    """Makes the standard streams `Forgiving` inside the block, which is the whole program. Output
    that they still hold at the end does not change the exit status."""
    # If one of descriptors 0 to 2 is closed, the next file opened would get its number, and output
    # would be written to that file.
    for descriptor in range(3):
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
    """Applies `forgiving` to the rest of the program."""
    context = forgiving()
    context.__enter__()
    atexit.register(context.__exit__, None, None, None)


@contextlib.contextmanager
def quiet_orbax() -> Iterator[None]:
    """Silences orbax inside the block; what matters is raised as an exception.

    orbax logs dozens of lines for each save through absl's logger, which this package and the host
    program use as well. On a full disk, its threads and those of tensorstore, which call an event
    loop that orbax has closed, print hundreds of lines of tracebacks.
    """
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
        if sys.unraisablehook is hook:  # otherwise another thread has set one in the meantime
            sys.unraisablehook = before


def _empty(stream: Any) -> None:
    """Drops buffered output that cannot be written. Python would otherwise try again as it exits,
    print "Exception ignored" and exit with status 120."""
    try:
        stream.flush()
    except Exception:
        with contextlib.suppress(Exception):
            descriptor = stream.fileno()
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), descriptor)
            stream.flush()
