"""Data sets in this project's own format: `train.npy` and `test.npy` of uint8 codes, memory-mapped.

The format is for sets that are too large to decode into memory at each start. Next to the arrays,
`dataset.json` records each split's number of examples, size in bytes and fingerprint, so that a
reader need not hash gigabytes. A set is written to `<name>.partial` and renamed once it is complete
and on the disk.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vdm.data import advice

try:
    from lzma import LZMAError
except ImportError:  # this Python was built without lzma
    from zlib import error as LZMAError

FACTS = "dataset.json"

# What numpy.load raises, besides OSError, for a file of another kind, a damaged file, or a header
# that asks for the impossible: its parser for .npy, zipfile for .npz. A flipped bit may look like
# an unknown compression method or a password (RuntimeError).
UNREADABLE = (
    ValueError, TypeError, EOFError, SyntaxError, OverflowError, MemoryError, RuntimeError,
    tokenize.TokenError, zipfile.BadZipFile, zlib.error, LZMAError,
)  # fmt: skip


def fingerprint(examples: np.ndarray) -> str:
    """The hash "sha256:..." of the examples' dtype, shape and bytes, in order."""
    digest = hashlib.sha256(f"{examples.dtype} {examples.shape}\n".encode())
    digest.update(np.ascontiguousarray(examples).data)
    return f"sha256:{digest.hexdigest()}"


class ArrayFile:
    """An .npy file of uint8 codes, of `shape` [N, ...], whose rows can be written in any order."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.path, self.shape = path, shape
        self._row_size = int(np.prod(shape[1:]))
        self._file = path.open("wb")
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)
        self._start = self._file.tell()

    def put(self, first_row: int, codes: np.ndarray) -> None:
        """Writes uint8 codes [n, ...] to the rows starting at `first_row`."""
        assert codes.dtype == np.uint8
        assert codes.shape[1:] == self.shape[1:]
        # With writes, unlike with a memory map, a full disk raises an error and not a signal.
        self._file.seek(self._start + first_row * self._row_size)
        self._file.write(np.ascontiguousarray(codes).data)

    def close(self) -> None:
        """Closes the file once everything is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


