"""Atomic files: whatever is read under a final name was written whole.

Every artifact is written beside its final place and renamed over it, so a kill at any instant
leaves the old file or the new one. A leftover of a killed writer is a hidden `.tmp-*` file.
Of several processes the first writes; what the others write is thrown away.
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
    """A path to write to; when the block ends well it is on disk and becomes `path`.

    It lies in the folder of `path` (made if absent) and has the same extension. When the block
    raises, it is removed and `path` is as it was.
    """
    path = Path(path)
    if not processes.is_first():
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / path.name
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps two writers of one file (two evaluations of a run) apart.
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)  # the rename itself
    except OSError as error:
        if error.filename is None and error.errno:  # a full disk names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove(path: str | Path) -> None:
    """Removes a file, if it is there."""
    if processes.is_first():
        Path(path).unlink(missing_ok=True)


def sync(path: str | Path) -> None:
    """Returns once a file's bytes, or a folder's entries, are on the disk."""
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
    """Writes `value` to `path` as indented JSON, atomically; see `to_json` for what it may hold."""
    text = json.dumps(to_json(value), indent=2, allow_nan=False) + "\n"
    write_bytes(path, text.encode())


def read_json(path: str | Path) -> Any:
    """The content of a JSON file; ValueError naming the file when it is none."""
    try:
        return json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): remove it or its folder") from error


def save_npz(path: str | Path, **arrays: ArrayLike) -> None:
    """Writes named arrays to `path`, for `numpy.load`, atomically."""
    # numpy appends ".npz" to a name without it, not to an open file.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        plain = {name: np.asarray(array) for name, array in arrays.items()}
        np.savez(file, allow_pickle=False, **plain)


def to_json(value: Any) -> Any:
    """`value` in JSON's own types: arrays are lists, NumPy's and JAX's scalars numbers, paths text.

    NaN and infinities become None: JSON has no word for them, and parsers refuse Python's.
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
