"""Locks that end with the process that holds them, however it ends.

They are the system's (flock) on an open file, so a kill leaves nothing behind that a later start
would have to judge. What they promise: one holder on one machine, and on all machines of a network
file system that shares such locks (NFS, and Lustre mounted with `flock`, do). Where a file system
has none, or has them for each machine alone, nothing can be promised, and that is said.
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
"""How often a lock is tried whose holders keep removing its file."""

_TAKEN: weakref.WeakSet[IO[bytes]] = weakref.WeakSet()


def take(file: IO[bytes]) -> bool:
    """Locks an open file until it is closed; False on a file system without locks.

    BlockingIOError where another opening of it, of this process or of another one, has the lock.
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
    """A lock is held by every copy of its descriptor: a forked worker that outlives a killed
    process must have none."""

    def let_go() -> None:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for file in _TAKEN:
            if not file.closed:
                os.dup2(nowhere, file.fileno(), inheritable=False)
        os.close(nowhere)

    os.register_at_fork(after_in_child=let_go)


@contextlib.contextmanager
def held(folder: Path, what: str) -> Iterator[None]:
    """The lock `folder/train.lock`, of one `what` at a time; of several processes of one run the
    first takes it for all, and each of them calls this at the same point.

    The file stays, with the name of its holder, which is for the messages alone; but nothing stays
    where the folder is new and has nothing else in it.

    Raises:
        ValueError: it is taken; the message is one line that says by whom.
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
            raise ValueError(f"the first process cannot take {path}, its message says why")
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
                # Its last holder may have removed it just now: then another one has been made, or
                # will be.
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
        say(f"{folder} is on a file system without locks: start no second {what} in it")
    elif before and f" on {host} " not in before:
        say(
            f"the last {what} here{before} was killed; if it is running still, the file system "
            "does not share its locks between machines: stop one of the two"
        )
    # On a full disk the lock holds all the same.
    with contextlib.suppress(OSError):
        file.truncate(0)
        file.write(f"process {os.getpid()} on {host} since {time.ctime()}\n".encode())
    opened.callback(_forget, path, file, is_new)


def _forget(path: Path, file: IO[bytes], is_new: bool) -> None:
    with contextlib.suppress(OSError):
        file.truncate(0)
        # A mistake that is found before anything is written leaves no folder behind.
        if is_new and os.listdir(path.parent) == [path.name]:
            path.unlink()
            path.parent.rmdir()


def _holder(path: Path) -> str:
    """Of a lock that is held, or whose holder was killed: who, in brackets."""
    try:
        line = path.read_bytes().decode("utf-8", "replace").strip()
    except FileNotFoundError:  # it has been let go meanwhile
        return ""
    return f" ({line})" if line else ""
