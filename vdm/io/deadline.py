"""Ends a program that was asked to stop but does not, for instance because it is in compiled code.

Python runs signal handlers only after the main thread has returned from such a call, and a
compilation may take a minute. A second thread learns of a signal at once, through the file
descriptor to which Python writes its number.
"""

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_END = b"\0"  # no signal has this number


@contextlib.contextmanager
def deadline(secs: float, end: Callable[[int], None]) -> Iterator[None]:
    """Calls end(signum) in a thread if the block is still running `secs` seconds after a signal.

    A signal received in a training loop is ignored here, because the loop saves before it stops.
    Outside the main thread, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _forget_in_children()
    process = os.getpid()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    ended = threading.Event()

    def watch() -> None:
        while (signum := os.read(reader, 1)) > _END:
            if signum[0] in SIGNALS and not _training() and not ended.wait(secs):
                end(signum[0])

    watcher = threading.Thread(target=watch, name="deadline", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(previous)
        if os.getpid() == process:  # a forked worker has no watcher
            os.write(writer, _END)  # closing is not enough: a forked worker may hold it open
            watcher.join()
        os.close(writer)
        os.close(reader)


@functools.cache
def _forget_in_children() -> None:
    """Stops forked processes from writing signals to our pipe: ending a worker must not end us."""
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


def _training() -> bool:
    """Whether a training loop is listening for signals, or has just received one."""
    signals = sys.modules.get("vdm.io.signals")  # only training imports it
    return signals is not None and signals.listening()
