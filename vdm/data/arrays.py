"""Data sets of our own format: `train.npy` and `test.npy` of uint8 codes, memory-mapped on reading.

For sets that are too large to decode into memory at each start. Beside the arrays, `dataset.json`
has each split's number of examples, size in bytes and fingerprint, so that reading need not hash
gigabytes. A set is written to `<name>.partial` and renamed when it is whole and on the disk.
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
except ImportError:  # a Python that was built without it
    from zlib import error as LZMAError

FACTS = "dataset.json"

# What numpy.load raises, beside OSError, for a file that is none, is damaged, or whose header asks
# for the impossible: of an .npy by its parser, of an .npz by zipfile. A flipped bit may stand for a
# compression that is not known, or a password (RuntimeError).
UNREADABLE = (
    ValueError, TypeError, EOFError, SyntaxError, OverflowError, MemoryError, RuntimeError,
    tokenize.TokenError, zipfile.BadZipFile, zlib.error, LZMAError,
)  # fmt: skip


def fingerprint(examples: np.ndarray) -> str:
    """ "sha256:..." of dtype, shape and bytes of the examples in order."""
    digest = hashlib.sha256(f"{examples.dtype} {examples.shape}\n".encode())
    digest.update(np.ascontiguousarray(examples).data)
    return f"sha256:{digest.hexdigest()}"


class ArrayFile:
    """An .npy of codes [N, *shape] that is written row by row, in any order."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.path, self.shape = path, shape
        self._row_size = int(np.prod(shape[1:]))
        self._file = path.open("wb")
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)
        self._start = self._file.tell()

    def put(self, first_row: int, codes: np.ndarray) -> None:
        """Writes uint8 codes [n, *shape] to the rows from `first_row` on."""
        assert codes.dtype == np.uint8
        assert codes.shape[1:] == self.shape[1:]
        # Writes rather than a memory map: a full disk is an error then, not a signal.
        self._file.seek(self._start + first_row * self._row_size)
        self._file.write(np.ascontiguousarray(codes).data)

    def close(self) -> None:
        """Brings everything to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


@contextlib.contextmanager
def new_set(folder: Path) -> Iterator[Path]:
    """A folder to write a set to; when the block ends well it is on the disk and becomes `folder`.

    What an earlier attempt left is deleted first. ValueError when `folder` is there.
    """
    if folder.exists():
        raise ValueError(f"{folder} is there and is no whole set: delete it, or move it away")
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
    """Returns once a file's bytes, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def describe(folder: Path, name: str) -> None:
    """Writes `dataset.json` about the `train.npy` and `test.npy` in the folder."""
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
    """A split on the disk: codes [N, *shape], memory-mapped, labels [N] or None, fingerprint."""

    examples: np.ndarray
    labels: np.ndarray | None
    fingerprint: str


def read_split(folder: Path, split: str, shape: tuple[int, ...], num_classes: int) -> Stored:
    """One split of the set in `folder`, with its labels 0 ... num_classes - 1, if it has classes.

    Raises:
        ValueError: it is not prepared, or its files are not what `dataset.json` says.
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
            if size != facts.get("labels_bytes", size):  # what was prepared earlier lacks it
                raise ValueError(f"{path.name} has {size:,} bytes")
        return Stored(examples, labels, facts["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise ValueError(
            f"the data set at {folder} is damaged ({error}): delete that folder and {remedy}"
        ) from error


def map_codes(path: Path, num_codes: int = 256) -> np.ndarray:
    """The uint8 array of an .npy, memory-mapped; num_codes: of which a message is, for others.

    Raises:
        ValueError: it cannot be read or holds something else.
    """
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, *UNREADABLE) as error:
        reason = getattr(error, "strerror", None) or "it is no .npy of numbers"
        raise ValueError(f"cannot read {path}: {reason}; numpy.save writes such a file") from error
    if not isinstance(found, np.ndarray):
        raise ValueError(
            f"{path} holds several arrays ({', '.join(found.files)}): numpy.save one of them to an "
            ".npy of its own"
        )
    if found.dtype != np.uint8:
        raise ValueError(
            f"{path} holds {advice.describe(found)}: codes are uint8 of shape [N, ...]; with x = "
            f"numpy.load(...): {advice.to_codes(found, num_codes)}"
        )
    if found.ndim < 2:
        raise ValueError(
            f"{path} holds {found.dtype} of shape {found.shape}: codes have shape [N, ...], N "
            "examples first"
        )
    if not found.size:
        raise ValueError(f"{path} is empty, of shape {found.shape}: give it an example or more")
    return found.view(np.ndarray)  # rows gathered from it are then plain arrays


def largest(codes: np.ndarray) -> int:
    """The largest code; a mapped array is read in parts."""
    return max(int(codes[start : start + 4096].max()) for start in range(0, len(codes), 4096))


def read_labels(path: Path, count: int, num_classes: int) -> np.ndarray:
    """int32 labels [count] of an .npy.

    Raises:
        ValueError: it cannot be read, or holds something else than integers 0 ... num_classes - 1.
    """
    try:
        labels = np.load(path, allow_pickle=False)
    except (OSError, *UNREADABLE) as error:
        reason = getattr(error, "strerror", None) or "it is no .npy of numbers"
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
            f"{path} has labels {labels.min()} ... {labels.max()}: of {num_classes} classes "
            f"(num_classes) they are 0 ... {num_classes - 1}"
        )
    return labels.astype(np.int32)
