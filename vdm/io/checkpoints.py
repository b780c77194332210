"""Checkpoints of the whole train state, one complete folder `STEP/` for each.

A STEP folder is an orbax checkpoint (`orbax.checkpoint.v1.load` reads it) with two more files:
`leaves.json`, the dtype and shape of every array, and `SHA256SUMS`, the checksum of every file
(run `sha256sum -c SHA256SUMS` inside the folder to check it by hand). orbax and its compression
detect only some kinds of damage; the checksums detect every flipped bit before orbax reads a byte.

A checkpoint is written to `STEP.partial` and renamed once it is on the disk; to delete one, it is
first renamed to `STEP.removed`. So a folder whose name is a bare number has been complete, whenever
the process was killed. If a run has several processes, they must share the folder.
"""

import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
from absl import logging as absl_logging
from orbax.checkpoint import v1 as ocp

from vdm.devices import processes
from vdm.io.atomic import sync, write_json
from vdm.io.checksums import CHECKSUMS, damage, seal
from vdm.io.orbax_paths import plain
from vdm.io.step_folder import (
    LEAVES,
    CheckpointError,
    UnreadableError,
    delete,
    describe,
    load,
    read_back,
    reason_of,
)
from vdm.io.streams import quiet_orbax
from vdm.typing import PyTree

