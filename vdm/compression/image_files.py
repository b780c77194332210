"""Reads and writes images for compression: an .npy of codes, or a folder of pictures."""

import io
import os
import shutil
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from vdm.compression.lattice import DamagedError
from vdm.data import advice, folders, pictures
from vdm.data.arrays import UNREADABLE
from vdm.models import interface
from vdm.models.vdm import VDM


class Images(NamedTuple):
    """The images of a file or folder.

    Attributes:
        codes: integers [N, ...].
        names: the names of their PNGs, for a folder.
        note: a line for the user about what was read.
    """

    codes: np.ndarray
    names: tuple[str, ...] = ()
    note: str = ""


def read_images(path: Path, num_codes: int = 256) -> Images:
    """Reads the images in an .npy or a folder of pictures.

    Args:
        num_codes: of the model; an error message uses it to say how to convert other numbers.

    Raises:
        ValueError: `path` is something else; or pictures differ in shape or hold information that
            the decompressed PNGs would lack.
    """
    if path.suffix == ".npy":
        return Images(read_codes(path, num_codes))
    if not path.is_dir():
        raise ValueError(f"--input={path} must be an .npy of codes, or a folder of pictures")
    listing = folders.find(path)
    if not listing.pictures:
        kinds = f"{', '.join(pictures.ENDINGS)}; skipped {listing.describe_skipped()}"
        raise ValueError(f"--input={path} has no pictures ({kinds})")
    names, files = zip(*sorted(listing.pictures.items()), strict=True)
    shapes = {pictures.shape_of(file, 0, exact=True): file for file in files}
    if len(shapes) > 1:  # palettes of greys are read as RGB if the others are RGB
        coloured = {pictures.shape_of(file, 0, exact=True, channels=3): file for file in files}
        shapes = coloured if len(coloured) == 1 else shapes
    if len(shapes) > 1:
        one, other, *_ = shapes
        raise ValueError(
            f"pictures must have one shape: {shapes[one]} has {one}, {shapes[other]} has {other}"
        )
    png = tuple(name if name.lower().endswith(".png") else f"{name}.png" for name in names)
    for name in png:
        if "\n" in name or not name.isprintable():
            raise ValueError(f"--input={path}: rename {name!r}, which is not plain text")
    if len(set(png)) < len(png):
        double = next(name for name in png if png.count(name) > 1)
        raise ValueError(f"--input={path}: two PNGs would be named {double}; rename one picture")
    profiles = sum(pictures.has_profile(file) for file in files)
    note = f"read {len(files)} pictures in {path}; skipped {listing.describe_skipped()}"
    if profiles:
        note += f"; their pixels are kept, but the colour profiles of {profiles} are not"
    codes = pictures.decode(files, next(iter(shapes)), 0, exact=True)
    return Images(codes, () if png == _numbered(len(png)) else png, note)


def _numbered(count: int) -> tuple[str, ...]:
    """Default names for pictures that have none."""
    return tuple(f"{i:06d}.png" for i in range(count))


def read_codes(path: Path, num_codes: int) -> np.ndarray:
    """Reads the integers in an .npy; raises ValueError for anything else."""
    array = _read_array(path)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"{path} holds {advice.describe(array)}: codes are integers; with x = "
            f"numpy.load(...): {advice.to_codes(array, num_codes, fixed=True)}"
        )
    return array


def read_labels(path: Path) -> np.ndarray:
    """Reads the integers [N] in an .npy; raises ValueError for anything else."""
    array = _read_array(path)
    if remedy := advice.to_labels(array):
        raise ValueError(
            f"{path} holds {advice.describe(array)}: labels are integers, one for each image; with "
            f"x = numpy.load(...): {remedy}"
        )
    return array


def _read_array(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except UNREADABLE as error:
        raise ValueError(f"{path} is not an .npy of numbers: {error}") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} holds several arrays: save one of them as an .npy")
    return array


def check_pictures(shape: tuple[int, ...], model: VDM) -> None:
    """Raises ValueError if an array of that shape cannot be written as 8-bit pictures."""
    grey, coloured = len(shape) == 3 or shape[-1] == 1, len(shape) == 4 and shape[-1] == 3
    num_codes = interface.num_codes(model)
    if not (grey or coloured) or len(shape) > 4 or num_codes > 256:
        raise ValueError(
            f"{num_codes} codes in an array of shape {shape} cannot be written as 8-bit pictures: "
            "name an .npy"
        )


def write_folder(path: Path, images: np.ndarray, names: tuple[str, ...]) -> None:
    """Writes PNGs to a new folder atomically."""
    from PIL import Image

    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    names = names or _numbered(len(images))
    if len(names) != len(images) or not all(_is_inside(name) for name in names):
        raise DamagedError("its file names are not names of pictures inside a folder")
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        for name, image in zip(names, images, strict=True):
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.astype(np.uint8)).save(temporary / name, "PNG")
        temporary.mkdir(parents=True, exist_ok=True)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_inside(name: str) -> bool:
    parts = PurePosixPath(name)
    return bool(name) and not parts.is_absolute() and ".." not in parts.parts


def to_npy(array: np.ndarray) -> bytes:
    """The bytes of an .npy file with this array."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
