"""Treats SIGTERM and SIGINT as a request to save and stop."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from vdm.devices import processes

_LISTENERS: list[list[int]] = []


def listening() -> bool:
    """Whether a block of `stop_signals` is running, which handles signals itself."""
    return bool(_LISTENERS)


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Provides a list to which each SIGTERM or SIGINT is appended. After the first signal the
    previous handlers are restored, so a second one has its usual effect."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may install handlers
        return
    previous = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for signum, handler in previous.items():
            signal.signal(signum, handler)

    def note(signum: int, frame: Any) -> None:
        del frame
        received.append(signum)
        restore()

    _LISTENERS.append(received)
    for signum in previous:
        signal.signal(signum, note)
    try:
        yield received
    finally:
        restore()
        _LISTENERS.pop()


def any_signal(received: list[int]) -> int:
    """The signal that any of the processes received, or 0; all of them must call this together."""
    return processes.any_of(received[0] if received else 0)
