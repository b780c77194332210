"""Locks that are released when the process that holds them ends, for whatever reason.

They are system locks (flock) on an open file, so a killed process leaves no stale lock behind. They
guarantee one holder on a machine, and on all machines of a network file system that shares such
locks (as NFS does, and Lustre mounted with `flock`). If a file system has no locks, or separate
ones for each machine, nothing can be guaranteed, and the user is told so.
"""

import contextlib
import fcntl
import functools
import os
import socket
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from vdm.devices import processes
from vdm.io.console import say

ATTEMPTS = 100
"""How often to try a lock while its holders keep removing its file."""

_TAKEN: weakref.WeakSet[IO[bytes]] = weakref.WeakSet()


def take(file: IO[bytes]) -> bool:
    """Locks an open file until it is closed; returns False on a file system without locks.

    Raises BlockingIOError if this or another process has locked the file through another opening.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    _TAKEN.add(file)
    _let_go_in_children()
    return True


@functools.cache
def _let_go_in_children() -> None:
    """Drops locks in forked processes. Every copy of a descriptor holds its lock, so a worker that
    outlives a killed process would keep it."""

    def let_go() -> None:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for file in _TAKEN:
            if not file.closed:
                os.dup2(nowhere, file.fileno(), inheritable=False)
        os.close(nowhere)

    os.register_at_fork(after_in_child=let_go)


@contextlib.contextmanager
def held(folder: Path, what: str) -> Iterator[None]:
    """Holds the lock `folder/train.lock` inside the block.

    If a run has several processes, the first one takes the lock for all, and each of them calls
    this at the same point. The file stays afterwards (its text is only for messages), but if the
    folder was created for it and holds nothing else, both are removed.

    Args:
        what: the kind of work, such as "training", for messages.

    Raises:
        ValueError: the lock is taken; the message is one line that names the holder.
    """
    path, error, opened = folder / "train.lock", None, contextlib.ExitStack()
    with opened:
        if processes.is_first():
            try:
                _hold(path, what, opened)
            except (OSError, ValueError) as raised:
                error = raised
        failed = processes.any_of(error is not None)
        if error is not None:
            raise error
        if failed:
            raise ValueError(f"the first process cannot lock {path}; see its message")
        yield


def _hold(path: Path, what: str, opened: contextlib.ExitStack) -> None:
    folder = path.parent
    try:
        for _ in range(ATTEMPTS):
            is_new = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as tried:
                file = tried.enter_context(path.open("a+b", buffering=0))
                shared = take(file)
                # If the last holder has just removed the file, this one is not at `path` any more.
                if not shared or os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    opened.push(tried.pop_all())
                    break
        else:
            raise BlockingIOError
    except BlockingIOError:
        raise ValueError(
            f"another {what} is running in {folder}{_holder(path)}: wait for it, stop it, or "
            "choose another --workdir"
        ) from None
    host, before = socket.gethostname(), _holder(path)
    if not shared:
        say(f"{folder} is on a file system without locks: do not start a second {what} in it")
    elif before and f" on {host} " not in before:
        say(
            f"the last {what} here{before} was killed; if it is still running, the file system "
            "does not share its locks between machines: stop one of the two"
        )
    # On a full disk this fails, but the lock is held.
    with contextlib.suppress(OSError):
        file.truncate(0)
        file.write(f"process {os.getpid()} on {host} since {time.ctime()}\n".encode())
    opened.callback(_forget, path, file, is_new)


def _forget(path: Path, file: IO[bytes], is_new: bool) -> None:
    with contextlib.suppress(OSError):
        file.truncate(0)
        # A run that fails before it writes anything leaves no folder behind.
        if is_new and os.listdir(path.parent) == [path.name]:
            path.unlink()
            path.parent.rmdir()


def _holder(path: Path) -> str:
    """The holder of a lock, in brackets, also if it was killed; "" if the lock is free."""
    try:
        line = path.read_bytes().decode("utf-8", "replace").strip()
    except FileNotFoundError:  # the lock has just been released
        return ""
    return f" ({line})" if line else ""
