"""Checkpoints: the whole train state, one folder `STEP/` for each, never half a one.

A STEP folder is an orbax checkpoint (`orbax.checkpoint.v1.load` reads it) with two files more:
`leaves.json`, the dtype and shape of every array, and `SHA256SUMS`, the checksum of every file
(`sha256sum -c SHA256SUMS` inside the folder checks it by hand). orbax and its compression notice
some damage and not other; the checksums notice every flipped bit, before orbax reads a byte.

A save is written as `STEP.partial` and renamed when all of it is on the disk; a deletion is a
rename to `STEP.removed` first. So a folder named by a bare number was complete once, whenever the
process was killed. With several processes, they must share the folder.
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

_ABSENT = 0.5  # seconds for which what a failed save left has to stay away
_PATIENCE = 10.0  # seconds; the next save removes what comes later


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run, `folder/STEP/`; the newest `keep` of them stay."""

    folder: str | Path
    keep: int = 3

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"keep = {self.keep} checkpoints; keep at least 1")

    def path(self, step: int) -> Path:
        """The folder of the checkpoint of `step`."""
        return Path(self.folder).absolute() / str(step)  # orbax refuses relative paths

    def steps(self) -> list[int]:
        """The steps with a complete checkpoint, ascending."""
        names = os.listdir(self.folder) if os.path.isdir(self.folder) else []
        return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9]\d*", name))

    def save(self, step: int, state: PyTree) -> None:
        """Writes `state`, a pytree of arrays, sharded or not; on the disk when this returns.

        Every process calls this. A step that is there already and intact is left as it is: seed
        and step determine the state. A damaged one is replaced. Checkpoints older than the newest
        `keep` are deleted, and so is what an interrupted save left behind.

        Raises:
            CheckpointError: disk full, no permission, ...; the other checkpoints are untouched.
        """
        final = self.path(step)
        if processes.any_of(not final.exists() or bool(damage(final))):
            self._write(final, state)
        if _is_first_process():
            # A step beyond this one was damaged, and we went back behind it: it does not count.
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
        """(step, state) of the newest readable checkpoint, or of `step` and no other.

        Args:
            like: the state's tree, with an array or a `jax.ShapeDtypeStruct` at each leaf. The
                restored arrays, bit-equal to the saved ones, have its shardings (a leaf without
                one goes to the first device); the number of devices may have changed.
            step: the checkpoint to read; None for the newest.
            on_unreadable: called with one line for each damaged checkpoint that is passed over.

        Raises:
            CheckpointError: `step` is absent or damaged; or none is readable; or `like` has other
                leaves, dtypes or shapes (at once: the older ones differ as well).
        """
        return self._restore(like, step, on_unreadable, partial=False)

    def _write(self, final: Path, state: PyTree) -> None:
        partial = final.with_name(f"{final.name}.partial")

        def prepare() -> None:
            self._remove_leftovers()
            # Where orbax cannot make its folder, threads of it wait for that, and keep the
            # process from ending for minutes after its error.
            partial.parent.mkdir(exist_ok=True)  # a workdir that is gone is not made again
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
            except (OSError, ValueError) as error:  # ValueError is what orbax makes of a full disk
                # The other processes may be waiting inside of orbax: nothing to meet them at. This
                # one's end is what ends them.
                raise self._failed(final, error) from error
        self._in_first_process(complete, final)

    def _in_first_process(self, work: Callable[[], None], final: Path) -> None:
        """Does its share of a save; every process learns whether it is done, by asking it: what
        another host sees of the folder may be old."""
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
            raise _save_error(final, "the first process failed, its message says why")

    def _failed(self, final: Path, error: Exception) -> CheckpointError:
        if _is_first_process():
            self._remove_what_still_comes()
        if not Path(self.folder).parent.exists():
            return _save_error(final, reason_of(error), "the workdir is gone: bring it back")
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
                there = ", ".join(map(str, present))
                raise CheckpointError(f"no checkpoint of step {step} in {self.folder}: has {there}")
            return step, load(self.path(step), like, partial=partial)
        for candidate in reversed(present):
            try:
                return candidate, load(self.path(candidate), like, partial=partial)
            except UnreadableError as error:
                on_unreadable(f"{error}; going back to the one before it")
        raise CheckpointError(
            f"none of the {len(present)} checkpoints in {self.folder} is readable: "
            "copy them back from elsewhere, or train anew in another --workdir"
        )

    def _remove_leftovers(self) -> bool:
        """Removes what interrupted saves left behind; returns whether anything was removed."""
        # orbax writes STEP.partial under a longer name of its own and renames it, too.
        leftovers = [
            path
            for path in Path(self.folder).glob("*.*")
            if re.fullmatch(r"\d+\.(partial|removed)(\.orbax.*)?", path.name)
        ]
        for path in leftovers:
            shutil.rmtree(path, ignore_errors=True)
        return not all(path.exists() for path in leftovers)

    def _remove_what_still_comes(self) -> None:
        """Removes what a failed save left behind, until it has stayed away for a while. Threads of
        orbax and tensorstore, which offer nothing to wait for, keep writing for a moment after the
        error and create the folder again."""
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
    """(STEP folder, subtrees): of another run's state only the fields named in `like`.

    Args:
        path: a workdir or its checkpoints folder (the newest readable one is taken), or one
            STEP folder (that one is taken).
        like: `{"params": ..., "ema_params": ...}`, each as in `Checkpoints.restore`.
        on_unreadable: as in `Checkpoints.restore`.

    Raises:
        CheckpointError: `path` is none of these, or nothing there is readable or fits.
    """
    path = Path(path).absolute()
    if not path.exists():
        raise CheckpointError(
            f"{path} is no checkpoint: it does not exist; give a workdir that has some, or one "
            "STEP folder"
        )
    if (path / CHECKSUMS).is_file() or (path / LEAVES).is_file():
        return path, load(path, dict(like), partial=True)
    inner = path / "checkpoints"
    run = Checkpoints(inner if inner.is_dir() else path)
    if not run.steps():
        raise CheckpointError(
            f"{path} is no checkpoint: give a workdir that has some, its checkpoints folder, "
            "or one STEP folder"
        )
    step, subtrees = run._restore(dict(like), None, on_unreadable, partial=True)
    return run.path(step), subtrees


def _save_error(
    folder: Path, reason: str, remedy: str = "the earlier ones are intact: make room there"
) -> CheckpointError:
    return CheckpointError(
        f"cannot save checkpoint {folder}: {reason}; {remedy}, then run the same command again to "
        "go on"
    )


def _is_first_process() -> bool:
    return jax.process_index() == 0
