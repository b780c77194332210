"""Atomic file writing: a file under its final name is always complete.

Every file is written next to its final path and renamed, so a kill at any instant leaves either the
old file or the new one. A killed writer may leave a hidden `.tmp-*` file. If a run has several
processes, the first one writes; what the others write is discarded.
"""

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from vdm.devices import processes


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Provides a temporary path to write to, which replaces `path` if the block succeeds.

    It lies in the folder of `path` (created if absent) and has the same extension. If the block
    raises, it is removed and `path` is unchanged.
    """
    path = Path(path)
    if not processes.is_first():
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / path.name
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id distinguishes two writers of one file (two evaluations of a run).
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)  # stores the renaming
    except OSError as error:
        if error.filename is None and error.errno:  # the error of a full disk names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove(path: str | Path) -> None:
    """Removes a file if it exists."""
    if processes.is_first():
        Path(path).unlink(missing_ok=True)


def sync(path: str | Path) -> None:
    """Waits until a file's bytes, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes `content` to `path`, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value`, which `to_json` must accept, to `path` as indented JSON, atomically."""
    text = json.dumps(to_json(value), indent=2, allow_nan=False) + "\n"
    write_bytes(path, text.encode())


def read_json(path: str | Path) -> Any:
    """Reads a JSON file; raises ValueError with the file's name if it is not valid JSON."""
    try:
        return json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): remove it or its folder") from error


def save_npz(path: str | Path, **arrays: ArrayLike) -> None:
    """Writes named arrays to `path` atomically, in the format of `numpy.savez`."""
    # Given a path, NumPy appends ".npz" if it is missing; given an open file, it does not.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        plain = {name: np.asarray(array) for name, array in arrays.items()}
        np.savez(file, allow_pickle=False, **plain)


def to_json(value: Any) -> Any:
    """Converts `value` to JSON types: arrays to lists, NumPy and JAX scalars to numbers, paths to
    text.

    NaN and infinities become None: JSON cannot represent them, and parsers reject Python's names.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return to_json(value.tolist())
    raise TypeError(f"cannot write a {type(value).__name__} as JSON: {value!r}")
