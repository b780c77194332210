"""Where config files are. Imports nothing heavy, so that --print_config answers at once."""

import functools
import importlib.util
from pathlib import Path

from ml_collections import ConfigDict


def find_config_file(path: Path) -> Path:
    """The file itself, or one of that relative path beside or inside the package.

    So configs/digits.py is found from any folder, in a checkout and in an installed package.
    """
    package = Path(__file__).parent
    for folder in (Path(), package.parent, package):
        if (folder / path).is_file():
            return folder / path
    kind = "is a folder, not a config file" if path.is_dir() else "does not exist"
    raise ValueError(f"config file {str(path)!r} {kind}: check --config=FILE")


@functools.cache
def built_in_configs() -> tuple[ConfigDict, ...]:
    """The config of every file in configs/, without arguments; not to be changed."""
    package = Path(__file__).parent
    folders = [folder for folder in (package.parent, package) if (folder / "configs").is_dir()]
    return tuple(load_config(path) for path in sorted(folders[0].glob("configs/*.py")))


def load_config(path: str | Path, *args: str) -> ConfigDict:
    """get_config(*args) of a config file; configs/digits.py and its like are always found."""
    path = find_config_file(Path(path))
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*args)
