"""One checkpoint folder `STEP/`: reading the arrays in it, and comparing them with a state."""

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
    """A checkpoint cannot be written or read; the message is one line with the remedy."""


class UnreadableError(CheckpointError):
    """A STEP folder is damaged, so an older one is worth a try."""


def saved_step(folder: Path) -> int:
    """The step of the state in a readable STEP folder, which may be a copy under another name.
    CheckpointError where neither the state nor the name says it."""
    leaf = json.loads((folder / LEAVES).read_text()).get("step")
    if leaf is not None:
        step = _abstract(jax.ShapeDtypeStruct((), leaf.partition("[")[0]))
        return int(_open(folder, {"step": step}, partial=True)["step"])
    if not folder.name.isdecimal():
        raise CheckpointError(f"the state in {folder} has no step: name the folder by its step")
    return int(folder.name)


def load(folder: Path, like: PyTree, *, partial: bool) -> PyTree:
    reason = damage(folder)
    if processes.any_of(bool(reason)):  # then none of the processes takes it
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
    except (OSError, ValueError) as error:  # deleted meanwhile, say
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # of the temporary folder
            raise CheckpointError(f"cannot read {folder}: {reason_of(error)}: make room") from error
        raise UnreadableError(f"checkpoint {folder} is unreadable ({reason_of(error)})") from error


def _open(folder: Path, like: PyTree, *, partial: bool = False) -> PyTree:
    """The arrays in a STEP folder, whatever characters its path has."""
    context = ocp.Context()
    context.pytree.loading.partial_load = partial
    with readable(folder) as path, context, quiet_orbax():
        return ocp.load(str(path), like)


def read_back(folder: Path, state: PyTree) -> None:
    """ValueError where a folder that was just written does not give `state` back, bit for bit. Of
    several processes none holds all of it: then only that the arrays can be opened."""
    if jax.process_count() > 1:
        with readable(folder):
            return
    back = _open(folder, jax.tree.map(_on_host, state))
    for (path, ours), theirs in zip(
        jax.tree.leaves_with_path(state), jax.tree.leaves(back), strict=True
    ):
        if _bytes(ours) != _bytes(theirs):
            raise ValueError(f"{jax.tree_util.keystr(path)} is read back with other bits")


def _on_host(leaf: jax.Array) -> Any:
    """What orbax reads as a NumPy array; keys, which NumPy has not, stay as they are."""
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
    """Leaf path -> dtype and shape: {"params/dense/kernel": "float32[64,32]"}."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
        )
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _require_same(folder: Path, saved: dict[str, str], wanted: dict[str, str]) -> None:
    absent = "absent"
    differences = [
        f"{leaf} is {saved.get(leaf, absent)} there and {wanted.get(leaf, absent)} here"
        for leaf in {**wanted, **saved}  # a dict for its order: ours first
        if saved.get(leaf) != wanted.get(leaf)
    ]
    if differences:
        more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise CheckpointError(
            f"checkpoint {folder} belongs to another model: {'; '.join(differences[:3])}{more}; "
            "use the config it was trained with (config.json of its workdir)"
        )


def delete(folder: Path) -> None:
    # Renamed first: a kill in the midst of the deletion must not leave half a STEP folder.
    removed = folder.with_name(f"{folder.name}.removed")
    shutil.rmtree(removed, ignore_errors=True)
    folder.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


def reason_of(error: Exception) -> str:
    """An exception in a few words: tensorstore hides the system's error in a long text."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(code[1])) if code else " ".join(str(error).split())[:300]