@contextlib.contextmanager
def new_set(folder: Path) -> Iterator[Path]:
    """Provides a temporary folder to write a set to, which becomes `folder` if the block succeeds.

    Files left by an earlier attempt are deleted first. Raises ValueError if `folder` exists.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists and is not a complete set: delete it, or move it away")
    partial = folder.with_name(folder.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    yield partial
    for path in (*sorted(partial.iterdir()), partial):
        sync(path)
    partial.rename(folder)
    sync(folder.parent)


def sync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def describe(folder: Path, name: str) -> None:
    """Writes `dataset.json`, which describes the `train.npy` and `test.npy` in the folder."""
    splits = {}
    for split in ("train", "test"):
        path, labels = folder / f"{split}.npy", folder / f"{split}_labels.npy"
        examples = np.load(path, mmap_mode="r")
        splits[split] = {
            "num_examples": len(examples),
            "shape": list(examples.shape[1:]),
            "bytes": path.stat().st_size,
            "fingerprint": fingerprint(examples),
            "labels": labels.name if labels.exists() else None,
            "labels_bytes": labels.stat().st_size if labels.exists() else 0,
        }
    facts = {"name": name, "splits": splits}
    (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n")


@dataclasses.dataclass(frozen=True)
class Stored:
    """One split of a set on the disk.

    Attributes:
        examples: uint8 codes [N, *shape], memory-mapped.
        labels: int32 [N], or None.
        fingerprint: of the examples, as `dataset.json` records it.
    """

    examples: np.ndarray
    labels: np.ndarray | None
    fingerprint: str


def read_split(folder: Path, split: str, shape: tuple[int, ...], num_classes: int) -> Stored:
    """Reads one split of the prepared set in `folder`.

    Args:
        shape: the shape that every example must have.
        num_classes: labels must be 0 ... num_classes - 1; 0 reads no labels.

    Raises:
        ValueError: the set is not prepared, or its files differ from what `dataset.json` records.
    """
    name = folder.name
    remedy = (
        f"prepare it once with `python -m vdm.data.prepare {name} --data_dir={folder.parent} "
        "--from=FOLDER`"
    )
    if not (folder / FACTS).is_file():
        raise ValueError(
            f"data set {name!r} is not prepared: no file {folder / FACTS}; {remedy}, or point "
            "--config.data.data_dir at a folder that has it"
        )
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text())["splits"][split]
        path = folder / f"{split}.npy"
        if path.stat().st_size != facts["bytes"]:
            raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes")
        examples = map_codes(path)
        if examples.shape != (facts["num_examples"], *shape):
            raise ValueError(f"{path.name} has shape {examples.shape}")
        labels = None
        if num_classes:
            path = folder / str(facts["labels"])
            labels = read_labels(path, len(examples), num_classes)
            size = path.stat().st_size
            if size != facts.get("labels_bytes", size):  # sets prepared by older versions lack it
                raise ValueError(f"{path.name} has {size:,} bytes")
        return Stored(examples, labels, facts["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise ValueError(
            f"the data set at {folder} is damaged ({error}): delete that folder and {remedy}"
        ) from error


def map_codes(path: Path, num_codes: int = 256) -> np.ndarray:
    """Memory-maps the uint8 array of shape [N, ...] in an .npy file.

    Args:
        num_codes: how many codes the data should have; an error message uses it to say how to
            convert other numbers.

    Raises:
        ValueError: the file cannot be read or holds something else.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, *UNREADABLE) as error:
        reason = getattr(error, "strerror", None) or "it is not an .npy of numbers"
        raise ValueError(f"cannot read {path}: {reason}; numpy.save writes such a file") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(
            f"{path} holds several arrays ({', '.join(array.files)}): numpy.save one of them to an "
            ".npy of its own"
        )
    if array.dtype != np.uint8:
        raise ValueError(
            f"{path} holds {advice.describe(array)}: codes are uint8 of shape [N, ...]; with x = "
            f"numpy.load(...): {advice.to_codes(array, num_codes)}"
        )
    if array.ndim < 2:
        raise ValueError(
            f"{path} holds {array.dtype} of shape {array.shape}: codes have shape [N, ...], with "
            "the N examples along the first axis"
        )
    if not array.size:
        raise ValueError(f"{path} is empty, of shape {array.shape}: it needs at least one example")
    return array.view(np.ndarray)  # rows gathered from it are then plain arrays


def largest(codes: np.ndarray) -> int:
    """The largest code, found part by part so that a mapped array need not fit in memory."""
    return max(int(codes[start : start + 4096].max()) for start in range(0, len(codes), 4096))


def read_labels(path: Path, count: int, num_classes: int) -> np.ndarray:
    """Reads int32 labels [count] from an .npy file.

    Raises:
        ValueError: the file cannot be read, or holds something other than `count` integers
            0 ... num_classes - 1.
    """
    try:
        labels = np.load(path, allow_pickle=False)
    except (OSError, *UNREADABLE) as error:
        reason = getattr(error, "strerror", None) or "it is not an .npy of numbers"
        raise ValueError(f"cannot read the labels in {path}: {reason}") from error
    if not isinstance(labels, np.ndarray):
        raise ValueError(
            f"{path} holds {type(labels).__name__}: labels are {count} integers in an .npy, which "
            "numpy.save writes"
        )
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        remedy = advice.to_labels(labels) if labels.shape[:1] == (count,) else ""
        remedy = f"; with x = numpy.load(...): {remedy}" if remedy else ""
        raise ValueError(
            f"{path} holds {labels.dtype} of shape {labels.shape}: labels are {count} integers, "
            f"one for each example{remedy}"
        )
    if count and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"{path} has labels {labels.min()} ... {labels.max()}: for num_classes = {num_classes} "
            f"they must be 0 ... {num_classes - 1}"
        )
    return labels.astype(np.int32)
