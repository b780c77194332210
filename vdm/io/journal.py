"""Stores the finished parts of a long computation, so that a killed one resumes where it stopped.

A journal is an append-only file: a line of JSON that identifies the computation, then one record
for each finished part. A kill can only truncate the last record, which its checksum reveals.
"""

import contextlib
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike

from vdm.io.canonical import canonical_text
from vdm.io.lock import take

_RECORD = struct.Struct("<II")  # number of bytes and checksum of the part that follows


class Journal:
    """The finished `parts` of a computation, in the order in which they were appended.

    Use it as a context manager, in one process at a time.

    Args:
        path: the file. If it exists with another identity or dtype, it is emptied, and `dropped` is
            the number of parts that it held.
        identity: identifies the computation, as a JSON-like mapping.
        dtype: of the entries of a part (float32, or structured); parts are flat arrays [n].

    Raises:
        BlockingIOError: another process has the journal open.
    """

    def __init__(
        self, path: str | Path, identity: Mapping[str, Any], dtype: DTypeLike = np.float32
    ) -> None:
        self.path, self.dtype = Path(path), np.dtype(dtype)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "a+b")  # noqa: SIM115, closed by the context
        try:
            take(self._file)
        except BlockingIOError:
            self._file.close()
            raise
        self.parts: list[np.ndarray] = []
        self.dropped = 0
        if self.dtype != np.float32:  # older journals have no other dtype and do not record it
            identity = {**identity, "dtype": str(self.dtype)}
        header = canonical_text(identity).encode() + b"\n"
        self._file.seek(0)
        content = self._file.read()
        if content.startswith(header):
            records, end = _read(content, len(header), self.dtype.itemsize)
            self.parts = [np.frombuffer(record, self.dtype) for record in records]
            self._file.truncate(end)
        else:
            self.dropped = len(_read(content, content.find(b"\n") + 1)[0])
            self._file.truncate(0)
            self._write(header)

    def append(self, part: np.ndarray) -> None:
        """Appends a part, which survives a kill of this process once this returns."""
        content = np.ascontiguousarray(part, self.dtype).tobytes()
        self._write(_RECORD.pack(len(content), zlib.crc32(content)) + content)
        self.parts.append(np.frombuffer(content, self.dtype))

    def remove(self) -> None:
        """Deletes the file, once the result has been written elsewhere."""
        self.path.unlink(missing_ok=True)

    def _write(self, content: bytes) -> None:
        try:
            self._file.seek(0, os.SEEK_END)
            self._file.write(content)
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):  # `append` has already reported a failed write
            self._file.close()  # this also releases the lock


def _read(content: bytes, start: int, itemsize: int = 1) -> tuple[list[bytes], int]:
    """The complete records after `start` and the position where they end. The size of a record must
    be a multiple of `itemsize` bytes."""
    parts = []
    while start + _RECORD.size <= len(content):
        size, checksum = _RECORD.unpack_from(content, start)
        end = start + _RECORD.size + size
        record = content[start + _RECORD.size : end]
        if len(record) < size or size % itemsize or zlib.crc32(record) != checksum:
            break
        parts.append(record)
        start = end
    return parts, start
