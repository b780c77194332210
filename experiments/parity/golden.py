"""Golden files, with inputs and outputs of VDM's published code, which their keys distinguish."""

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

CONFIG = Path(__file__).parent.parent.parent / "configs" / "cifar10.py"
"""Every model here starts from the variant "published" of this config."""

Arrays = dict[str, np.ndarray]


def read(path: Path) -> Arrays:
    """Reads the arrays of a golden file. Raises ValueError, in one line, for any other file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if not isinstance(json.loads(str(arrays["config_json"])), dict):
            raise ValueError("its config_json is not an object")
    except (
        OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, zlib.error,
        zipfile.BadZipFile,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is not a golden file ({reason})") from error
    if not any(name.startswith("out64/") for name in arrays):
        raise ValueError(f"{path} is not a golden file (it has no out64/...)")
    return arrays


def below(arrays: Arrays, prefix: str) -> Arrays:
    """The entries whose names begin with prefix/, without that prefix."""
    return {
        k.removeprefix(f"{prefix}/"): v for k, v in arrays.items() if k.startswith(f"{prefix}/")
    }


def nested(flat: Arrays, dtype: Any) -> dict[str, Any]:
    """Nests a flat dict, {"a/b": x} -> {"a": {"b": x}}, with arrays on the device."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = jnp.asarray(leaf, dtype)
    return tree


def flat(tree: Any) -> dict[str, Any]:
    """Flattens a nested dict, the inverse of `nested`."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }
