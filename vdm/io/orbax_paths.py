"""Gives orbax paths of checkpoint folders that it can handle.

orbax finds the files it wrote with a glob of the folder's own path, and tensorstore reads a
backslash as a slash and a folder "gs:" as a bucket. Under such a path a save seems to succeed, but
nothing can read it. So if a path has unusual characters, orbax gets a link to the folder.
"""

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vdm.devices import processes

_MANIFEST = "manifest.ocdbt"


def is_plain(path: str | Path) -> bool:
    """Whether orbax takes every character of the path literally."""
    return bool(re.fullmatch(r"[\w/ .,=+@~()-]*", str(path)))


def check_shared(workdir: Path) -> None:
    """Raises ValueError if several processes would need a link to `workdir`, as each process would
    give it another name."""
    if not is_plain(workdir) and processes.num_processes() > 1:
        raise ValueError(
            f"--workdir={workdir}: several processes can write checkpoints only if the path has no "
            "characters but letters, digits, /_-.,=+@~() and spaces: choose another one"
        )


@contextlib.contextmanager
def plain(folder: Path) -> Iterator[Path]:
    """Provides the absolute path of an existing folder or, if it is not plain, of a link to it."""
    if is_plain(folder):
        yield folder
        return
    with _scratch() as scratch:
        link = scratch / "folder"
        link.symlink_to(folder, target_is_directory=True)
        yield link


@contextlib.contextmanager
def readable(folder: Path) -> Iterator[Path]:
    """Provides a plain path of a STEP folder for orbax to read.

    If an earlier version saved below a path with brackets, orbax did not assemble the parts; such a
    folder is read through links to the parts. Raises FileNotFoundError if the arrays are missing.
    """
    state = folder / "state"
    parts = list(state.glob("ocdbt.process_*"))
    if (state / _MANIFEST).is_file():
        with plain(folder) as path:
            yield path
    elif len(parts) == 1 and (parts[0] / _MANIFEST).is_file():
        with _scratch() as scratch:
            _link_all(folder, scratch, leave_out=state)
            (scratch / state.name).mkdir()
            _link_all(state, scratch / state.name, leave_out=parts[0])
            _link_all(parts[0], scratch / state.name)
            yield scratch
    else:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(state / _MANIFEST))


def _link_all(source: Path, target: Path, leave_out: Path | None = None) -> None:
    for path in source.iterdir():
        if path != leave_out:
            (target / path.name).symlink_to(path)


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """Provides an empty folder with a plain path, which is removed at the end."""
    parent = next(place for place in (tempfile.gettempdir(), "/tmp") if is_plain(place))
    with tempfile.TemporaryDirectory(prefix="vdm-", dir=parent) as folder:
        yield Path(folder).absolute()
