"""Folders of pictures: which are there, and their codes."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

_CHANNELS = {"L": 1, "RGB": 3}

# What PIL raises for a file that is no picture, or a damaged one.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError)


def listed(root: Path, split: str, num_test: int) -> list[Path]:
    """The pictures of "train" or "test" in the order of `place`.

    With folders train/ and test/ in `root` they are what is in these, else the last `num_test` of
    all are "test".

    Raises:
        ValueError: there are none.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is no folder: set data.kwargs.path to a folder of pictures")
    halves = [name for name in ("train", "test") if (root / name).is_dir()]
    if halves:
        if len(halves) < 2 or num_test:
            wrong = f"has {halves[0]}/ alone" if len(halves) < 2 else "has train/ and test/"
            raise ValueError(
                f"{root} {wrong}, and data.kwargs.num_test is {num_test}: have both folders and "
                "num_test = 0, or neither"
            )
        found = _by_place(root / split)
        if not found:
            raise ValueError(f"{root / split} has no pictures ({', '.join(ENDINGS)})")
        return found
    found = _by_place(root)
    if not 0 < num_test < len(found):
        raise ValueError(
            f"{root} has {len(found)} pictures and no folders train/ and test/, and "
            f"data.kwargs.num_test is {num_test}: set it to how many are for testing"
        )
    return found[:-num_test] if split == "train" else found[-num_test:]


def below(folder: Path) -> list[Path]:
    """All pictures in a folder and the folders in it."""
    return [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in ENDINGS and not path.name.startswith(".")
    ]


def _by_place(folder: Path) -> list[Path]:
    return sorted(below(folder), key=lambda path: place(path.relative_to(folder).as_posix()))


def place(path: str) -> tuple[str, str]:
    """What the relative paths of pictures are sorted by: their SHA-256. It mixes the classes, and
    is the same on every machine."""
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest(), path


def shape_of(path: Path, size: int) -> tuple[int, int, int]:
    """[H, W, C] of a picture, cut and resized to `size` x `size` unless that is 0; its header alone
    is read."""
    with _opened(path) as image:
        width, height = (size, size) if size else image.size
        return height, width, _CHANNELS[image.mode]


def decode(paths: Sequence[Path], shape: tuple[int, ...], size: int) -> np.ndarray:
    """uint8 codes [N, *shape] of the pictures.

    Raises:
        ValueError: one cannot be read or has another shape.
    """
    codes = np.empty((len(paths), *shape), np.uint8)
    for row, path in enumerate(paths):
        with _opened(path) as image:
            try:
                pixels = np.asarray(_resized(image, size) if size else image)
            except _DAMAGE as error:  # the pixels are read only here
                raise _unreadable(path) from error
        found = pixels if pixels.ndim == 3 else pixels[..., None]
        if found.shape != shape:
            raise ValueError(
                f"{path} has shape {found.shape}, not {shape}: pictures must have one shape; "
                "data.kwargs.size = n cuts and resizes them to n x n, and grey among coloured ones "
                "must be converted"
            )
        codes[row] = found
    return codes


def _opened(path: Path) -> Any:
    from PIL import Image

    try:
        image = Image.open(path)
    except _DAMAGE as error:
        raise _unreadable(path) from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large: make it smaller, or remove it") from error
    if image.mode not in _CHANNELS:
        image.close()
        raise ValueError(
            f"{path} is of the kind {image.mode!r}: convert it to 8-bit grey or RGB (with PIL, "
            "image.convert('RGB').save(...))"
        )
    return image


def _resized(image: Any, size: int) -> Any:
    from PIL import Image

    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BOX, box=box)


def _unreadable(path: Path) -> ValueError:
    return ValueError(f"{path} is no picture that can be read: remove it, or get it again")
