"""Checksums of parameters, and of a folder's files in the format of `sha256sum`."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from vdm.io.atomic import sync, write_bytes
from vdm.typing import Params

CHECKSUMS = "SHA256SUMS"


def params_digest(params: Params) -> str:
    """The SHA-256 of all arrays with their names, dtypes and shapes, in hexadecimal."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(jax.device_get(params)):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


def seal(folder: Path) -> None:
    """Waits until all files in `folder` are on the disk, and records their checksums there."""
    lines = []
    for name in sorted(_files(folder)):
        sync(folder / name)
        lines.append(f"{_sha256(folder / name)}  {name}\n")
    for parent, _, _ in os.walk(folder):
        sync(parent)
    write_bytes(folder / CHECKSUMS, "".join(lines).encode())


def damage(folder: Path) -> str | None:
    """A few words about what has changed in a sealed folder; None if no byte has changed."""
    try:
        lines = (folder / CHECKSUMS).read_bytes().decode("utf-8", "replace").splitlines()
        sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        for name in sorted(sums.keys() | set(_files(folder))):
            if name not in sums:  # the list has lost a line, perhaps its end
                return f"{name} is not in {CHECKSUMS}"
            if _sha256(folder / name) != sums[name]:
                return f"{name} does not match its checksum"
    except OSError as error:
        return f"{error.strerror}: {error.filename}"
    except ValueError:  # a name contains a zero byte
        return f"{CHECKSUMS} is garbled"
    return None


def _files(folder: Path) -> Iterator[str]:
    """Yields the relative paths of all files except the checksums and hidden files, which come from
    the system."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            relative = os.path.relpath(os.path.join(parent, name), folder)
            if relative != CHECKSUMS and not name.startswith("."):
                yield relative


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
