"""Reads one checkpoint folder `STEP/` and checks that its arrays fit a state."""

import errno
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from vdm.devices import processes
from vdm.io.checksums import damage
from vdm.io.orbax_paths import readable
from vdm.io.streams import quiet_orbax
from vdm.typing import PyTree

LEAVES = "leaves.json"


class CheckpointError(ValueError):
    """A checkpoint cannot be written or read. The message is one line with the remedy."""


class UnreadableError(CheckpointError):
    """A STEP folder is damaged, but an older one may be readable."""


def saved_step(folder: Path) -> int:
    """The step of the state in a readable STEP folder, which may be a copy under another name.

    Raises CheckpointError if neither the state nor the folder's name tells the step.
    """
    leaf = json.loads((folder / LEAVES).read_text()).get("step")
    if leaf is not None:
        step = _abstract(jax.ShapeDtypeStruct((), leaf.partition("[")[0]))
        return int(_open(folder, {"step": step}, partial=True)["step"])
    if not folder.name.isdecimal():
        raise CheckpointError(f"the state in {folder} has no step: name the folder by its step")
    return int(folder.name)


def load(folder: Path, like: PyTree, *, partial: bool) -> PyTree:
    """Reads the state in a STEP folder, or with `partial` only the fields that `like` has.

    Raises:
        UnreadableError: the folder is damaged.
        CheckpointError: the saved leaves differ from those of `like`.
    """
    reason = damage(folder)
    if processes.any_of(bool(reason)):  # if it is damaged for one process, no process uses it
        reason = reason or "another process finds it damaged"
        raise UnreadableError(f"checkpoint {folder} is unreadable ({reason})")
    try:
        saved = json.loads((folder / LEAVES).read_text())
        if partial:
            saved = {leaf: what for leaf, what in saved.items() if leaf.split("/")[0] in like}
        _require_same(folder, saved, describe(like))
        return _open(folder, jax.tree.map(_abstract, like), partial=partial)
    except CheckpointError:
        raise
    except (OSError, ValueError) as error:  # for instance, the folder has just been deleted
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # in the temporary folder
            raise CheckpointError(
                f"cannot read {folder}: {reason_of(error)}: free some space"
            ) from error
        raise UnreadableError(f"checkpoint {folder} is unreadable ({reason_of(error)})") from error


def _open(folder: Path, like: PyTree, *, partial: bool = False) -> PyTree:
    """Reads the arrays in a STEP folder, whose path may have any characters."""
    context = ocp.Context()
    context.pytree.loading.partial_load = partial
    with readable(folder) as path, context, quiet_orbax():
        return ocp.load(str(path), like)


def read_back(folder: Path, state: PyTree) -> None:
    """Raises ValueError unless a folder that was just written holds `state`, bit for bit.

    With several processes, none of which holds the whole state, it only checks that the arrays can
    be opened.
    """
    if jax.process_count() > 1:
        with readable(folder):
            return
    back = _open(folder, jax.tree.map(_on_host, state))
    for (path, ours), theirs in zip(
        jax.tree.leaves_with_path(state), jax.tree.leaves(back), strict=True
    ):
        if _bytes(ours) != _bytes(theirs):
            raise ValueError(f"{jax.tree_util.keystr(path)} differs when read back")


def _on_host(leaf: jax.Array) -> Any:
    """A leaf that makes orbax restore a NumPy array; random keys, which NumPy lacks, stay JAX's."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return _abstract(leaf)
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)


def _bytes(leaf: Any) -> memoryview:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data


def _abstract(leaf: jax.Array | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    sharding = getattr(leaf, "sharding", None) or first
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def describe(tree: PyTree) -> dict[str, str]:
    """The dtype and shape of each leaf by its path: {"params/dense/kernel": "float32[64,32]"}."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
        )
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _require_same(folder: Path, saved: dict[str, str], requested: dict[str, str]) -> None:
    absent = "absent"
    differences = [
        f"{leaf} is {saved.get(leaf, absent)} there and {requested.get(leaf, absent)} here"
        for leaf in {**requested, **saved}  # a dict keeps the order: requested leaves come first
        if saved.get(leaf) != requested.get(leaf)
    ]
    if differences:
        more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise CheckpointError(
            f"checkpoint {folder} belongs to another model: {'; '.join(differences[:3])}{more}; "
            "use the config it was trained with (config.json of its workdir)"
        )


def delete(folder: Path) -> None:
    """Deletes a STEP folder; a kill never leaves half of it under its name."""
    removed = folder.with_name(f"{folder.name}.removed")
    shutil.rmtree(removed, ignore_errors=True)
    folder.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


def reason_of(error: Exception) -> str:
    """The reason for an error in a few words; tensorstore hides the system's in a long text."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(code[1])) if code else " ".join(str(error).split())[:300]