_ABSENT = 0.5  # seconds without a leftover after which a failed save counts as cleaned up
_PATIENCE = 10.0  # seconds to wait for that; the next save removes what appears later


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run, `folder/STEP/`, of which the newest `keep` are kept."""

    folder: str | Path
    keep: int = 3

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"keep = {self.keep} checkpoints; keep at least 1")

    def path(self, step: int) -> Path:
        """The folder of the checkpoint of `step`."""
        return Path(self.folder).absolute() / str(step)  # orbax refuses relative paths

    def steps(self) -> list[int]:
        """The steps that have a complete checkpoint, in ascending order."""
        names = os.listdir(self.folder) if os.path.isdir(self.folder) else []
        return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9]\d*", name))

    def save(self, step: int, state: PyTree) -> None:
        """Saves `state`, a pytree of arrays, sharded or not; returns once it is on the disk.

        Every process calls this. An intact checkpoint of the same step is kept, because seed and
        step determine the state; a damaged one is replaced. Checkpoints older than the newest
        `keep` and the leftovers of interrupted saves are deleted.

        Raises:
            CheckpointError: disk full, no permission, ...; the other checkpoints are unchanged.
        """
        final = self.path(step)
        if processes.any_of(not final.exists() or bool(damage(final))):
            self._write(final, state)
        if _is_first_process():
            # Later steps do not count: training went back before them because they are damaged.
            for old in [s for s in self.steps() if s <= step][: -self.keep]:
                delete(self.path(old))
            self._remove_leftovers()

    def restore(
        self,
        like: PyTree,
        step: int | None = None,
        *,
        on_unreadable: Callable[[str], None] = absl_logging.warning,
    ) -> tuple[int, PyTree]:
        """Reads the newest readable checkpoint, or the one of `step`; returns (step, state).

        Args:
            like: the state's tree, with an array or a `jax.ShapeDtypeStruct` at each leaf. The
                restored arrays equal the saved ones bit for bit and have the shardings of `like`
                (a leaf without one goes to the first device); the number of devices may differ
                from that of the save.
            step: the only checkpoint to read; None for the newest.
            on_unreadable: called with one line for each damaged checkpoint that is skipped.

        Raises:
            CheckpointError: `step` is absent or damaged; or no checkpoint is readable; or `like`
                has other leaves, dtypes or shapes (older checkpoints are not tried, as they would
                differ as well).
        """
        return self._restore(like, step, on_unreadable, partial=False)

    def _write(self, final: Path, state: PyTree) -> None:
        partial = final.with_name(f"{final.name}.partial")

        def prepare() -> None:
            self._remove_leftovers()
            # If orbax cannot create its folder, its threads wait for it, and keep the process from
            # ending for minutes after the error. So it is tried here first.
            partial.parent.mkdir(exist_ok=True)  # without parents: a removed workdir stays removed
            partial.mkdir()
            partial.rmdir()

        def complete() -> None:
            write_json(partial / LEAVES, describe(state))
            seal(partial)
            read_back(partial, state)
            if final.exists():
                delete(final)
            partial.rename(final)
            sync(final.parent)

        self._in_first_process(prepare, final)
        with quiet_orbax():
            try:
                with plain(final.parent) as parent:
                    ocp.save(str(parent / partial.name), state)
            except (OSError, ValueError) as error:  # orbax raises ValueError for a full disk
                # The other processes may be waiting inside orbax, so they cannot be told. They end
                # because this one ends.
                raise self._failed(final, error) from error
        self._in_first_process(complete, final)

    def _in_first_process(self, work: Callable[[], None], final: Path) -> None:
        """Runs `work`, a part of a save, in the first process, and fails in all if it fails there.

        The others ask the first process, because their view of the folder may be out of date.
        """
        error = None
        if _is_first_process():
            try:
                work()
            except (OSError, ValueError) as raised:
                error = raised
        failed = processes.any_of(error is not None)
        if error is not None:
            raise self._failed(final, error) from error
        if failed:
            raise _save_error(final, "the first process failed; see its message")

    def _failed(self, final: Path, error: Exception) -> CheckpointError:
        if _is_first_process():
            self._remove_what_still_comes()
        if not Path(self.folder).parent.exists():
            return _save_error(final, reason_of(error), "the workdir is gone: restore it")
        return _save_error(final, reason_of(error))

    def _restore(
        self,
        like: PyTree,
        step: int | None,
        on_unreadable: Callable[[str], None],
        *,
        partial: bool,
    ) -> tuple[int, PyTree]:
        present = self.steps()
        processes.agree("the newest checkpoint", max(present, default=0))
        if not present:
            raise CheckpointError(f"no checkpoint in {self.folder}: train first, or name a workdir")
        if step is not None:
            if step not in present:
                steps = ", ".join(map(str, present))
                raise CheckpointError(
                    f"no checkpoint of step {step} in {self.folder}: it has {steps}"
                )
            return step, load(self.path(step), like, partial=partial)
        for candidate in reversed(present):
            try:
                return candidate, load(self.path(candidate), like, partial=partial)
            except UnreadableError as error:
                on_unreadable(f"{error}; going back to the one before it")
        raise CheckpointError(
            f"none of the {len(present)} checkpoints in {self.folder} is readable: "
            "restore them from a backup, or train again in another --workdir"
        )

    def _remove_leftovers(self) -> bool:
        """Removes the leftovers of interrupted saves; returns whether anything was removed."""
        # orbax, too, writes STEP.partial under a longer name first and renames it.
        leftovers = [
            path
            for path in Path(self.folder).glob("*.*")
            if re.fullmatch(r"\d+\.(partial|removed)(\.orbax.*)?", path.name)
        ]
        for path in leftovers:
            shutil.rmtree(path, ignore_errors=True)
        return not all(path.exists() for path in leftovers)

    def _remove_what_still_comes(self) -> None:
        """Removes the leftovers of a failed save until none has reappeared for a while.

        Threads of orbax and tensorstore keep writing for a moment after the error and create the
        folder again, and there is no way to wait for them.
        """
        deadline = time.monotonic() + _PATIENCE
        absent_since = time.monotonic()
        while absent_since + _ABSENT > (now := time.monotonic()) and now < deadline:
            if self._remove_leftovers():
                absent_since = time.monotonic()
            time.sleep(_ABSENT / 20)


def restore_params(
    path: str | Path,
    like: Mapping[str, PyTree],
    *,
    on_unreadable: Callable[[str], None] = absl_logging.warning,
) -> tuple[Path, dict[str, PyTree]]:
    """Reads only the fields named in `like` from another run's state.

    Args:
        path: a workdir or its checkpoints folder (the newest readable checkpoint is taken), or one
            STEP folder.
        like: `{"params": ..., "ema_params": ...}`, each as in `Checkpoints.restore`.
        on_unreadable: as in `Checkpoints.restore`.

    Returns:
        (STEP folder that was read, {field: subtree}).

    Raises:
        CheckpointError: `path` is not one of these, or no checkpoint there is readable and fits.
    """
    path = Path(path).absolute()
    if not path.exists():
        raise CheckpointError(
            f"{path} is not a checkpoint: it does not exist; give a workdir that has checkpoints, "
            "or one STEP folder"
        )
    if (path / CHECKSUMS).is_file() or (path / LEAVES).is_file():
        return path, load(path, dict(like), partial=True)
    inner = path / "checkpoints"
    run = Checkpoints(inner if inner.is_dir() else path)
    if not run.steps():
        raise CheckpointError(
            f"{path} is not a checkpoint: give a workdir that has checkpoints, its checkpoints "
            "folder, or one STEP folder"
        )
    step, subtrees = run._restore(dict(like), None, on_unreadable, partial=True)
    return run.path(step), subtrees


def _save_error(
    folder: Path, reason: str, remedy: str = "the earlier ones are intact: free some space there"
) -> CheckpointError:
    return CheckpointError(
        f"cannot save checkpoint {folder}: {reason}; {remedy}, then run the same command again to "
        "resume"
    )


def _is_first_process() -> bool:
    return jax.process_index() == 0
