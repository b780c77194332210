"""Reads checkpoints of VDM's published code (google-research/vdm, 2022) into this code's parameter
tree.

The published code saves its train state with clu: flax's msgpack of `step`, `params`, `ema_params`
and `opt_state`, one file `ckpt-N.flax` per save in a folder `checkpoints-PROCESS`, where N counts
saves. The arrays are those of one device. Both trees hold the same arrays in the same layouts; only
the names differ, by the rules below. The published gamma is our omega.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import flax.serialization
import jax
import numpy as np

from vdm.io.checkpoints import CheckpointError
from vdm.typing import Params, PyTree

LISTED = 8
"""How many arrays of each kind an error names; the others are counted."""

# (our path, published path); {} is the index of a block, the same in both.
_TOP = (
    ("network/conditioning/dense_0", "score_model/dense0"),
    ("network/conditioning/dense_1", "score_model/dense1"),
    ("network/conv_in", "score_model/conv_in"),
    ("network/norm_out", "score_model/GroupNorm_0"),
    ("network/conv_out", "score_model/conv_out"),
    ("schedule/l1", "gamma/l1"),
    ("schedule/l2", "gamma/l2"),
    ("schedule/l3", "gamma/l3"),
    ("schedule/w", "gamma/w"),
    ("schedule/b", "gamma/b"),
)
_BLOCKS = (
    ("network/down_{}", "score_model/down.block_{}"),
    ("network/middle_0", "score_model/mid.block_1"),
    ("network/middle_1", "score_model/mid.block_2"),
    ("network/up_{}", "score_model/up.block_{}"),
)
_IN_BLOCK = (
    ("norm_0", "GroupNorm_0"),
    ("conv_0", "conv1"),
    ("cond", "cond_proj"),
    ("norm_1", "GroupNorm_1"),
    ("conv_1", "conv2"),
    ("shortcut", "nin_shortcut"),
)
_ATTENTIONS = (
    ("network/down_{}_attention", "score_model/down.attn_{}"),
    ("network/middle_0_attention", "score_model/mid.attn_1"),
    ("network/up_{}_attention", "score_model/up.attn_{}"),
)
_IN_ATTENTION = (
    ("norm", "GroupNorm_0"),
    ("query", "q"),
    ("key", "k"),
    ("value", "v"),
    ("out", "proj_out"),
)


def _inside(outer: Iterable, inner: Iterable) -> tuple[tuple[str, str], ...]:
    inner = tuple(inner)
    return tuple((f"{a}/{c}", f"{b}/{d}") for a, b in outer for c, d in inner)


RULES: tuple[tuple[str, str], ...] = (
    *_TOP,
    *_BLOCKS,
    *_ATTENTIONS,
    *_inside(_BLOCKS, _IN_BLOCK),
    *_inside(_ATTENTIONS, _IN_ATTENTION),
)
"""(our path, published path) of modules and arrays; a trailing kernel, bias or scale is kept."""


def _rename(path: str, rules: Iterable[tuple[str, str]]) -> str | None:
    for old, new in rules:
        pattern = re.escape(old).replace(r"\{\}", r"(\d+)") + r"(/kernel|/bias|/scale)?"
        match = re.fullmatch(pattern, path)
        if match:
            *indices, leaf = match.groups()
            return new.format(*indices) + (leaf or "")
    return None


def from_published_path(path: str) -> str | None:
    """Our path for a published one such as "score_model/dense0/bias"; None if no rule matches."""
    return _rename(path, ((theirs, ours) for ours, theirs in RULES))


def to_published_path(path: str) -> str | None:
    """The published path for one of ours; None for arrays that published networks do not have."""
    return _rename(path, RULES)


def from_published(tree: Mapping[str, Any], like: PyTree | None = None) -> Params:
    """Converts {"score_model": ..., "gamma": ...} to {"network": ..., "schedule": ...}.

    Without "gamma" (a fixed schedule) the entry "schedule" is empty. Leaves can be anything.

    Args:
        tree: a published tree.
        like: our model's tree, which the result must match.

    Raises:
        ValueError: no rule matches an array; or, with `like`, arrays are missing, unexpected or of
            another shape.
    """
    theirs = _flatten(tree)
    flat = {from_published_path(path) or path: leaf for path, leaf in theirs.items()}
    strangers = [path for path in theirs if from_published_path(path) is None]
    differences = _differences(flat, _flatten(like)) if like is not None else (
        f"{len(strangers)} unexpected: {_listing(strangers)}" if strangers else "")  # fmt: skip
    if differences:
        raise ValueError(differences)
    return {"network": {}, "schedule": {}} | _unflatten(flat)


def to_published(params: Params) -> dict[str, Any]:
    """Inverts `from_published`; raises ValueError for arrays that the published code lacks."""
    flat = _flatten(params)
    strangers = [path for path in flat if to_published_path(path) is None]
    if strangers:
        raise ValueError(f"the published VDM does not have {_listing(strangers)}")
    return _unflatten({to_published_path(path) or "": leaf for path, leaf in flat.items()})


def is_published(path: str | Path) -> bool:
    """Whether `read_published` should read a path: any file (our checkpoints are folders), a file
    named without its `.flax`, or a folder that holds such files."""
    path = Path(path)
    return path.is_file() or _with_suffix(path).is_file() or bool(_saves(path))


def read_published(path: str | Path, like: Mapping[str, PyTree]) -> tuple[int, dict[str, Params]]:
    """Reads a checkpoint of the published code; returns (step, subtrees in our tree).

    Args:
        path: a file; or, to read the newest save, a folder `checkpoints-0` or the one that
            contains it.
        like: the requested fields of {"params": ..., "ema_params": ...}, each our model's tree with
            an array or `jax.ShapeDtypeStruct` at each leaf. The returned arrays have its dtypes and
            shardings (a leaf without one goes to the first device).

    Raises:
        CheckpointError: the file is missing, is not flax's msgpack, is cut short or lacks a field;
            or arrays of `like` are missing, unexpected or of another shape.
    """
    file = _newest(Path(path))
    state = _read(file)
    step, subtrees = _step(file, state), {}
    for field, requested in like.items():
        if not isinstance(state.get(field), Mapping) or not state[field]:
            raise CheckpointError(
                f"{file} has no {field}: it holds {', '.join(map(str, state)) or 'nothing'}; "
                "give a train state that the published VDM saved, or choose parameters that it has "
                "with --config.eval.params=raw|ema"
            )
        try:
            arrays = _flatten(from_published(state[field], requested))
        except ValueError as error:
            raise CheckpointError(
                f"{field} of {file} belong to another model: {error}; start from --config="
                "configs/cifar10.py:published and give it that model's network and schedule"
            ) from error
        leaves = [_place(arrays[path], leaf) for path, leaf in _flatten(requested).items()]
        subtrees[field] = jax.tree.unflatten(jax.tree.structure(requested), leaves)
    return step, subtrees


def _newest(path: Path) -> Path:
    """The file to read."""
    for file in (path, _with_suffix(path)):
        if file.is_file():
            return file
    saves = _saves(path)
    if not saves:
        raise CheckpointError(
            f"{path} does not hold a checkpoint of the published VDM: give a file ckpt-N.flax, or "
            "a folder checkpoints-0 that contains such files"
        )
    return saves[-1]


def _with_suffix(path: Path) -> Path:
    # clu refers to a save without its suffix: --checkpoint=.../checkpoints-0/ckpt-1
    return path.with_name(path.name + ".flax")


def _saves(folder: Path) -> list[Path]:
    """The saves in a folder or in its subfolder checkpoints-0, the newest last.

    clu writes ckpt-N.flax, and flax.training.checkpoints writes checkpoint_STEP; newer saves have
    larger numbers.
    """
    for place in (folder, folder / "checkpoints-0"):
        numbered = []
        for file in place.glob("*") if place.is_dir() else ():
            match = re.fullmatch(r"ckpt-(\d+)\.flax|checkpoint_(\d+)", file.name)
            if match and file.is_file():
                numbered.append((int(match[1] or match[2]), file))
        if numbered:
            return [file for _, file in sorted(numbered)]
    return []


def _read(file: Path) -> dict[str, Any]:
    try:
        state = flax.serialization.msgpack_restore(file.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from error
    except Exception as error:  # for bad bytes, msgpack, numpy and flax raise different errors
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(
            f"{file} is not a msgpack of flax, or is cut short ({reason}): copy it again"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{file} holds a {type(state).__name__}, not a train state")
    return state


def _step(file: Path, state: Mapping[str, Any]) -> int:
    """The step, which was saved as a number or as an array without axes."""
    step = np.asarray(state.get("step"))
    if step.shape or not np.issubdtype(step.dtype, np.integer):
        raise CheckpointError(f"{file} has no step: it is not a train state of the published VDM")
    return int(step)


def _differences(saved: Mapping[str, Any], requested: Mapping[str, Any]) -> str:
    """How saved arrays differ from those of a model, both by our paths; "" if they fit."""
    both = requested.keys() & saved.keys()
    lists = {
        "missing": [_their_name(path) for path in requested.keys() - both],
        "unexpected": [_their_name(path) for path in saved.keys() - both],
        "of other shape": [
            f"{_their_name(path)} {_shape(saved[path])} there and {_shape(requested[path])} here"
            for path in both
            if np.shape(saved[path]) != np.shape(requested[path])
        ],
    }
    return "; ".join(
        f"{len(names)} {what}: {_listing(sorted(names))}" for what, names in lists.items() if names
    )


def _their_name(path: str) -> str:
    return to_published_path(path) or path


def _shape(leaf: Any) -> str:
    return f"[{','.join(map(str, np.shape(leaf)))}]"


def _listing(names: list[str]) -> str:
    more = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _place(leaf: Any, like: Any) -> jax.Array:
    sharding = getattr(like, "sharding", None)
    return jax.device_put(np.asarray(leaf, like.dtype), sharding or jax.local_devices()[0])


def _flatten(tree: PyTree) -> dict[str, Any]:
    """A tree as {"path/of/leaf": leaf}, in JAX's order."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = leaf
    return tree
