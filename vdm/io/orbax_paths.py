"""The paths of checkpoint folders, as orbax can read them.

orbax matches what it wrote with a glob of the folder's own path, and tensorstore takes a backslash
for a slash and a folder "gs:" for a bucket: under such names a save seems to go well, and nothing
can read it. So where a path has more than plain characters, orbax gets a link to the folder.
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
    """Whether orbax takes every character of the path for itself."""
    return bool(re.fullmatch(r"[\w/ .,=+@~()-]*", str(path)))


def check_shared(workdir: Path) -> None:
    """ValueError for a path that several processes cannot give to orbax: a link would have a name
    of its own in each."""
    if not is_plain(workdir) and processes.num_processes() > 1:
        raise ValueError(
            f"--workdir={workdir}: several processes can write checkpoints only below a path of "
            "letters, digits and /_-.,=+@~() and spaces: choose another one"
        )


@contextlib.contextmanager
def plain(folder: Path) -> Iterator[Path]:
    """The absolute path of a folder that is there, or a link to it with a plain name."""
    if is_plain(folder):
        yield folder
        return
    with _scratch() as scratch:
        link = scratch / "folder"
        link.symlink_to(folder, target_is_directory=True)
        yield link


@contextlib.contextmanager
def readable(folder: Path) -> Iterator[Path]:
    """A plain path of a STEP folder for orbax to read.

    What an earlier version saved by one process below a path with brackets was never put together;
    it is read from where its parts lie. FileNotFoundError where the arrays are not in the folder.
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
    """An empty folder with a plain path, removed at the end."""
    parent = next(place for place in (tempfile.gettempdir(), "/tmp") if is_plain(place))
    with tempfile.TemporaryDirectory(prefix="vdm-", dir=parent) as folder:
        yield Path(folder).absolute()
