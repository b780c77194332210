"""Golden files: arrays in and out of VDM's published code, told apart by their keys."""

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

CONFIG = Path(__file__).parent.parent.parent / "configs" / "cifar10.py"
"""Its variant "published" is where every model here starts from."""

Arrays = dict[str, np.ndarray]


def read(path: Path) -> Arrays:
    """The arrays of a golden file. ValueError, one line, for a file that is none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if not isinstance(json.loads(str(arrays["config_json"])), dict):
            raise ValueError("its config_json is no object")
    except (
        OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, zlib.error,
        zipfile.BadZipFile,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is no golden file ({reason})") from error
    if not any(name.startswith("out64/") for name in arrays):
        raise ValueError(f"{path} is no golden file (it has no out64/...)")
    return arrays


def below(arrays: Arrays, prefix: str) -> Arrays:
    """The entries under prefix/, named without it."""
    return {
        k.removeprefix(f"{prefix}/"): v for k, v in arrays.items() if k.startswith(f"{prefix}/")
    }


def nested(flat: Arrays, dtype: Any) -> dict[str, Any]:
    """{"a/b": x} -> {"a": {"b": x}}, on the device."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = jnp.asarray(leaf, dtype)
    return tree


def flat(tree: Any) -> dict[str, Any]:
    """The inverse of `nested`."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }
