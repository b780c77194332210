"""MNIST, Fashion-MNIST and CIFAR-10 as TFDS sets in array_record, written without TensorFlow.

Names, versions, features and record keys are those of tensorflow_datasets, which shuffles by a hash
of the keys, so a set has the records of `tfds build` in the same order. The builders of
tensorflow_datasets need TensorFlow to read files and encode images, which is why these exist.
"""

import dataclasses
import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from vdm.data.downloads import ORIGINALS, Original, fetch, find
from vdm.data.records import first_line
from vdm.data.tfds_writer import refuse_to_replace, write

Arrays = tuple[np.ndarray, np.ndarray]

# SHA-1 of the files in CIFAR-10's archive, to verify a folder of extracted files.
CIFAR10_SHA1: Mapping[str, str] = {
    "data_batch_1.bin": "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
    "data_batch_2.bin": "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
    "data_batch_3.bin": "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
    "data_batch_4.bin": "aab85764eb3584312d3c7f65fd2fd016e36a258e",
    "data_batch_5.bin": "26e2849e66a845b7f1e4614ae70f4889ae604628",
    "test_batch.bin": "67eb016db431130d61cd03c7ad570b013799c88c",
}

_DIGITS = tuple("0123456789")
_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
            "Bag", "Ankle boot")  # fmt: skip
_OBJECTS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship",
            "truck")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """The facts that TFDS records about a set, and how to read its original files.

    Attributes:
        shape: [H, W, C] of an image.
        classes: the names of labels 0, 1, ...
        with_id: whether records have an "id" such as train_00007.
        find: (published files, path given by the user) -> paths for `read`.
        read: (files) -> {split: (uint8 images [N, *shape], labels [N])}.
    """

    name: str
    version: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    homepage: str
    with_id: bool
    find: Callable[[Sequence[Original], Path], list[Path]]
    read: Callable[[Sequence[Path]], dict[str, Arrays]]


def read_idx(paths: Sequence[Path]) -> dict[str, Arrays]:
    """Reads the four files of an MNIST: training images and labels, test images and labels."""
    train_images, train_labels, test_images, test_labels = (_read_idx(path) for path in paths)
    return {
        "train": (train_images[..., None], train_labels),
        "test": (test_images[..., None], test_labels),
    }


def _read_idx(path: Path) -> np.ndarray:
    try:
        content = gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path} is not a complete .gz ({first_line(error)}): get it again"
        ) from error
    # Two zero bytes, 8 for unsigned bytes, the number of axes; then their lengths, big-endian.
    if content[:3] != b"\0\0\x08":
        raise ValueError(f"{path} does not hold unsigned bytes in the idx format: get it again")
    num_axes = content[3]
    shape = np.frombuffer(content, ">u4", num_axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * num_axes).reshape(shape)


def find_cifar10(files: Sequence[Original], origin: Path) -> list[Path]:
    """Finds CIFAR-10's archive or the folder of its .bin files, at `origin` or inside it."""
    for path in (origin / files[0].name, origin / "cifar-10-batches-bin"):
        if path.exists():
            return [path]
    return [origin]


def read_cifar10(
    paths: Sequence[Path], sums: Mapping[str, str] = CIFAR10_SHA1
) -> dict[str, Arrays]:
    """Reads CIFAR-10 from its archive or the folder of its .bin files, and checks their SHA-1.

    Raises:
        ValueError: a file is missing or differs from the published one.
    """
    (path,) = paths
    parts = {}
    for name, content in _members(path, sums):
        if hashlib.sha1(content).hexdigest() != sums[name]:
            raise ValueError(
                f"{name} in {path} is not the published file: its SHA-1 differs; get "
                f"{ORIGINALS['cifar10'][0].url} again"
            )
        rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
        parts[name] = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0]
    train = [parts[name] for name in sums if name != "test_batch.bin"]
    images, labels = (np.concatenate(arrays) for arrays in zip(*train, strict=True))
    return {"train": (images, labels), "test": parts["test_batch.bin"]}


def _members(path: Path, names: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        missing = [name for name in names if not (path / name).is_file()]
        if missing:
            raise ValueError(
                f"--from={path} has no {', '.join(missing)}: name the folder with the .bin files "
                "of CIFAR-10's binary version, or its archive cifar-10-binary.tar.gz"
            )
        yield from ((name, (path / name).read_bytes()) for name in names)
        return
    try:
        with tarfile.open(path) as archive:
            for name in names:
                opened = archive.extractfile(f"cifar-10-batches-bin/{name}")
                assert opened is not None
                yield name, opened.read()
    except (tarfile.TarError, KeyError, EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{path} is not an archive of CIFAR-10's binary version ({first_line(error)}): give "
            "cifar-10-binary.tar.gz or the folder of its .bin files"
        ) from error


SETS: dict[str, ImageSet] = {
    one.name: one
    for one in (
        ImageSet(
            "mnist", "3.0.1", (28, 28, 1), _DIGITS, "http://yann.lecun.com/exdb/mnist/", False,
            find, read_idx,
        ),
        ImageSet(
            "fashion_mnist", "3.0.1", (28, 28, 1), _CLOTHES,
            "https://github.com/zalandoresearch/fashion-mnist", False, find, read_idx,
        ),
        ImageSet(
            "cifar10", "3.0.2", (32, 32, 3), _OBJECTS,
            "https://www.cs.toronto.edu/~kriz/cifar.html", True, find_cifar10,
            read_cifar10,
        ),
    )
}  # fmt: skip


def build_writer(facts: ImageSet, arrays: dict[str, Arrays], data_dir: Path) -> Any:
    """Makes the TFDS builder that writes these arrays below `data_dir`."""

    class Writer(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = facts.name
        VERSION = tfds.core.Version(facts.version)

        def _info(self) -> tfds.core.DatasetInfo:
            features: dict[str, Any] = {
                "image": tfds.features.Image(shape=facts.shape),
                "label": tfds.features.ClassLabel(names=facts.classes),
            }
            if facts.with_id:
                features["id"] = tfds.features.Text()
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
                homepage=facts.homepage,
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
            del dl_manager  # the files have been read already
            return {split: self._generate_examples(split) for split in arrays}

        def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
            from PIL import Image

            for index, (codes, label) in enumerate(zip(*arrays[split], strict=True)):
                grey = codes.shape[-1] == 1
                # A PIL image, because TFDS needs TensorFlow to encode NumPy arrays.
                record: dict[str, Any] = {
                    "image": Image.fromarray(codes[..., 0] if grey else codes),
                    "label": int(label),
                }
                if facts.with_id:
                    record["id"] = f"{split}_{index:05d}"
                yield index, record  # the index is the key, whose hash gives the position

    return Writer(data_dir=str(data_dir), file_format="array_record")


def prepare(
    facts: ImageSet, data_dir: Path, origin: Path | None, files: Sequence[Original]
) -> None:
    """Writes the set to `<data_dir>/<name>/<version>`.

    Args:
        origin: where the original files are; None downloads them to `<data_dir>/downloads/<name>`.
        files: the published files.

    Raises:
        ValueError: the files are missing or differ from the published ones, or the folder exists
            or cannot be written.
    """
    folder = data_dir / facts.name / facts.version
    refuse_to_replace(folder)  # before the download
    if origin is None:
        paths = fetch(files, data_dir / "downloads" / facts.name)
    else:
        paths = facts.find(files, origin)
    arrays = facts.read(paths)
    write(lambda: build_writer(facts, arrays, data_dir), folder)
