"""Reads prepared tensorflow_datasets (TFDS) sets from disk into one array, without TensorFlow.

A set is prepared if `<data_dir>/<name>/<version>/dataset_info.json` exists: TFDS writes that file
into a temporary folder and renames the folder last. This module checks for it before it calls TFDS,
which tries the network for minutes if a set is missing.
"""

import contextlib
import io
import os
import pathlib
import re
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np

from vdm.data.downloads import ORIGINALS
from vdm.io.places import check_local

# Records decoded at a time: TFDS returns a list of dicts, which for a whole set would take
# several times the memory of the array.
_CHUNK = 1024


def resolve_data_dir(data_dir: str) -> pathlib.Path:
    """`data_dir` as an absolute path; "" means $VDM_DATA_DIR or, if unset, ~/.cache/vdm/data."""
    chosen = data_dir or os.environ.get("VDM_DATA_DIR") or "~/.cache/vdm/data"
    check_local("data.data_dir", chosen)
    return pathlib.Path(chosen).expanduser().absolute()


def is_prepared(folder: pathlib.Path) -> bool:
    """Whether `folder`, `<data_dir>/<name>/<version>`, holds a complete TFDS set."""
    return os.path.isfile(folder / "dataset_info.json")


def state_of(folder: pathlib.Path) -> Hashable:
    """The name, inode, size and time of change of every file in `folder`: while these are equal, no
    file has been written or replaced. If they cannot be told, the state is equal to no other."""
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.stat()) for entry in entries]
    except OSError:
        return object()
    return tuple(
        sorted((name, stat.st_ino, stat.st_size, stat.st_ctime_ns) for name, stat in found)
    )


def find_version(data_dir: pathlib.Path, dataset: str, version: str) -> str:
    """The version of `dataset` to read: `version` itself, or for "" the newest prepared one.

    Raises:
        ValueError: it is not prepared; the message has the command that prepares it.
    """
    parent = data_dir / dataset
    names = os.listdir(parent) if parent.is_dir() else []
    prepared = [n for n in names if re.fullmatch(r"\d+\.\d+\.\d+", n) and is_prepared(parent / n)]
    prepared.sort(key=lambda name: tuple(int(part) for part in name.split(".")))
    if version in prepared:
        return version
    if prepared and not version:
        return prepared[-1]
    if prepared:
        raise ValueError(
            f"data set {dataset!r} has no version {version} in {data_dir} (prepared versions: "
            f"{', '.join(prepared)}): set data.kwargs.version to one of them, or to '' for the "
            "newest"
        )
    raise ValueError(
        f"data set {dataset!r} is not prepared: no file "
        f"{parent / (version or '<version>') / 'dataset_info.json'}; prepare it once with "
        f"`{_command(dataset, data_dir)}`, or point "
        "--config.data.data_dir at a folder that has it"
    )


def _command(dataset: str, data_dir: pathlib.Path) -> str:
    if dataset in ORIGINALS:
        return f"python -m vdm.data.prepare {dataset} --data_dir={data_dir}"
    return f"tfds build {dataset} --data_dir={data_dir} --file_format=array_record"


def read_records(
    data_dir: pathlib.Path,
    dataset: str,
    version: str,
    split: str,
    shape: tuple[int, ...],
    sort_by: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """Reads a whole prepared split: uint8 examples [N, *shape] and int32 labels [N].

    Args:
        data_dir: the TFDS root; `<data_dir>/<dataset>/<version>` must be prepared.
        split: a split of the set, "train" or "test".
        shape: the shape that each record's "image" must have.
        sort_by: the integer feature to sort by; "" keeps the order of TFDS, which is fixed but
            shuffled by a hash of the record keys.

    Raises:
        ValueError: the files cannot be read, or hold images of another shape or type.
    """
    import tensorflow_datasets as tfds

    folder = data_dir / dataset / version
    try:
        with quiet_tfds():
            records: Any = tfds.data_source(
                f"{dataset}:{version}", split=split, data_dir=str(data_dir), download=False
            )
            examples = np.empty((len(records), *shape), np.uint8)
            labels = np.empty(len(records), np.int32)
            order = np.arange(len(records))
            for start in range(0, len(records), _CHUNK):
                keys = range(start, min(start + _CHUNK, len(records)))
                for row, record in zip(keys, records.__getitems__(list(keys)), strict=True):
                    _check_image(record["image"], shape, folder)
                    examples[row], labels[row] = record["image"], record["label"]
                    order[row] = record[sort_by] if sort_by else row
    except _WrongImages:
        raise
    except Exception as error:  # array_record, protobuf and PIL raise their own exception types
        raise ValueError(
            f"cannot read split {split!r} of the data set at {folder}: {first_line(error)}; "
            "delete that folder and prepare the set again (as array_record)"
        ) from error
    by_order = np.argsort(order, kind="stable")
    return examples[by_order], labels[by_order]


class _WrongImages(ValueError):
    """The files are readable but do not have the stated shape or type."""


def _check_image(image: np.ndarray, shape: tuple[int, ...], folder: pathlib.Path) -> None:
    if image.shape != shape or image.dtype != np.uint8:
        raise _WrongImages(
            f"the data set at {folder} has {image.dtype} images of shape {image.shape}, but the "
            f"source expects uint8 of shape {shape}; set --config.data.kwargs.shape to the "
            "shape of the images"
        )


def first_line(error: BaseException) -> str:
    """The reason for an error in one line; messages of TFDS and its C++ parts have many."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """Silences TFDS inside the block: its prints to stdout, its progress bars and its warnings."""
    import tensorflow_datasets as tfds
    from absl import logging

    tfds.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
