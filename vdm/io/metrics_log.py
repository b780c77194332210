"""Writes the metrics of a run to `metrics.jsonl`, one JSON object per line, and for TensorBoard."""

import contextlib
import errno
import json
import math
import os
import socket
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, SupportsFloat, cast

from vdm.devices import processes
from vdm.io.atomic import write_bytes
from vdm.io.console import say

FILENAME = "metrics.jsonl"
EVENTS = "events.out.tfevents."


class MetricsHook(Protocol):
    """A further destination for metrics, such as an experiment tracker. It may also have close().

    A resumed run repeats the steps since its last checkpoint, so it writes their scalars again.
    """

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Records the scalars of a step, all of which are finite."""


class MetricsWriter:
    """Appends scalars to `workdir/metrics.jsonl` and to TensorBoard events, as a context manager.

    If a run has several processes, only the first one writes.

    Args:
        workdir: the folder of the files.
        first_step: the step of the checkpoint that the run resumes from; 0 for a new run. The run
            repeats the steps after it, so lines of later steps are deleted first, as are lines that
            a kill left incomplete, and TensorBoard is told to forget those steps.
        open_hook: returns a further destination, or None.
    """

    def __init__(
        self,
        workdir: str | Path,
        first_step: int,
        open_hook: Callable[[], MetricsHook | None] = lambda: None,
    ) -> None:
        # tensorboardX is imported here, as that takes 0.2 s. Its SummaryWriter queues events for
        # a thread; on a full disk the thread dies, and training hangs at the tenth event. Its
        # record writer, used here, is synchronous.
        from tensorboardX import RecordWriter
        from tensorboardX.proto import event_pb2, summary_pb2

        # These modules define their names at import, so a type checker does not know them.
        self._event_pb2 = cast(Any, event_pb2)
        self._summary_pb2 = cast(Any, summary_pb2)
        workdir = Path(workdir)
        # The hook comes first, so that an error in opening it leaves no files behind.
        self._hook = _Guarded.opened(open_hook) if processes.is_first() else None
        self._events = None
        self._last_time = self._clock_offset = 0.0
        if not processes.is_first():
            self._path = Path(os.devnull)
            self._file = self._path.open("ab", buffering=0)
            return
        workdir.mkdir(parents=True, exist_ok=True)
        _forget_after(workdir / FILENAME, first_step)
        self._path = workdir / FILENAME
        self._file = self._path.open("ab", buffering=0)
        self._clock_offset = max(0.0, _after_events(workdir) - time.time())
        # Opening an event file empties it; the process id distinguishes two starts in one second.
        name = f"{EVENTS}{int(self._now())}.{socket.gethostname()}.{os.getpid()}"
        self._events_path = workdir / name
        self._events = RecordWriter(str(self._events_path))
        self._write_event(file_version="brain.Event:2")
        # TensorBoard then hides later steps in the other event files of the folder.
        session_log = self._event_pb2.SessionLog
        start = session_log(status=session_log.START)
        self._write_event(step=first_step + 1, session_log=start)

    def write(self, step: int, scalars: Mapping[str, SupportsFloat]) -> None:
        """Records Python, NumPy or JAX scalars of `step`; they are in the files on return.

        NaN and infinities become null in the file, as JSON cannot represent them, and are left out
        of the events.

        Raises:
            ValueError: a value is not a scalar, or is named "step".
            OSError: the file cannot be written; or it was removed or replaced, in which case the
                system would silently write to the deleted file.
        """
        if "step" in scalars:
            raise ValueError('"step" names the step itself; give the scalar another name')
        values = {name: _to_float(name, value) for name, value in scalars.items()}
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        line = {"step": int(step)} | {name: finite.get(name) for name in values}
        if not _is_same_file(self._path, self._file.fileno()):
            raise OSError(
                errno.ENOENT,
                "removed or replaced while the run wrote to it, so the run stops; run the same "
                "command again to resume from the last checkpoint",
                str(self._path),
            )
        content = json.dumps(line, allow_nan=False).encode() + b"\n"
        try:
            # With one unbuffered write, a kill loses either the whole line or nothing.
            if self._file.write(content) < len(content):  # a full disk stores only a part
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        summary = self._summary_pb2.Summary()
        for name, value in finite.items():
            summary.value.add(tag=name, simple_value=value)
        self._write_event(step=int(step), summary=summary)
        if self._hook is not None:
            self._hook.write(int(step), finite)

    def close(self) -> None:
        """Closes both files; a second call does nothing."""
        self._file.close()
        if self._events is not None:
            with contextlib.suppress(OSError):  # `write` has already reported the error
                self._events.close()
        if self._hook is not None:
            self._hook.close()
            self._hook = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _write_event(self, **fields: Any) -> None:
        if self._events is None:
            return
        event = self._event_pb2.Event(wall_time=self._now(), **fields)
        try:
            self._events.write(event.SerializeToString())
            self._events.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._events_path)) from error

    def _now(self) -> float:
        """Seconds since 1970, never decreasing, also compared with earlier event files."""
        self._last_time = max(self._last_time, time.time() + self._clock_offset)
        return self._last_time


class _Guarded:
    """A hook that is dropped, with a message, once it fails: an unreachable tracker must not stop a
    training, and metrics.jsonl has everything."""

    def __init__(self, hook: MetricsHook) -> None:
        self._hook: MetricsHook | None = hook

    @classmethod
    def opened(cls, open_hook: Callable[[], MetricsHook | None]) -> "_Guarded | None":
        """Opens a hook and guards it. An error in opening it is raised, for the user to fix."""
        hook = open_hook()
        if hook is None:
            return None
        if not callable(getattr(hook, "write", None)):
            raise ValueError(
                f"metrics.name gives a {type(hook).__name__}, which has no write(step, scalars): "
                "add that method"
            )
        return cls(hook)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        if self._hook is None:
            return
        try:
            self._hook.write(step, scalars)
        except Exception as error:
            say(f"metrics: {_one_line(error)} at step {step}; from now on only {FILENAME} has them")
            self._hook = None

    def close(self) -> None:
        close = getattr(self._hook, "close", None)
        if close is None:
            return
        try:
            close()
        except Exception as error:
            say(f"metrics: {_one_line(error)} at the end; {FILENAME} has them all")


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def read_metrics(workdir: str | Path) -> list[dict[str, Any]]:
    """Reads the lines of `workdir/metrics.jsonl` in order, null as None; [] if there is no such
    file. A line that a kill left incomplete is skipped."""
    path = Path(workdir) / FILENAME
    rows = [_parse(line) for line in _lines(path)]
    return [row for row in rows if row is not None]


def _forget_after(path: Path, step: int) -> None:
    """Rewrites the file without lines of later steps and without incomplete lines."""
    lines = _lines(path)
    rows = {line: _parse(line) for line in lines}
    kept = [line for line in lines if (row := rows[line]) is not None and row["step"] <= step]
    content = b"".join(line + b"\n" for line in kept)
    if path.exists() and content != path.read_bytes():
        write_bytes(path, content)


def _after_events(folder: Path) -> float:
    """A time one second after the event files of the folder, by their names and by the last event
    of the last file; 0 if there are none.

    TensorBoard reads event files in the order of their names. If the clock was behind at a later
    start, its file would come first, and the older one would hide its steps.
    """
    named = {path: path.name.split(".")[3] for path in folder.glob(f"{EVENTS}*")}
    paths = sorted(path for path, secs in named.items() if secs.isdecimal())
    if not paths:
        return 0.0
    return 1.0 + max(_last_event(paths[-1]), *(float(named[path]) for path in paths))


def _last_event(path: Path) -> float:
    """The time of the last event in a file, in seconds since 1970.

    A record is its length, a CRC, the event and a CRC; an event begins with byte 9 and its time.
    """
    time_of_last, left = 0.0, path.stat().st_size
    with path.open("rb") as file:
        while len(start := file.read(21)) == 21:
            length, event, secs = struct.unpack("<Q4xcd", start)
            left -= length + 16
            if event != b"\x09" or left < 0 or not 0 < secs < 1e11:  # incomplete or damaged
                break
            time_of_last = max(time_of_last, secs)
            file.seek(length - 5, os.SEEK_CUR)
    return time_of_last


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n") if path.exists() else []


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:  # incomplete, or not even text
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _is_same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _to_float(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"metric {name!r} is not a scalar: {value!r}; take its mean first"
        ) from error
