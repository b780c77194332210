"""Where config files are. Imports nothing heavy, so that --print_config answers at once."""

from pathlib import Path


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
