"""Readers of the files of downsampled ImageNet: PNGs, or batches of arrays."""

import gzip
import io
import itertools
import lzma
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, Self

import numpy as np

Part = tuple[int, np.ndarray, np.ndarray | None]
"""First row, uint8 codes [n, H, W, 3], labels [n] or None."""

# What reading a damaged archive raises; RuntimeError comes from an encrypted .zip.
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, lzma.LZMAError, zlib.error,
           struct.error, EOFError, RuntimeError)  # fmt: skip


class Reader(Protocol):
    """Reads the images of both splits from their original files."""

    has_labels: bool

    def num_test(self) -> int:
        """The number of validation images."""
        ...

    def parts(self, split: str, count: int) -> Iterator[Part]:
        """Yields all images of "train" or "test", with rows in any order.

        Raises ValueError if there are not `count` images and this is known before reading them.
        """
        ...


class Pictures:
    """Reads PNGs from `train_32x32` and `valid_32x32`, which are folders, .tar, .tar.gz or .zip.

    Rows are in the order of the file names, whatever their order or folders in an archive.
    """

    has_labels = False

    def __init__(self, train: Path, test: Path, size: int) -> None:
        self._paths = {"train": train, "test": test}
        self._size = size

    @classmethod
    def find(cls, folder: Path, size: int) -> Self | None:
        """The reader of the files in a folder; None if a file is missing."""
        splits = []
        for name in (f"train_{size}x{size}", f"valid_{size}x{size}"):
            paths = [folder / (name + end) for end in ("", ".tar", ".tar.gz", ".zip")]
            splits.append(next((path for path in paths if path.exists()), None))
        train, test = splits
        return None if train is None or test is None else cls(train, test, size)

    @staticmethod
    def describe_files(size: int) -> str:
        """The files that `find` looks for, for messages."""
        return f"train_{size}x{size} and valid_{size}x{size} (folders, .tar or .zip)"

    def num_test(self) -> int:
        """The number of validation PNGs."""
        return len(self._names("test"))

    def parts(self, split: str, count: int) -> Iterator[Part]:
        """Yields one image at a time, in the order of the archive or folder."""
        names, path = self._names(split), self._paths[split]
        if len(names) != count:
            raise ValueError(f"{path} has {len(names):,} PNGs, not {count:,}: get it again")
        if len(set(names)) != count:  # a row of the array would stay zero
            twice = next(name for name, after in itertools.pairwise(names) if name == after)
            raise ValueError(f"{path} has {twice} more than once: get it again")
        rows = {name: row for row, name in enumerate(names)}
        for name, read in _pictures(self._paths[split]):
            yield rows[name], self._decode(split, name, read)[None], None

    def _names(self, split: str) -> list[str]:
        # Sorted by the file name first, so that folders and archives give the same order.
        names = [name for name, _ in _pictures(self._paths[split])]
        return sorted(names, key=lambda name: (PurePosixPath(name).name, name))

    def _decode(self, split: str, name: str, read: Callable[[], bytes]) -> np.ndarray:
        from PIL import Image

        path = self._paths[split]
        try:
            content = read()
        except _DAMAGE as error:
            raise ValueError(f"{path} is damaged at {name} ({error}): get it again") from error
        try:
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                image.verify()  # decoding misses some damage; the image is unusable after this
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                # A few of the images are grey.
                codes = np.asarray(image.convert("RGB"))
        except (*_DAMAGE, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{name} in {path} is not a readable PNG: get it again") from error
        if codes.shape != (self._size, self._size, 3):
            raise ValueError(
                f"{name} in {path} is {codes.shape[1]} x {codes.shape[0]}, not {self._size} x "
                f"{self._size}: name the files of that size"
            )
        return codes


def _pictures(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yields (name, function that reads it) for each PNG in a folder or an archive, unsorted."""
    try:
        if path.is_dir():
            for file in path.rglob("*.png"):
                if _is_picture(name := file.relative_to(path).as_posix()):
                    yield name, file.read_bytes
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for name in filter(_is_picture, archive.namelist()):
                    yield name, lambda name=name: archive.read(name)
        else:
            with tarfile.open(path) as archive:
                kept: Any = archive
                while (member := archive.next()) is not None:
                    kept.members.clear()  # a million entries take 0.6 GB
                    if member.isfile() and _is_picture(member.name):
                        yield member.name, lambda member=member: _read(archive, member)
    except _DAMAGE as error:
        raise ValueError(f"{path} is damaged ({error}): get it again") from error


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None
    return file.read()


def _is_picture(name: str) -> bool:
    # macOS adds hidden files to archives.
    return name.endswith(".png") and not PurePosixPath(name).name.startswith(".")


class Batches:
    """Reads `train_data_batch_1` ... `_10` and `val_data` (.npz or pickles) below a folder.

    "data" is uint8 [N, 3 H W], planes of red, green and blue; "labels" are 1 ... 1000.
    """

    has_labels = True

    def __init__(self, train: list[Path], test: Path, size: int) -> None:
        self._paths = {"train": train, "test": [test]}
        self._size = size

    @classmethod
    def find(cls, folder: Path, size: int) -> Self | None:
        """The reader of the files below a folder; None if a file is missing."""
        names = [f"train_data_batch_{number}" for number in range(1, 11)] + ["val_data"]
        known = {path.name: path for path in sorted(folder.rglob("*data*")) if path.is_file()}
        candidates = [
            next(
                (known[n + end] for end in (".npz", "", ".pickle", ".pkl") if n + end in known),
                None,
            )
            for n in names
        ]
        paths = [path for path in candidates if path is not None]
        return None if len(paths) < len(names) else cls(paths[:-1], paths[-1], size)

    @staticmethod
    def describe_files(size: int) -> str:
        """The files that `find` looks for, for messages."""
        return f"train_data_batch_1 to 10 and val_data of {size} x {size} (.npz or pickles)"

    def num_test(self) -> int:
        """The number of images in val_data."""
        return len(self._read(self._paths["test"][0])[0])

    def parts(self, split: str, count: int) -> Iterator[Part]:
        """Yields one batch file at a time, in the order of their numbers."""
        del count  # the number of images is known only once all are read
        row = 0
        for path in self._paths[split]:
            codes, labels = self._read(path)
            yield row, codes, labels
            row += len(codes)

    def _read(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        try:
            with path.open("rb") as file:
                if path.suffix == ".npz":
                    with np.load(file, allow_pickle=False) as arrays:
                        data, labels = arrays["data"], arrays["labels"]
                else:
                    content = _ArraysOnly(file, encoding="latin1").load()
                    data, labels = content["data"], content["labels"]
        except Exception as error:  # a pickle can raise anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"{path} is not a batch of ImageNet ({reason}): get it again"
            ) from error
        data, labels = np.asarray(data), np.asarray(labels, np.int32) - 1
        if data.dtype != np.uint8 or data.shape != (len(labels), 3 * self._size**2):
            raise ValueError(
                f"{path} has data of {data.dtype} {data.shape} and {len(labels)} labels, not uint8 "
                f"[N, {3 * self._size**2}]: name the files of {self._size} x {self._size}"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < 1000:
            raise ValueError(f"{path} has labels outside 1 ... 1000: get it again")
        planes = data.reshape(-1, 3, self._size, self._size)
        return planes.transpose(0, 2, 3, 1), labels


class _ArraysOnly(pickle.Unpickler):
    """Unpickles dictionaries, lists and arrays only, as an untrusted pickle could run any code."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.")
        if (module, name) in _ARRAY_GLOBALS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


_ARRAY_GLOBALS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}
