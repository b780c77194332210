"""Ends a program that was asked to stop and does not, as when it is inside compiled code.

Python's own handlers wait for the main thread to come back from such a call: a compilation may
take a minute. A thread learns of a signal at once, through the file that Python writes it to.
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
    """Calls end(signum) in a thread when the block has not ended `secs` after a signal, unless a
    training loop has it, which saves first. In another than the main thread it does nothing."""
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
        if os.getpid() == process:  # not in a forked worker; one may hold the file open, so that
            os.write(writer, _END)  # closing it would be no end
            watcher.join()
        os.close(writer)
        os.close(reader)


@functools.cache
def _forget_in_children() -> None:
    """A forked process does not write its signals to our file: the end of a worker is not ours."""
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


def _training() -> bool:
    """Whether a training loop notes signals, or has just noted one."""
    signals = sys.modules.get("vdm.io.signals")  # imported by a training alone
    return signals is not None and signals.listening()
