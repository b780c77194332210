"""Prepares both versions of downsampled ImageNet, 32 x 32 and 64 x 64, from their original files.

"old" is the set of van den Oord et al. (2016): PNGs without labels, 1,281,149 for training and
49,999 for validation, which become "test". "new" is the set that replaced it: batches of NumPy
arrays with labels, 1,281,167 and 50,000. Bits/dim on the two cannot be compared, so they have
different names, and the number of validation images tells which one a folder holds.
"""

import dataclasses
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from vdm.data.arrays import ArrayFile, describe, new_set
from vdm.data.imagenet_files import Batches, Pictures, Reader
from vdm.io.streams import Forgiving, write


@dataclasses.dataclass(frozen=True)
class Version:
    """The number of images in each split, and of classes (0 without labels)."""

    num_train: int
    num_test: int
    num_classes: int


VERSIONS: Mapping[str, Version] = {
    "old": Version(1_281_149, 49_999, 0),
    "new": Version(1_281_167, 50_000, 1000),
}


def parse(name: str) -> tuple[int, str]:
    """Splits a name such as "imagenet32_old" into (32, "old")."""
    match = re.fullmatch(r"imagenet(32|64)_(old|new)", name)
    assert match
    return int(match[1]), match[2]


def prepare(
    name: str, data_dir: Path, origin: Path | None, versions: Mapping[str, Version] = VERSIONS
) -> None:
    """Writes `<data_dir>/<name>`: train.npy, test.npy, dataset.json and, for "new", the labels.

    Rows are in the order of the file names, or of the batches.

    Args:
        name: "imagenet32_old" and the like.
        origin: the folder of the original files, which have no open address.

    Raises:
        ValueError: the files are missing, belong to the other version, or are damaged.
    """
    size, version = parse(name)
    if origin is None or not origin.is_dir():
        raise ValueError(
            f"{name} cannot be downloaded from an open address: get its files from image-net.org "
            "and name their folder with --from=FOLDER"
        )
    facts = versions[version]
    reader = find_reader(origin, size, facts)
    _check_version(name, reader.num_test(), origin, versions)
    if facts.num_classes and not reader.has_labels:
        raise ValueError(
            f"--from={origin} has pictures without labels, but {name} has labels: name the folder "
            f"with its {Batches.describe_files(size)}"
        )
    with new_set(data_dir / name) as folder:
        for split, count in (("test", facts.num_test), ("train", facts.num_train)):
            _write(folder, split, (count, size, size, 3), reader, origin)
            write(sys.stdout, f"{split}: {count:,} images\n")
        describe(folder, name)


def find_reader(origin: Path, size: int, facts: Version) -> Reader:
    """Finds a reader for the files in the folder, PNGs or batches. If the folder has both, it takes
    the kind that this version is published in."""
    kinds = (Batches, Pictures) if facts.num_classes else (Pictures, Batches)
    for kind in kinds:
        reader = kind.find(origin, size)
        if reader is not None:
            return reader
    raise ValueError(
        f"--from={origin} has no {kinds[0].describe_files(size)}: name the folder that has them"
    )


def _check_version(name: str, num_test: int, origin: Path, versions: Mapping[str, Version]) -> None:
    size, version = parse(name)
    if num_test == versions[version].num_test:
        return
    for other, facts in versions.items():
        if facts.num_test == num_test:
            raise ValueError(
                f"--from={origin} has {num_test:,} validation images: it is imagenet{size}_{other},"
                f" not {name}, and their bits/dim cannot be compared; prepare it as "
                f"imagenet{size}_{other}"
            )
    raise ValueError(
        f"--from={origin} has {num_test:,} validation images, but {name} has "
        f"{versions[version].num_test:,}: get its files again"
    )


def _write(folder: Path, split: str, shape: tuple[int, ...], reader: Reader, origin: Path) -> None:
    """Writes `<split>.npy` and, if there are labels, `<split>_labels.npy`."""
    count = shape[0]
    labels = np.full(count, -1, np.int32)
    file, num_rows = ArrayFile(folder / f"{split}.npy", shape), 0
    for row, codes, some in _with_bar(reader.parts(split, count), split, count):
        if row + len(codes) > count:
            raise _wrong_number(split, f"more than {count:,}", count, origin)
        file.put(row, codes)
        num_rows += len(codes)
        if some is not None:
            labels[row : row + len(some)] = some
    file.close()
    if num_rows != count:
        raise _wrong_number(split, f"{num_rows:,}", count, origin)
    if (labels >= 0).any():
        np.save(folder / f"{split}_labels.npy", labels)


def _wrong_number(split: str, images: str, count: int, origin: Path) -> ValueError:
    return ValueError(
        f"--from={origin} has {images} images of split {split!r}, but should have {count:,}: get "
        "its files again"
    )


def _with_bar(parts: Iterator, split: str, count: int) -> Iterator:
    """Yields the same parts and shows a progress bar on a terminal."""
    from tqdm import tqdm

    stream = Forgiving(sys.stderr)
    with tqdm(desc=split, total=count, leave=False, disable=None, file=stream) as bar:
        for part in parts:
            yield part
            bar.update(len(part[1]))
