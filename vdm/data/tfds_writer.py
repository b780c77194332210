"""Writes TFDS sets atomically, also if the process is killed or several processes write one."""

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vdm.data.records import first_line, is_prepared, quiet_tfds


def refuse_to_replace(folder: Path) -> None:
    """Raises ValueError if `folder` exists but is not a complete set."""
    if folder.exists() and not is_prepared(folder):
        raise ValueError(f"{folder} exists and is not a complete set: delete it, or move it away")


def write(build: Callable[[], Any], folder: Path, replace: bool = False) -> None:
    """Writes the set of a TFDS builder to `folder`, unless it is there already.

    If killed midway, it leaves a folder named `incomplete.*`, which is never read. If several
    processes write the set at once, the first to finish wins and the others use its files.

    Args:
        build: makes the builder.
        folder: `<data_dir>/<name>/<version>`.
        replace: whether to delete an existing folder that is not a complete set.

    Raises:
        ValueError: the folder cannot be written, or exists and must not be deleted.
    """
    data_dir = folder.parent.parent
    if is_prepared(folder):
        return
    if not replace:
        refuse_to_replace(folder)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        if folder.exists() and not is_prepared(folder):
            # This is a partial copy made by hand: TFDS never leaves one. It is moved before it is
            # deleted, so that no other process sees it shrink.
            partial = folder.with_name(f"incomplete.{uuid.uuid4().hex}_{folder.name}")
            folder.rename(partial)
            shutil.rmtree(partial)
        with quiet_tfds():
            build().download_and_prepare()
    except (OSError, RuntimeError) as error:  # array_record reports a full disk as the latter
        if is_prepared(folder):
            return  # another process renamed its complete folder here before ours
        raise ValueError(
            f"cannot write the data folder {data_dir}: {first_line(error)}; "
            "set --data_dir (in a run, --config.data.data_dir) to a writable folder with enough "
            "free space"
        ) from error
