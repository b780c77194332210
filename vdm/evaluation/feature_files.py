"""Reads the weights of feature functions (`vdm.evaluation.features`) from .npz files."""

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np

from vdm.data.arrays import UNREADABLE


def read_arrays(path: str | Path) -> tuple[dict[str, np.ndarray], str]:
    """Returns the arrays of a file, and the first 16 digits of its SHA-256."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray):  # bytes, if the member is not an .npy
                raise ValueError(f"{name} is not an array")
    except (OSError, AttributeError, *UNREADABLE) as error:
        raise _damaged(path, error) from error
    return arrays, hashlib.sha256(content).hexdigest()[:16]


def read_shapes(path: str | Path) -> tuple[dict[str, tuple[int, ...]], int]:
    """Returns the shapes of the arrays of a file, and the number in its "num_codes" (0 if it has
    none)."""
    shapes, num_codes = {}, np.int64(0)
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                name = member.removesuffix(".npy")
                with archive.open(member) as file:
                    if name == "num_codes":
                        num_codes = np.lib.format.read_array(file, allow_pickle=False)
                        continue
                    version = np.lib.format.read_magic(file)
                    header = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shapes[name] = header(file)[0]
    except OSError as error:
        raise _unreadable(path, error) from error
    except UNREADABLE as error:
        raise _damaged(path, error) from error
    return shapes, read_num_codes(path, num_codes)


def read_num_codes(path: str | Path, value: np.ndarray | np.generic) -> int:
    """Returns the array "num_codes" of a file as an int."""
    if value.size != 1 or not np.issubdtype(value.dtype, np.integer):
        raise ValueError(
            f"{path}: num_codes is {value.dtype} of shape {value.shape}; must be one integer"
        )
    return int(value.item())


def _unreadable(path: str | Path, error: OSError) -> ValueError:
    return ValueError(
        f"{path} cannot be read: {error.strerror}; give the .npz with the features' weights"
    )


def _damaged(path: str | Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is not an .npz of numbers, or is damaged ({error})")
