"""Readers of the files that downsampled ImageNet is published in: PNGs, or batches of arrays."""

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

# What reading a damaged archive raises; RuntimeError is that of an encrypted .zip.
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, lzma.LZMAError, zlib.error,
           struct.error, EOFError, RuntimeError)  # fmt: skip


class Reader(Protocol):
    """Files of both splits."""

    has_labels: bool

    def num_test(self) -> int:
        """How many validation images there are."""
        ...

    def parts(self, split: str, count: int) -> Iterator[Part]:
        """All images of "train" or "test", in any order of rows; ValueError when there are not
        `count`, if that is known before they are read."""
        ...


class Pictures:
    """PNGs in `train_32x32` and `valid_32x32`: folders, .tar, .tar.gz or .zip.

    Rows are in the order of the names of the files, wherever in an archive they lie.
    """

    has_labels = False

    def __init__(self, train: Path, test: Path, size: int) -> None:
        self._paths = {"train": train, "test": test}
        self._size = size

    @classmethod
    def find(cls, folder: Path, size: int) -> Self | None:
        """The reader of the files in a folder, if they are there."""
        found = []
        for name in (f"train_{size}x{size}", f"valid_{size}x{size}"):
            paths = [folder / (name + end) for end in ("", ".tar", ".tar.gz", ".zip")]
            found.append(next((path for path in paths if path.exists()), None))
        train, test = found
        return None if train is None or test is None else cls(train, test, size)

    @staticmethod
    def wanted(size: int) -> str:
        """What `find` looks for."""
        return f"train_{size}x{size} and valid_{size}x{size} (folders, .tar or .zip)"

    def num_test(self) -> int:
        """How many PNGs of validation there are."""
        return len(self._names("test"))

    def parts(self, split: str, count: int) -> Iterator[Part]:
        """One image at a time, in the order they lie there."""
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
        # By the name of the file first, so that folders and archives give the same order.
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
                image.verify()  # decoding misses some wrong pixels; this spoils it
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                # A few grey ones are among them.
                codes = np.asarray(image.convert("RGB"))
        except (*_DAMAGE, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{name} in {path} is no readable PNG: get it again") from error
        if codes.shape != (self._size, self._size, 3):
            raise ValueError(
                f"{name} in {path} is {codes.shape[1]} x {codes.shape[0]}, not {self._size} x "
                f"{self._size}: name the files of that size"
            )
        return codes


def _pictures(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """(name, how to read it) of each PNG in a folder or an archive, in the order they lie there."""
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
                    kept.members.clear()  # a million of them fill 0.6 GB
                    if member.isfile() and _is_picture(member.name):
                        yield member.name, lambda member=member: _read(archive, member)
    except _DAMAGE as error:
        raise ValueError(f"{path} is damaged ({error}): get it again") from error


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None
    return file.read()


def _is_picture(name: str) -> bool:
    # Hidden files are the ones that macOS adds to archives.
    return name.endswith(".png") and not PurePosixPath(name).name.startswith(".")


class Batches:
    """`train_data_batch_1` ... `_10` and `val_data`, .npz or pickles, anywhere below a folder.

    "data" is uint8 [N, 3 H W], planes of red, green and blue; "labels" are 1 ... 1000.
    """

    has_labels = True

    def __init__(self, train: list[Path], test: Path, size: int) -> None:
        self._paths = {"train": train, "test": [test]}
        self._size = size

    @classmethod
    def find(cls, folder: Path, size: int) -> Self | None:
        """The reader of the files below a folder, if they are all there."""
        names = [f"train_data_batch_{number}" for number in range(1, 11)] + ["val_data"]
        known = {path.name: path for path in sorted(folder.rglob("*data*")) if path.is_file()}
        found = [
            next(
                (known[n + end] for end in (".npz", "", ".pickle", ".pkl") if n + end in known),
                None,
            )
            for n in names
        ]
        paths = [path for path in found if path is not None]
        return None if len(paths) < len(names) else cls(paths[:-1], paths[-1], size)

    @staticmethod
    def wanted(size: int) -> str:
        """What `find` looks for."""
        return f"train_data_batch_1 to 10 and val_data of {size} x {size} (.npz or pickles)"

    def num_test(self) -> int:
        """How many images val_data holds."""
        return len(self._read(self._paths["test"][0])[0])

    def parts(self, split: str, count: int) -> Iterator[Part]:
        """A batch at a time, in the order of their numbers."""
        del count  # known only when all are read
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
                    found = _ArraysOnly(file, encoding="latin1").load()
                    data, labels = found["data"], found["labels"]
        except Exception as error:  # a pickle can raise anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{path} is no batch of ImageNet ({reason}): get it again") from error
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
    """Of dictionaries, lists and arrays: a pickle from elsewhere could run any program."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.")
        if (module, name) in _OF_ARRAYS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


_OF_ARRAYS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}
