"""Finds and reads config files. Nothing heavy is imported, so that --print_config answers at
once."""

import difflib
import functools
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vdm.io.errors import Terminated, describe, is_own_message

PACKAGE = Path(__file__).parent.parent
# The folder that holds the built-in configs/: the package if it is installed (another package may
# have a configs/ next to it), otherwise the checkout.
HOME = PACKAGE if (PACKAGE / "configs").is_dir() else PACKAGE.parent
FOLDERS = (Path(), HOME)


def find_config_file(path: Path) -> Path:
    """Returns the path of a config file, so that configs/digits.py is found from any folder.

    A relative path is looked up in the current folder, then in the checkout or installed package.
    ValueError for a file that does not exist; the message lists those that do.
    """
    for folder in FOLDERS:
        if (folder / path).is_file():
            return folder / path
    if (path / "config.json").is_file():
        raise ValueError(
            f"config file {str(path)!r} is a folder, not a config file: "
            f"did you mean --config={path / 'config.json'}?"
        )
    kind = "is a folder, not a config file" if path.is_dir() else "does not exist"
    known = {file.stem: f"configs/{file.name}" for folder in FOLDERS
             for file in sorted((folder / "configs").glob("*.py"))}  # fmt: skip
    near = difflib.get_close_matches(path.stem, known, n=1)
    hint = f"did you mean --config={known[near[0]]}? " if near else ""
    raise ValueError(
        f"config file {str(path)!r} {kind}: {hint}there are {', '.join(known.values())}, and "
        "files of your own"
    )


@functools.cache
def built_in_configs() -> tuple[ConfigDict, ...]:
    """Returns the config of every file in configs/, without arguments. Do not change them."""
    return tuple(load_config(path) for path in sorted(HOME.glob("configs/*.py")))


def load_config(path: str | Path, *args: str) -> ConfigDict:
    """Returns get_config(*args) of a config file, or the config in a workdir's config.json.

    The built-in files, such as configs/digits.py, are found from any folder. ValueError, in one
    line, for a file that does not exist or whose code raises any exception.
    """
    path = find_config_file(Path(path))
    if path.suffix == ".json" and not args:
        return _read_json(path)
    name = f"config_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"config file {path} is neither a Python file nor a config.json")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look there
    try:
        spec.loader.exec_module(module)
        if not callable(getattr(module, "get_config", None)):
            raise ValueError(f"config file {path} has no function get_config()")
        config = module.get_config(*args)
    except (KeyboardInterrupt, Terminated):
        raise
    except BaseException as error:
        if is_own_message(error) or (isinstance(error, ValueError) and str(path) in str(error)):
            raise
        raise ValueError(f"config file {path} fails: {describe(error)}") from error
    if not isinstance(config, ConfigDict):
        raise ValueError(
            f"config file {path}: get_config() must return an ml_collections.ConfigDict"
        )
    return config


def _read_json(path: Path) -> ConfigDict:
    """Reads the config.json that a run wrote."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"config file {path} is damaged: {error}") from error
    if not (isinstance(content, dict) and all(key in content for key in ("data", "train"))):
        raise ValueError(
            f"config file {path} does not hold a config: give the config.json of a workdir, or "
            "a Python file with get_config()"
        )
    return ConfigDict(_as_written(content))


def _as_written(value: Any) -> Any:
    """Turns the lists of JSON back into the tuples of a config."""
    if isinstance(value, dict):
        return {key: _as_written(inner) for key, inner in value.items()}
    return tuple(map(_as_written, value)) if isinstance(value, list) else value
